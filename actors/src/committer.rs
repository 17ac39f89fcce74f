//! The committer: group commit. While one batch is in flight the next one fills, so that one fsync serves hundreds of
//! leads; one that is full goes beside it. A batch that is refused for one lost revision costs only the losers a reload; the
//! rest go into the next.
use std::sync::Arc;
use std::time::Instant;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use crate::crash_point::crash_point;
use crate::metrics::{Metrics, number};
use crate::ports::{BatchResult, Fate, JournalLines, LeadStore, Put, Revision};
use crate::slot::{NotRunning, Slot};

/// Puts in one batch. A batch has at most 1,000 messages (ADR-50), and the journal needs some of them.
const BATCH_PUTS: usize = 990;
/// Journal bytes in one batch: within one message of the server's default `max_payload` of 1 MiB.
const BATCH_JOURNAL_BYTES: usize = 768 * 1024;
/// Batches in flight at a time; all but one of them full. No lead is in two of them: it waits for its own.
const IN_FLIGHT: usize = 2;
/// So often a put goes into a batch that fails for reasons not its own, before its lead is told.
const TRIES: u32 = 5;

/// Why a document was not written.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another write came first: reload and decide again.
    #[error("another write came first")]
    Conflict,
    /// Whether it was written is not known: reload and look.
    #[error("the lead store did not answer")]
    Unavailable,
    /// The committer is being restarted, or the engine is stopping.
    #[error(transparent)]
    NotRunning(#[from] NotRunning),
}

/// Reaches the committer.
#[derive(Clone)]
pub struct Committer {
    slot: Slot<Message>,
}

impl Committer {
    pub(crate) fn new() -> Self {
        Self { slot: Slot::empty() }
    }

    /// Writes one document and its journal lines; they are on disk when this returns the new revision.
    pub async fn commit(&self, put: Put, journal: JournalLines) -> Result<Revision, CommitError> {
        self.pend(Some(put), journal).await
    }

    /// Writes journal lines that belong to no document. On disk when it returns; a line may be there twice where an answer
    /// was lost.
    pub async fn journal(&self, journal: JournalLines) -> Result<(), CommitError> {
        self.pend(None, journal).await.map(drop)
    }

    async fn pend(&self, put: Option<Put>, journal: JournalLines) -> Result<Revision, CommitError> {
        let (reply, answer) = oneshot::channel();
        self.slot.cast("committer", Message::Commit(Pending { put, journal, tries: 0, reply }))?;
        answer.await.map_err(|_| CommitError::Unavailable)?
    }

    pub(crate) fn actor(
        &self,
        store: Arc<dyn LeadStore>,
        metrics: Arc<Metrics>,
    ) -> (CommitterActor, CommitterArguments) {
        (CommitterActor, CommitterArguments { slot: self.slot.clone(), store, metrics })
    }
}

/// What the committer is told.
pub(crate) enum Message {
    /// A lead wants its document written, or a line of the journal.
    Commit(Pending),
    /// A batch came back; these are not settled yet and go into the next.
    Settled(Vec<Pending>),
}

pub(crate) struct Pending {
    /// None where there is but a line of the journal.
    put: Option<Put>,
    journal: JournalLines,
    tries: u32,
    reply: oneshot::Sender<Result<Revision, CommitError>>,
}

pub(crate) struct CommitterActor;

pub(crate) struct CommitterArguments {
    slot: Slot<Message>,
    store: Arc<dyn LeadStore>,
    metrics: Arc<Metrics>,
}

pub(crate) struct CommitterState {
    store: Arc<dyn LeadStore>,
    metrics: Arc<Metrics>,
    filling: Vec<Pending>,
    in_flight: usize,
}

impl Actor for CommitterActor {
    type Msg = Message;
    type State = CommitterState;
    type Arguments = CommitterArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: CommitterArguments,
    ) -> Result<CommitterState, ActorProcessingErr> {
        let CommitterArguments { slot, store, metrics } = arguments;
        slot.occupy(myself);
        Ok(CommitterState { store, metrics, filling: Vec::new(), in_flight: 0 })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut CommitterState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Commit(pending) => state.filling.push(pending),
            Message::Settled(mut again) => {
                state.in_flight = state.in_flight.saturating_sub(1);
                // They were first: they stay first.
                again.append(&mut state.filling);
                state.filling = again;
            }
        }
        state.flush(&myself);
        Ok(())
    }
}

impl CommitterState {
    fn flush(&mut self, myself: &ActorRef<Message>) {
        let is_full = self.filling.len() >= BATCH_PUTS;
        if self.filling.is_empty() || self.in_flight >= IN_FLIGHT || self.in_flight > 0 && !is_full {
            return;
        }
        let mut journal_bytes = 0;
        let fits = self
            .filling
            .iter()
            .take(BATCH_PUTS)
            .take_while(|pending| {
                journal_bytes += pending.journal.len();
                journal_bytes <= BATCH_JOURNAL_BYTES
            })
            .count()
            .max(1);
        let rest = self.filling.split_off(fits);
        let batch = std::mem::replace(&mut self.filling, rest);
        self.in_flight += 1;
        let (store, metrics, myself) = (Arc::clone(&self.store), Arc::clone(&self.metrics), myself.clone());
        let write = tokio::spawn(async move { write(&*store, &metrics, batch).await });
        tokio::spawn(async move {
            // A panic drops the reply channels: each lead of the batch reloads.
            let again = write.await.unwrap_or_default();
            // Fails only when the actor is gone, and then the leads see their reply channels close.
            let _ = myself.cast(Message::Settled(again));
        });
    }
}

/// Writes a batch and tells each lead what became of its document; gives back those that must be tried again.
async fn write(store: &dyn LeadStore, metrics: &Metrics, batch: Vec<Pending>) -> Vec<Pending> {
    let mut puts = Vec::with_capacity(batch.len());
    let mut waiting = Vec::with_capacity(batch.len());
    for Pending { put, journal, tries, reply } in batch {
        waiting.push((put.is_some(), journal, tries, reply));
        puts.extend(put);
    }
    let mut lines = JournalLines::default();
    for (_, journal, ..) in &waiting {
        lines.append(journal);
    }
    let journal_bytes = lines.len();
    let began = Instant::now();
    crash_point("batch-filled");
    let result = store.write(&puts, lines).await;
    crash_point("batch-stored");
    metrics.commit.record(began.elapsed());
    metrics.batch.record(number(puts.len()));
    tracing::debug!(puts = puts.len(), journal_bytes, micros = began.elapsed().as_micros(), "batch");
    // A line alone cannot be read back: where it is not surely written, it is written again.
    let (fates, of_lines) = match result {
        BatchResult::Written(revisions) => (revisions.into_iter().map(Fate::Written).collect(), Fate::Written(0)),
        BatchResult::Refused => (examine(store, &puts).await, Fate::Open),
        BatchResult::Unanswered(error) => {
            tracing::warn!(error = %error, puts = puts.len(), "a batch was not answered; reading what became of it");
            (examine(store, &puts).await, Fate::Open)
        }
    };
    let mut again = Vec::new();
    let mut puts = puts.into_iter().zip(fates);
    for (has_put, journal, tries, reply) in waiting {
        let (put, fate) = if has_put {
            let Some((put, fate)) = puts.next() else { continue };
            (Some(put), fate)
        } else {
            (None, of_lines)
        };
        let answer = match fate {
            Fate::Written(revision) => Ok(revision),
            Fate::Lost => Err(CommitError::Conflict),
            Fate::Open if tries + 1 < TRIES => {
                again.push(Pending { put, journal, tries: tries + 1, reply });
                continue;
            }
            Fate::Open => Err(CommitError::Unavailable),
        };
        // A lead that no longer waits has been stopped; it will find its document as it now is.
        let _ = reply.send(answer);
    }
    again
}

async fn examine(store: &dyn LeadStore, puts: &[Put]) -> Vec<Fate> {
    for pause_ms in [0, 100, 500, 2_000, 5_000] {
        tokio::time::sleep(std::time::Duration::from_millis(pause_ms)).await;
        match store.examine(puts).await {
            Ok(fates) => return fates,
            Err(error) => tracing::warn!(error = %crate::Chain(&error), "could not read what became of a batch"),
        }
    }
    // Nobody knows: each lead reloads before it goes on.
    vec![Fate::Lost; puts.len()]
}
