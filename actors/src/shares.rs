use std::sync::{Arc, Mutex, PoisonError};

use crate::ports::{Acknowledge, Delivery, Settle, Settlement};

/// Makes deliveries of what one message holds. The message is settled once all of them are: again if one of them must be.
pub(crate) fn shares(delivery: Delivery) -> impl Fn() -> Delivery {
    let Delivery { subject, payload, content_type, message_id, sequence, published, deliveries, trace, settlement } =
        delivery;
    let whole = Arc::new(Mutex::new(Whole { settlement: Some(settlement), how: Settle::Ack }));
    move || Delivery {
        subject: subject.clone(),
        payload: payload.clone(),
        content_type: content_type.clone(),
        message_id: message_id.clone(),
        sequence,
        published,
        deliveries,
        trace: trace.clone(),
        settlement: Settlement::new(Share(Arc::clone(&whole))),
    }
}

/// A message that is settled when the last share of it is gone.
struct Whole {
    settlement: Option<Settlement>,
    how: Settle,
}

struct Share(Arc<Mutex<Whole>>);

impl Acknowledge for Share {
    fn settle(self: Box<Self>, how: Settle) {
        let mut whole = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        whole.how = match (whole.how, how) {
            (Settle::Retry(one), Settle::Retry(other)) => Settle::Retry(one.max(other)),
            (retry @ Settle::Retry(_), Settle::Ack | Settle::Terminate)
            | (Settle::Ack | Settle::Terminate, retry @ Settle::Retry(_)) => retry,
            (Settle::Ack, Settle::Ack) => Settle::Ack,
            (Settle::Terminate, Settle::Ack | Settle::Terminate) | (Settle::Ack, Settle::Terminate) => {
                Settle::Terminate
            }
        };
    }

    fn in_progress(&self) {
        if let Some(settlement) = &self.0.lock().unwrap_or_else(PoisonError::into_inner).settlement {
            settlement.in_progress();
        }
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if let Some(settlement) = self.settlement.take() {
            settlement.settle(self.how);
        }
    }
}
