//! Which email an event of a provider speaks of: by its send key, then by the provider's id of the message.
use smol_str::SmolStr;

use crate::{Enrolment, Feedback, FeedbackKind, Lead, Sequence, SoftBounce, SoftBouncePolicy, Suppression, send_key};

/// An email of one enrolment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EmailRef {
    /// The enrolment's place in its lead.
    pub(crate) place: usize,
    /// Its step, by its id; none where only the open attempt knows it.
    step: Option<SmolStr>,
}

impl Lead {
    /// The enrolment whose email this speaks of; none where it speaks of the person alone, or of an email that this
    /// lead does not know.
    pub fn enrolment_of(&self, feedback: &Feedback) -> Option<&Enrolment> {
        self.email_of(feedback).and_then(|email| self.enrolments.get(email.place))
    }

    pub(crate) fn email_of(&self, feedback: &Feedback) -> Option<EmailRef> {
        let by_key = feedback.send_key.as_deref().and_then(|key| self.email_by_key(key, feedback));
        by_key.or_else(|| self.email_by_message_id(feedback.message_id.as_deref()?))
    }

    fn email_by_key(&self, key: &str, feedback: &Feedback) -> Option<EmailRef> {
        self.enrolments.iter().enumerate().rev().find_map(|(place, enrolment)| {
            let told = feedback
                .step
                .as_deref()
                .filter(|_| feedback.sequence.as_ref().is_none_or(|sequence| *sequence == enrolment.sequence.name));
            let known = enrolment.emails.iter().map(|email| &*email.step);
            let sent = self
                .history
                .iter()
                .filter(|entry| entry.sequence.as_ref() == Some(&enrolment.sequence.name))
                .filter_map(|entry| entry.step.as_deref());
            let step = told
                .into_iter()
                .chain(known)
                .chain(sent)
                .find(|step| send_key(&self.lead_id, enrolment, step) == key)
                .map(SmolStr::from);
            let is_open = enrolment.state.open_attempt().is_some_and(|attempt| attempt.send_key == key);
            (step.is_some() || is_open).then_some(EmailRef { place, step })
        })
    }

    fn email_by_message_id(&self, id: &str) -> Option<EmailRef> {
        let is_it = |message_id: &Option<SmolStr>| !id.is_empty() && message_id.as_deref() == Some(id);
        let known = self.enrolments.iter().enumerate().find_map(|(place, enrolment)| {
            let email = enrolment.emails.iter().find(|email| is_it(&email.message_id))?;
            Some(EmailRef { place, step: Some(email.step.clone()) })
        });
        known.or_else(|| {
            let entry = self.history.iter().rev().find(|entry| is_it(&entry.message_id))?;
            let place = self.enrolments.iter().rposition(|enrolment| {
                entry.sequence.as_ref() == Some(&enrolment.sequence.name)
                    && entry.version == Some(enrolment.sequence.version)
            })?;
            Some(EmailRef { place, step: Some(entry.step.clone()?) })
        })
    }

    /// The soft bounce that this is, if it is one.
    pub(crate) fn soft_bounce(&self, feedback: &Feedback) -> Option<SoftBounce> {
        if feedback.kind != FeedbackKind::SoftBounced {
            return None;
        }
        let by_message_id = || {
            let EmailRef { place, step } = self.email_by_message_id(feedback.message_id.as_deref()?)?;
            Some(send_key(&self.lead_id, &self.enrolments[place], &step?))
        };
        let email = feedback.send_key.clone().or_else(by_message_id).or_else(|| feedback.message_id.clone());
        Some(SoftBounce {
            timestamp: feedback.occurred_at,
            email: email.unwrap_or_else(|| feedback.id.as_str().into()),
        })
    }

    /// What the lead's soft bounces say against its address, with this one among them; none where it is none, or while
    /// they are not too many.
    pub fn too_many_soft_bounces(&self, feedback: &Feedback, policy: &SoftBouncePolicy) -> Option<Suppression> {
        let mut bounces = self.soft_bounces.clone();
        SoftBounce::remember(&mut bounces, self.soft_bounce(feedback)?);
        policy.judge(bounces.iter().map(|bounce| bounce.timestamp))
    }
}

impl EmailRef {
    /// The id of its step, if that has been tried. A lead whose document was deleted and who came again has the same
    /// send keys: what is told of its earlier emails is not of these.
    pub(crate) fn tried_step(self, enrolment: &Enrolment, sequence: &Sequence) -> Option<SmolStr> {
        let current = sequence.steps.get(enrolment.step).map(|step| step.id.as_str());
        let step = self.step.or_else(|| current.map(SmolStr::from))?;
        let place = sequence.steps.iter().position(|it| it.id == step);
        let is_tried =
            place.is_none_or(|place| place < enrolment.step || place == enrolment.step && enrolment.state.has_tried());
        is_tried.then_some(step)
    }
}
