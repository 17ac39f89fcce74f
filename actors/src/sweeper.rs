//! The sweeper: sets the timer of every lead that waits for something and has none.
//!
//! Timers are written without fsync, because they can be rebuilt from the leads; this is where they are. It is the one
//! that reads every lead, and so it counts them by status, too.
use std::collections::HashMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use dripline_domain::Timestamp;
use futures_util::{StreamExt, TryStreamExt};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::watch;

use crate::Chain;
use crate::metrics::Metrics;
use crate::ports::{Clock, Ledger, Scanned, StoreError, Timers};

/// Timers that are being set at a time: bounds memory and the load on the server.
const AT_ONCE: usize = 256;

/// What the sweeper is told.
pub(crate) enum Message {
    /// Sweep once, then wait for the next occasion.
    Sweep,
}

pub(crate) struct SweeperActor;

pub(crate) struct SweeperArguments {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) timers: Arc<dyn Timers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) every: Duration,
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Actor for SweeperActor {
    type Msg = Message;
    type State = SweeperArguments;
    type Arguments = SweeperArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: SweeperArguments,
    ) -> Result<SweeperArguments, ActorProcessingErr> {
        myself.cast(Message::Sweep)?;
        Ok(arguments)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        Message::Sweep: Message,
        state: &mut SweeperArguments,
    ) -> Result<(), ActorProcessingErr> {
        let mut stopping = state.stopping.clone();
        tokio::select! {
            () = state.sweep_and_wait() => myself.cast(Message::Sweep)?,
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        Ok(())
    }
}

impl SweeperArguments {
    async fn sweep_and_wait(&self) {
        match self.sweep().await {
            Ok(0) => tracing::debug!("every waiting lead has its timer"),
            Ok(mended) => tracing::info!(mended, "set the timers of leads that had none"),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "the sweep was interrupted; sweeping again soon");
                tokio::time::sleep(Duration::from_secs(5)).await;
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(self.every) => {}
            () = self.ledger.reconnected() => tracing::info!("connected again: sweeping"),
        }
    }

    async fn sweep(&self) -> Result<u64, StoreError> {
        let mut leads = HashMap::new();
        let waiting = self.ledger.scan().await?.try_filter_map(|scanned| {
            if let Some(status) = scanned.status {
                *leads.entry(status).or_default() += 1;
            }
            let Scanned { key, next_action, generation, has_timer, status: _ } = scanned;
            ready(Ok(next_action.filter(|_| !has_timer).map(|at| (key, at, generation))))
        });
        let mut set = waiting
            .map(|waiting| async {
                let (key, at, generation) = waiting?;
                self.timers
                    .set_if_absent(&key, at, generation)
                    .await
                    .map_err(|error| StoreError::Unavailable(error.0))?;
                self.metrics.timers_mended.increment(1);
                Ok::<_, StoreError>(1)
            })
            .buffer_unordered(AT_ONCE);
        let mut mended = 0;
        while let Some(one) = set.next().await {
            mended += one?;
        }
        drop(set);
        self.metrics.counted(&leads);
        self.metrics.swept.set(self.clock.now().since(Timestamp::from_millis(0)));
        Ok(mended)
    }
}
