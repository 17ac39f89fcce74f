//! Which engine processes are alive, and so what part of the configured rate is ours, and who does what one is enough for.
//!
//! Each process announces itself every second. The parts never add up to more than the whole: a newcomer waits until
//! the others have seen it and made room; the others make use of a leaver's part only when it has surely stopped; and a
//! process that can no longer announce itself stops before the others take its part.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Chain;
use crate::limiter::RateLimiter;
use crate::metrics::{Metrics, number};
use crate::ports::{Beat, Clock, Presence};

/// Between two announcements.
const BEAT: Duration = Duration::from_secs(1);
/// How often the share is worked out.
const TICK: Duration = Duration::from_millis(200);
/// A newcomer sends nothing for so long after its first announcement: time for the others to see it.
const SETTLE: Duration = Duration::from_secs(2);
/// A process that could not announce itself for so long sends nothing any more.
const SILENT: Duration = Duration::from_secs(3);
/// Another process is taken for gone after so long without an announcement: longer than [`SILENT`] with a margin for
/// the way of the announcement.
const GONE: Duration = Duration::from_secs(5);

/// What this process knows of all of them.
#[derive(Debug, Default)]
struct Members {
    /// When each of the others was last seen.
    others: HashMap<String, Instant>,
    /// When the latest announcement was begun that came back to us: the others can see it, and we can see theirs.
    announced: Option<Instant>,
    /// Since when the announcements follow each other without a gap.
    since: Option<Instant>,
}

impl Members {
    fn announced(&mut self, began: Instant, now: Instant) {
        if !self.is_heard(now) {
            // The others may have taken us for gone: as new.
            self.since = None;
        }
        self.announced = Some(began);
        self.since.get_or_insert(now);
    }

    fn is_heard(&self, now: Instant) -> bool {
        self.announced.is_some_and(|at| now.saturating_duration_since(at) < SILENT)
    }

    /// From 0 to 1; none while it is not known.
    fn share(&mut self, now: Instant) -> Option<f64> {
        self.others.retain(|_, seen| now.saturating_duration_since(*seen) < GONE);
        let settled = self.since.is_some_and(|since| now.saturating_duration_since(since) >= SETTLE);
        // Processes are few.
        let count = f64::from(u32::try_from(self.others.len() + 1).unwrap_or(u32::MAX));
        (self.is_heard(now) && settled).then(|| 1.0 / count)
    }

    /// Whether this process does what one is enough for: of those that are alive, its name sorts first. While it does not
    /// know them it does so too: twice is harmless, and never is not.
    fn is_first(&mut self, owner: &str, now: Instant) -> bool {
        self.share(now).is_none() || self.others.keys().all(|other| owner < other.as_str())
    }
}

pub(crate) enum Message {
    /// Announce ourselves.
    Beat,
    /// A process announced itself: another, or this one.
    Seen(Beat),
    /// Another process has left.
    Left(String),
    /// Work out the share.
    Tick,
}

pub(crate) struct PresenceActor;

#[derive(Clone)]
pub(crate) struct PresenceArguments {
    pub(crate) owner: String,
    /// Of this process: its announcements are dated by it.
    pub(crate) started: Instant,
    pub(crate) presence: Arc<dyn Presence>,
    pub(crate) limiter: RateLimiter,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    /// Whether this process does what one is enough for; true as long as nobody knows better.
    pub(crate) is_first: watch::Sender<bool>,
}

pub(crate) struct PresenceState {
    arguments: PresenceArguments,
    members: Members,
    watching: JoinHandle<()>,
}

impl Actor for PresenceActor {
    type Msg = Message;
    type State = PresenceState;
    type Arguments = PresenceArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: PresenceArguments,
    ) -> Result<PresenceState, ActorProcessingErr> {
        let watching = tokio::spawn(follow(arguments.clone(), myself.clone()));
        myself.cast(Message::Beat)?;
        myself.send_interval(BEAT, || Message::Beat);
        myself.send_interval(TICK, || Message::Tick);
        Ok(PresenceState { arguments, members: Members::default(), watching })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Message>,
        message: Message,
        PresenceState { arguments, members, .. }: &mut PresenceState,
    ) -> Result<(), ActorProcessingErr> {
        let PresenceArguments { owner, started, presence, limiter, clock, metrics, is_first } = arguments;
        match message {
            Message::Beat => {
                let (owner, uptime) = (owner.clone(), started.elapsed());
                let beat = Beat { owner, uptime, paused_until: limiter.paused(clock.now()) };
                let presence = Arc::clone(presence);
                tokio::spawn(async move {
                    if let Err(error) = presence.announce(&beat).await {
                        tracing::debug!(error = %Chain(&error), "this process could not announce itself");
                    }
                });
            }
            Message::Seen(beat) if beat.owner == *owner => members.announced(*started + beat.uptime, Instant::now()),
            Message::Seen(beat) => {
                if let Some(until) = beat.paused_until.filter(|until| Some(*until) > limiter.paused(clock.now())) {
                    limiter.pause(until);
                }
                if members.others.insert(beat.owner.clone(), Instant::now()).is_none() {
                    tracing::info!(process = beat.owner, "another engine is alive");
                }
            }
            Message::Left(process) => {
                members.others.remove(&process);
            }
            Message::Tick => {}
        }
        limiter.share(members.share(Instant::now()));
        is_first.send_replace(members.is_first(owner, Instant::now()));
        metrics.engines.set(number(members.others.len() + 1));
        Ok(())
    }

    async fn post_stop(&self, _myself: ActorRef<Message>, state: &mut PresenceState) -> Result<(), ActorProcessingErr> {
        state.watching.abort();
        // Nothing is sent any more: the others need not wait until they miss us.
        if let Err(error) = state.arguments.presence.leave(&state.arguments.owner).await {
            tracing::debug!(error = %Chain(&error), "the others will find out by themselves that this process left");
        }
        Ok(())
    }
}

/// Tells the actor of every announcement, as long as it lives. Where not even our own come back, nobody serves the watcher any
/// more, as when its server died.
async fn follow(arguments: PresenceArguments, actor: ActorRef<Message>) {
    loop {
        match arguments.presence.watch().await {
            Ok(mut beats) => {
                while let Ok(Some(sign)) = tokio::time::timeout(SILENT, beats.next()).await {
                    let told = match sign {
                        Ok(Ok(beat)) => Message::Seen(beat),
                        Ok(Err(left)) => Message::Left(left),
                        Err(error) => {
                            tracing::debug!(error = %Chain(&error), "the other engines cannot be seen; looking again");
                            break;
                        }
                    };
                    if actor.cast(told).is_err() {
                        return;
                    }
                }
            }
            Err(error) => tracing::debug!(error = %Chain(&error), "the other engines cannot be seen; looking again"),
        }
        tokio::time::sleep(BEAT).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds since the start of the test.
    fn at(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_newcomer_waits_until_the_others_have_seen_it() {
        let start = Instant::now();
        let mut members = Members::default();
        assert_eq!(members.share(start), None);
        members.announced(start, start);
        assert_eq!(members.share(at(start, 1.9)), None);
        assert_eq!(members.share(at(start, 2.0)), Some(1.0));
    }

    #[test]
    fn each_has_its_part_and_a_dead_ones_is_free_again_after_a_while() {
        let start = Instant::now();
        let mut members = Members::default();
        for second in 0..10 {
            members.announced(at(start, second.into()), at(start, second.into()));
        }
        for other in ["b", "c"] {
            members.others.insert(other.to_owned(), at(start, 9.0));
        }
        members.others.insert("d".to_owned(), at(start, 6.0));
        assert_eq!(members.share(at(start, 9.1)), Some(0.25));
        assert_eq!(members.share(at(start, 11.1)), Some(1.0 / 3.0), "d is gone");
    }

    #[test]
    fn the_first_by_name_does_what_one_is_enough_for_until_it_is_gone() {
        let start = Instant::now();
        let mut members = Members::default();
        assert!(members.is_first("b", start), "the others are not known yet");
        for second in 0..10 {
            members.announced(at(start, second.into()), at(start, second.into()));
        }
        members.others.insert("c".to_owned(), at(start, 9.0));
        assert!(members.is_first("b", at(start, 9.0)));
        members.others.insert("a".to_owned(), at(start, 9.0));
        assert!(!members.is_first("b", at(start, 9.0)));
        members.announced(at(start, 13.0), at(start, 13.0));
        members.announced(at(start, 15.0), at(start, 15.0));
        assert!(members.is_first("b", at(start, 15.0)), "the other has been silent for too long");
        members.others.insert("a".to_owned(), at(start, 19.0));
        assert!(members.is_first("b", at(start, 19.0)), "it cannot announce itself: nobody knows who is alive");
    }

    #[test]
    fn who_cannot_announce_itself_stops_before_the_others_take_its_part() {
        let start = Instant::now();
        let mut members = Members::default();
        members.announced(start, start);
        assert_eq!(members.share(at(start, 2.5)), Some(1.0));
        assert_eq!(members.share(at(start, 3.0)), None);
        // Heard again: the others may have its part, so it begins as a newcomer.
        members.announced(at(start, 8.0), at(start, 8.0));
        assert_eq!(members.share(at(start, 9.0)), None);
        members.announced(at(start, 9.0), at(start, 9.0));
        assert_eq!(members.share(at(start, 10.0)), Some(1.0));
        assert!(SILENT < GONE);
    }
}
