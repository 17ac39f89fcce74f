//! What providers and people tell us: each event read, its suppression written down, and handed to its lead.
use std::sync::Arc;
use std::time::Duration;

use dripline_domain::{Feedback, LeadIdKey, LeadKey};

use crate::Chain;
use crate::crash_point::crash_point;
use crate::intake::{hand_over, reject};
use crate::leads::Services;
use crate::ports::{Delivery, FeedbackReader, Settle};
use crate::pump::Consume;
use crate::shares::shares;

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
                // Should one of them be delivered again, telling the others again changes nothing.
                let share = shares(delivery);
                for feedback in told {
                    self.take(feedback, share());
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
        tracing::debug!(%lead_id, provider = feedback.provider.as_str(), kind = ?feedback.kind, "feedback arrived");
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
