//! Fired timers: each group is taken apart, and each timer handed to its lead.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::Chain;
use crate::intake::{hand_over, reject};
use crate::leads::Services;
use crate::ports::{Acknowledge, Delivery, Settle, Settlement};
use crate::pump::{Consume, Room};
use crate::shares::shares;
use crate::timer::Timer;

/// When a timer cannot be set again, its whole group comes again so much later.
const AWAY: Duration = Duration::from_secs(2);

/// Reads fired timers.
pub(crate) struct Due {
    pub(crate) services: Arc<Services>,
}

impl Consume for Due {
    fn name(&self) -> &'static str {
        "due"
    }

    fn room(&self) -> Room {
        let now = self.services.clock.now();
        self.services.providers.room(now).and(self.services.limiter.room(now))
    }

    fn split(&self, delivery: Delivery) -> Vec<Delivery> {
        let timers = Timer::split(&delivery.payload);
        let share = shares(delivery);
        let fired = |timer: Bytes| {
            let (delivery, services) = (share(), Arc::clone(&self.services));
            let settlement = Fired { timer: timer.clone(), services, settlement: delivery.settlement };
            Delivery { payload: timer, settlement: Settlement::new(settlement), ..delivery }
        };
        timers.into_iter().map(fired).collect()
    }

    fn consume(&self, mut delivery: Delivery) {
        let timer = match Timer::read(&delivery.payload) {
            Ok(timer) => timer,
            Err(error) => return reject(&self.services, "invalid_timer", error.to_string(), delivery),
        };
        let again = timer.again || delivery.deliveries > 1;
        delivery.trace = timer.trace;
        hand_over(self.services.leads.wake(timer.key, timer.generation, again, delivery));
    }
}

/// A timer that is to come again gets a schedule of its own, so that its group need not wait for it.
struct Fired {
    timer: Bytes,
    services: Arc<Services>,
    settlement: Settlement,
}

impl Acknowledge for Fired {
    fn settle(self: Box<Self>, how: Settle) {
        let Self { timer, services, settlement } = *self;
        let Settle::Retry(delay) = how else { return settlement.settle(how) };
        // Without a runtime the process is ending, and the group is delivered again.
        let (Ok(mut timer), Ok(runtime)) = (Timer::read(&timer), tokio::runtime::Handle::try_current()) else {
            return settlement.settle(how);
        };
        timer.at = services.clock.now().plus(delay);
        timer.again = true;
        runtime.spawn(async move {
            match services.timers.set(timer).await {
                Ok(()) => settlement.settle(Settle::Ack),
                Err(error) => {
                    tracing::debug!(error = %Chain(&error), "a timer could not be set again; its group comes again");
                    settlement.settle(Settle::Retry(delay.max(AWAY)));
                }
            }
        });
    }

    fn in_progress(&self) {
        self.settlement.in_progress();
    }
}
