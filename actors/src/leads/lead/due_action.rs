//! What a lead needs at this moment.
use dripline_domain::{EnrolmentId, Lead, State, Timestamp};

use super::Services;
use crate::ports::Controlled;

/// What an enrolment needs now.
pub(super) enum DueAction {
    /// Its step is due.
    Step,
    /// Its open attempt has no one who waits for the answer.
    AnswerLost,
    /// Its attempt is in doubt, and it is time to find out more.
    Doubt,
    /// Another process may still be at it.
    Wait(Timestamp),
    /// Its step is due, but its sequence is paused since then.
    Paused(Timestamp),
}

impl Services {
    /// The first enrolment that needs something now, and what; one that another process may still be at comes last.
    pub(super) fn due_action(&self, lead: &Lead) -> Option<(EnrolmentId, DueAction)> {
        let now = self.clock.now();
        let mut waits = None;
        for enrolment in &lead.enrolments {
            let action = match &enrolment.state {
                State::Waiting { .. } if lead.paused.is_some() => continue,
                State::Waiting { due, .. } if *due <= now => {
                    if let Some(pause) = self.controls.paused(Controlled::Sequence(&enrolment.sequence.name)) {
                        waits.get_or_insert((enrolment.id(), DueAction::Paused(pause.timestamp)));
                        continue;
                    }
                    DueAction::Step
                }
                // Ours, and yet we are here and not waiting for it: the actor that made the call has failed.
                State::Sending { attempt, .. } if attempt.owner == self.owner || attempt.lost_at <= now => {
                    DueAction::AnswerLost
                }
                State::Sending { attempt, .. } => {
                    waits.get_or_insert((enrolment.id(), DueAction::Wait(attempt.lost_at)));
                    continue;
                }
                State::InDoubt { next: Some(next), .. } if *next <= now => DueAction::Doubt,
                State::Waiting { .. }
                | State::InDoubt { .. }
                | State::Completed
                | State::Parked { .. }
                | State::Stopped { .. } => continue,
            };
            return Some((enrolment.id(), action));
        }
        waits
    }
}
