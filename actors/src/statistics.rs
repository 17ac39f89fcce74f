//! The statistics: reads the journal in order, counts, and pauses a sequence whose guard says so.
//!
//! One engine counts at a time. The counts and the place in the journal are stored together, under a revision: whoever
//! loses it steps back, and takes over when the journal has more and nobody has stored anything for a while.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dripline_domain::{Counted, CountingRules, JournalLine, SmolStr, Timestamp};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::watch;

use crate::Chain;
use crate::ports::{
    Control, Controlled, Controls, Journal, JournalMessage, MOST_CHANGED, Revision, SaveError, StatisticsStore,
    StoreError, Tally,
};

/// How often the counts are stored, where they change.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// At the end of the journal, so long until the next look.
const IDLE: Duration = Duration::from_millis(250);
/// How often one that does not count looks whether it should.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Another process is taken for dead when the journal has more and it has stored nothing for so long.
const SILENT: Duration = Duration::from_secs(5);
/// What a guard's pause carries as `by`.
pub(crate) const GUARD: &str = "guard";

pub(crate) enum Message {
    /// Count until another process does, or it cannot go on; then wait for the next occasion.
    Count,
}

pub(crate) struct StatisticsActor;

#[derive(Clone)]
pub(crate) struct StatisticsArguments {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) store: Arc<dyn StatisticsStore>,
    pub(crate) controls: Arc<dyn Controls>,
    pub(crate) rules: Arc<CountingRules>,
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Actor for StatisticsActor {
    type Msg = Message;
    type State = StatisticsArguments;
    type Arguments = StatisticsArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: StatisticsArguments,
    ) -> Result<StatisticsArguments, ActorProcessingErr> {
        myself.cast(Message::Count)?;
        Ok(arguments)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        Message::Count: Message,
        state: &mut StatisticsArguments,
    ) -> Result<(), ActorProcessingErr> {
        let mut stopping = state.stopping.clone();
        tokio::select! {
            () = state.count() => myself.cast(Message::Count)?,
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        Ok(())
    }
}

impl StatisticsArguments {
    async fn count(&self) {
        let counted = async {
            self.turn().await?;
            self.count_on().await
        };
        match counted.await {
            Ok(()) => {}
            Err(SaveError::Conflict) => tracing::info!("another engine counts the statistics now"),
            Err(SaveError::Store(error)) => {
                tracing::warn!(error = %Chain(&error), "the statistics cannot be counted now; trying on");
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Waits until nobody else counts.
    async fn turn(&self) -> Result<(), StoreError> {
        let mut silent: Option<(Revision, Instant)> = None;
        loop {
            let (position, revision) = self.store.progress().await?;
            if revision == 0 {
                return Ok(());
            }
            silent = match silent {
                _ if self.journal.last().await? == position.sequence => None,
                Some((known, since)) if known == revision => {
                    if since.elapsed() >= SILENT {
                        return Ok(());
                    }
                    Some((known, since))
                }
                Some(_) | None => Some((revision, Instant::now())),
            };
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Counts until another process stores its own.
    async fn count_on(&self) -> Result<(), SaveError> {
        let mut tally = self.store.load().await?;
        let mut from = self.journal.seek(tally.position).await?;
        let mut changed = BTreeSet::new();
        let (mut stored, mut stored_at) = (tally.position, Instant::now());
        loop {
            let read = self.journal.read(from).await?;
            let at_end = read.is_none();
            if let Some(message) = read {
                from = message.position.sequence + 1;
                self.count_message(&mut tally, &message, &mut changed).await?;
            }
            let due = changed.len() >= MOST_CHANGED || stored_at.elapsed() >= SAVE_EVERY;
            if due && tally.position != stored {
                tally.revision = self.store.save(&tally, &changed).await?;
                changed.clear();
                (stored, stored_at) = (tally.position, Instant::now());
            }
            if at_end {
                tokio::time::sleep(IDLE).await;
            }
        }
    }

    async fn count_message(
        &self,
        tally: &mut Tally,
        message: &JournalMessage,
        changed: &mut BTreeSet<SmolStr>,
    ) -> Result<(), StoreError> {
        for (line, counted) in count_message(tally, message, &self.rules) {
            let (Counted::Sequence { must_stop }, Some(sequence)) = (counted, line.sequence) else { continue };
            if let Some(reason) = must_stop {
                self.pause(&sequence, reason, line.timestamp).await?;
            }
            changed.insert(sequence);
        }
        Ok(())
    }

    /// A sequence that is paused already stays as it is. So does one that was resumed after this moment: after a crash the
    /// journal is read again from a little before.
    async fn pause(&self, sequence: &str, reason: String, timestamp: Timestamp) -> Result<(), StoreError> {
        let what = Controlled::Sequence(sequence);
        if self.controls.paused(what).is_some() {
            return Ok(());
        }
        let control = Control { paused: true, reason, by: GUARD.to_owned(), timestamp };
        self.controls.change_unless_newer(what, &control).await.map(drop)
    }
}

/// Counts a message's lines, once: a message whose origin is in the tally already adds nothing.
fn count_message(tally: &mut Tally, message: &JournalMessage, rules: &CountingRules) -> Vec<(JournalLine, Counted)> {
    let known = message.position.origin <= tally.position.origin;
    tally.position.sequence = message.position.sequence;
    if known {
        return Vec::new();
    }
    tally.position.origin = message.position.origin;
    let mut counted = Vec::new();
    for line in message.lines() {
        match JournalLine::from_json(line) {
            Ok(line) => {
                let what = tally.statistics.count(&line, rules);
                counted.push((line, what));
            }
            Err(error) => {
                let sequence = message.position.sequence;
                tracing::warn!(sequence, %error, "a line of JOURNAL cannot be read, and is not counted");
            }
        }
    }
    counted
}

/// Counts the journal from its beginning up to this place.
///
/// # Errors
/// The journal cannot be read.
pub async fn replay(journal: &dyn Journal, rules: &CountingRules, to: u64) -> Result<Tally, StoreError> {
    let (mut tally, mut from) = (Tally::default(), 1);
    while from <= to
        && let Some(message) = journal.read(from).await?
    {
        if message.position.sequence > to {
            break;
        }
        from = message.position.sequence + 1;
        count_message(&mut tally, &message, rules);
    }
    Ok(tally)
}
