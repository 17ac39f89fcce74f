//! The actor tree that carries out what [`dripline_domain`] decides, and the ports it needs of the world.
//!
//! Start at [`Engine`], which shows the tree; [`ports`] says what must be given to it. Each actor is a module, reached
//! from outside by a handle that outlives its restarts.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod alerts;
mod breaker;
mod canary;
mod committer;
mod control;
mod crash_point;
mod due;
mod engine;
mod feedback;
mod intake;
mod leads;
mod limiter;
pub mod metrics;
mod outgoing;
pub mod ports;
mod presence;
mod provider;
mod pump;
mod shares;
mod slot;
mod statistics;
mod sweeper;
mod timer;
pub mod trace;
mod watch;

use std::error::Error;
use std::fmt;

pub use alerts::AlertSettings;
pub use breaker::{BreakerLimits, Opened};
pub use canary::{CanaryPorts, Evidence};
pub use committer::CommitError;
pub use control::{ControlError, Controller, Obeyed, Order, OrderedAction, ProviderStatus};
pub use engine::{Engine, Ports, Settings, StartError};
pub use leads::LeadLimits;
pub use limiter::Rate;
pub use outgoing::Subscriber;
pub use provider::Providers;
pub use slot::NotRunning;
pub use statistics::replay;
pub use timer::{NotATimer, Timer};
pub use watch::{Watch, WatchPorts};

/// Shows an error with all its sources, in one line: `the lead store is unavailable: timed out`.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
