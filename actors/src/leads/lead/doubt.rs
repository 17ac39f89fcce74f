//! An attempt in doubt: what its provider can tell of it.
use std::sync::Arc;

use dripline_domain::{Attempt, Email, EnrolmentId, Lead, LeadId, Outcome, State, StepEvent};

use super::{Interruption, LeadState, compose};
use crate::ports::{AfterLostAnswer, LookUp};

impl LeadState {
    /// An attempt whose answer was lost: finds out what became of it, as far as the provider can tell.
    pub(super) async fn resolve(&mut self, id: &EnrolmentId) -> Result<(), Interruption> {
        let Some(lead) = self.lead().await? else { return Ok(()) };
        let Some(enrolment) = lead.enrolment(id) else { return Ok(()) };
        let State::InDoubt { attempt, .. } = &enrolment.state else { return Ok(()) };
        let (attempt, lead_id, transactional) = (attempt.clone(), lead.lead_id.clone(), enrolment.transactional);
        let found_out = match self.email_of(id, &attempt).await? {
            Ok(email) => self.ask(&attempt, email, &lead_id, transactional).await?,
            Err(reason) => {
                let reason = format!("it cannot be rendered again: {reason}");
                Some(StepEvent::Unresolved { reason, ask_again: false })
            }
        };
        match found_out {
            Some(event) => self.record(id, &event).await,
            // Suppressed meanwhile, and that is written down.
            None => Ok(()),
        }
    }

    /// The email of an attempt, rendered from what it was rendered from then.
    async fn email_of(&mut self, id: &EnrolmentId, attempt: &Attempt) -> Result<Result<Email, String>, Interruption> {
        let services = Arc::clone(&self.services);
        let Some(lead) = self.lead().await? else { return Ok(Err("the lead is gone".to_owned())) };
        let Some(enrolment) = lead.enrolment(id) else { return Ok(Err("the enrolment is gone".to_owned())) };
        let Some(sequence) = services.sequence_of(enrolment).await? else {
            return Ok(Err("its sequence is gone".to_owned()));
        };
        Ok(match &attempt.profile {
            None => compose(&services, &sequence, lead, enrolment),
            Some(profile) => {
                let then = Lead { profile: Arc::clone(profile), ..lead.clone() };
                compose(&services, &sequence, &then, enrolment)
            }
        })
    }

    /// Asks the provider of an attempt in doubt; none when the lead must not be mailed any more.
    async fn ask(
        &mut self,
        attempt: &Attempt,
        email: Email,
        lead_id: &LeadId,
        transactional: bool,
    ) -> Result<Option<StepEvent>, Interruption> {
        let services = Arc::clone(&self.services);
        let now = services.clock.now();
        let unresolved = |reason: String, ask_again| Ok(Some(StepEvent::Unresolved { reason, ask_again }));
        let answered = |outcome| {
            let (send_key, attempt) = (attempt.send_key.clone(), attempt.number);
            Ok(Some(StepEvent::Answered { send_key, attempt, outcome }))
        };
        let evidence = || format!("only a webhook of {} can tell", attempt.provider);
        let Some(able) = services.providers.after_lost_answer(&attempt.provider) else {
            return unresolved(format!("{} is no longer configured", attempt.provider), false);
        };
        match able {
            AfterLostAnswer::Evidence => unresolved(evidence(), false),
            AfterLostAnswer::Idempotent { within } if now >= attempt.started_at.plus(within) => {
                unresolved(format!("{} has forgotten the key by now", attempt.provider), false)
            }
            AfterLostAnswer::Idempotent { .. } if self.lead().await?.is_some_and(|lead| lead.paused.is_some()) => {
                unresolved("asking is sending once more, and the lead is paused".to_owned(), true)
            }
            AfterLostAnswer::Idempotent { .. } => {
                let Some(place) = services.providers.place_at(&attempt.provider).await else {
                    return unresolved(evidence(), false);
                };
                let Some(place) = self.permit(place?, lead_id, transactional).await? else { return Ok(None) };
                if let Some(why) = services.held_back(&place, &email.sequence).await? {
                    return unresolved(format!("asking is sending once more, and {why}"), true);
                }
                // The same call with the same key: mailed once, whichever of the two came first.
                let call_by = services.clock.now().plus(services.call_within);
                match services.providers.send(email, call_by, place).await? {
                    outcome @ (Outcome::Accepted { .. } | Outcome::Refused { .. }) => answered(outcome),
                    outcome => unresolved(format!("asked again, it said: {}", outcome.name()), true),
                }
            }
            AfterLostAnswer::LookUp { settled_after } => {
                let Some(place) = services.providers.place_at(&attempt.provider).await else {
                    return unresolved(evidence(), false);
                };
                match services.providers.look_up(&place?, &email, attempt.started_at).await {
                    LookUp::Found { message_id } => answered(Outcome::Accepted { message_id }),
                    LookUp::NotFound if now >= attempt.lost_at.plus(settled_after) => Ok(Some(StepEvent::NotSent)),
                    LookUp::NotFound => unresolved(format!("{} does not show it yet", attempt.provider), true),
                    LookUp::Unclear { reason } => unresolved(reason, true),
                }
            }
        }
    }
}
