//! What providers tell of emails and people, read from the events as they stand in `FEEDBACK`.
mod unsubscribe;

use dripline_actors::ports::{FeedbackError, FeedbackReader};
use dripline_domain::Feedback;

pub use unsubscribe::{UNSUBSCRIBE, UnsubscribeEvent, UnsubscribeKind};

/// Reads the events of every provider.
#[derive(Debug, Clone, Copy, Default)]
pub struct Webhooks;

impl FeedbackReader for Webhooks {
    fn read(&self, provider: &str, payload: &[u8]) -> Result<Vec<Feedback>, FeedbackError> {
        match provider {
            UNSUBSCRIBE => unsubscribe::read(payload),
            other => Err(FeedbackError(format!("there is no provider `{other}`"))),
        }
    }
}
