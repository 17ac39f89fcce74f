//! What providers and people tell us: each event read, its suppression written down, and handed to its lead.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dripline_domain::{Feedback, LeadIdKey, LeadKey};

use crate::Chain;
use crate::crash_point::crash_point;
use crate::intake::{hand_over, reject};
use crate::leads::Services;
use crate::ports::{Acknowledge, Delivery, FeedbackReader, Settle, Settlement};
use crate::pump::Consume;

/// An event of a provider comes on `feedback.<provider>`.
const FEEDBACK_SUBJECT: &str = "feedback.";

/// Where the suppressions are away, the event comes again after this.
const AWAY: Duration = Duration::from_secs(2);

/// Reads the events of providers.
pub(crate) struct FeedbackIntake {
    pub(crate) services: Arc<Services>,
    pub(crate) reader: Arc<dyn FeedbackReader>,
    pub(crate) lead_ids: LeadIdKey,
}

impl Consume for FeedbackIntake {
    fn name(&self) -> &'static str {
        "feedback"
    }

    fn consume(&self, delivery: Delivery) {
        let provider = delivery.subject.strip_prefix(FEEDBACK_SUBJECT).unwrap_or_default();
        match self.reader.read(provider, &delivery.payload) {
            Ok(told) => {
                for (feedback, delivery) in one_each(told, delivery) {
                    self.take(feedback, delivery);
                }
            }
            Err(error) => reject(&self.services, "invalid_feedback", error.to_string(), delivery),
        }
    }
}

impl FeedbackIntake {
    fn take(&self, mut feedback: Feedback, delivery: Delivery) {
        // A clock that is ahead must not make a word the last one for all time to come.
        feedback.occurred_at = feedback.occurred_at.min(delivery.published);
        let key = LeadKey::of(&feedback.address);
        let lead_id = self.lead_ids.lead_id(&feedback.address);
        tracing::debug!(%lead_id, provider = feedback.provider, kind = ?feedback.kind, "feedback arrived");
        let services = Arc::clone(&self.services);
        let Some(known) = feedback.suppression() else {
            return hand_over(services.leads.tell(key, feedback, lead_id, delivery));
        };
        tokio::spawn(async move {
            // Before the lead is told, which may be waiting for a permit: it looks once more before it sends.
            match services.suppressions.record(&feedback.address, &known).await {
                Ok(_) => {
                    crash_point("suppression-recorded");
                    hand_over(services.leads.tell(key, feedback, lead_id, delivery));
                }
                Err(error) => {
                    tracing::warn!(%lead_id, error = %Chain(&error), "a suppression could not be written; its event will be delivered again");
                    delivery.settle(Settle::Retry(AWAY));
                }
            }
        });
    }
}

/// A delivery for each of what one message tells. The message is settled once all of them are: again if one of them must
/// be, since telling the others again changes nothing.
fn one_each(told: Vec<Feedback>, delivery: Delivery) -> impl Iterator<Item = (Feedback, Delivery)> {
    let Delivery { subject, payload, content_type, message_id, sequence, published, deliveries, trace, settlement } =
        delivery;
    let whole = Arc::new(Mutex::new(Whole { settlement: Some(settlement), how: Settle::Ack }));
    told.into_iter().map(move |feedback| {
        let delivery = Delivery {
            subject: subject.clone(),
            payload: payload.clone(),
            content_type: content_type.clone(),
            message_id: message_id.clone(),
            sequence,
            published,
            deliveries,
            trace: trace.clone(),
            settlement: Settlement::new(Part(Arc::clone(&whole))),
        };
        (feedback, delivery)
    })
}

/// A message that is settled when the last of its parts is gone.
struct Whole {
    settlement: Option<Settlement>,
    how: Settle,
}

struct Part(Arc<Mutex<Whole>>);

impl Acknowledge for Part {
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
}

impl Drop for Whole {
    fn drop(&mut self) {
        if let Some(settlement) = self.settlement.take() {
            settlement.settle(self.how);
        }
    }
}
