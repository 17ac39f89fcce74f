//! The actors' ports on NATS JetStream. What stands on the server is declared once, in [`topology`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod alerts;
mod batch;
mod batch_queue;
mod canary;
mod connect;
mod control;
mod controls;
mod direct;
mod feedback_door;
mod figures;
mod front_door;
mod inbox;
mod journal;
mod key_hash;
mod lead_scan;
mod ledger;
mod leftovers;
mod marks;
mod mender;
mod presence;
mod rejected;
mod rejected_list;
mod sequences;
mod statistics;
mod store;
mod suppression_list;
mod suppressions;
mod surveyor;
mod timers;
pub mod topology;
mod watcher;

pub use alerts::JetStreamAlerts;
pub use canary::JetStreamCanary;
pub use connect::{CommitConnection, ConnectError, Connections, Login, connect};
pub use control::{ControlParts, ControlService, ControlStartError, ReadFolder, SERVICE};
pub use controls::JetStreamControls;
use dripline_actors::ports::{Source, StoreError};
pub use feedback_door::JetStreamFeedbackDoor;
pub use figures::{ConsumerFigures, Figures, StreamFigures};
pub use front_door::JetStreamFrontDoor;
pub use inbox::JetStreamInbox;
pub use journal::JetStreamJournal;
pub use lead_scan::{LeadScan, ScannedLead};
pub use ledger::JetStreamLedger;
pub use leftovers::JetStreamLeftovers;
pub use marks::Marks;
pub use mender::Mender;
pub use presence::JetStreamPresence;
pub use rejected::JetStreamRejected;
pub use rejected_list::{RejectedList, RejectedListError, RejectedMessage};
pub use sequences::{PublishError, Selection, SequenceBook, newest_sequences, read_sequence};
pub use statistics::JetStreamStatistics;
pub use store::JetStreamLeadStore;
pub use suppression_list::{Listed, SuppressionChange, SuppressionList, SuppressionListError, Whom};
pub use suppressions::JetStreamSuppressions;
pub use surveyor::JetStreamSurveyor;
pub use timers::JetStreamTimers;

/// In whole milliseconds, as JSON has them.
fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The server is away, or said no to what it should have done.
fn unavailable(error: impl Into<Source>) -> StoreError {
    StoreError::Unavailable(error.into())
}
