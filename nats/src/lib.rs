//! The actors' ports on NATS JetStream. What stands on the server is declared once, in [`topology`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod batch;
mod connect;
mod figures;
mod front_door;
mod inbox;
mod key_hash;
mod ledger;
mod mender;
mod presence;
mod rejected;
mod rejected_list;
mod sequences;
mod store;
mod suppression_list;
mod suppressions;
mod timers;
pub mod topology;

pub use connect::{CommitConnection, ConnectError, Connections, Login, connect};
pub use figures::{ConsumerFigures, Figures, StreamFigures};
pub use front_door::JetStreamFrontDoor;
pub use inbox::JetStreamInbox;
pub use ledger::JetStreamLedger;
pub use mender::Mender;
pub use presence::JetStreamPresence;
pub use rejected::JetStreamRejected;
pub use rejected_list::{RejectedList, RejectedListError, RejectedMessage};
pub use sequences::{PublishError, Selection, SequenceBook, read_sequence};
pub use store::JetStreamLeadStore;
pub use suppression_list::{Suppression, SuppressionChange, SuppressionList, SuppressionListError};
pub use suppressions::JetStreamSuppressions;
pub use timers::JetStreamTimers;
