//! What the tests of the domain share: a sequence of three steps, a lead, and a clock that only moves when told.
use std::time::Duration;

use dripline_domain::{
    Address, Arrival, ArrivalId, Context, DoubtPolicy, Effect, EnrolmentId, Event, Feedback, Lead, LeadIdKey, Outcome,
    Profile, Reentry, Refusal, RetryPolicy, Send, Sequence, SoftBouncePolicy, State, Step, StepEvent, Suppression,
    SuppressionCause, SuppressionMark, Template, Timestamp, Transition, transition,
};

pub const DAY: Duration = Duration::from_hours(24);
pub const START: Timestamp = Timestamp::from_millis(1_678_886_400_000);

pub fn sequence(reentry: Reentry) -> Sequence {
    let step = |id: &str, after| Step {
        id: id.into(),
        after,
        send: Send { subject: id.to_owned(), template: "text".to_owned() },
    };
    Sequence {
        name: "nurture".into(),
        version: 1,
        from: "hello@acme.example".into(),
        reply_to: None,
        reentry,
        transactional: false,
        steps: vec![step("welcome", Duration::ZERO), step("tips", 2 * DAY), step("case", 3 * DAY)],
        templates: [("text".to_owned(), Template { html: None, text: Some("Hello".to_owned()) })].into(),
    }
}

pub struct World {
    pub now: Timestamp,
    pub random: f64,
    /// What arrivals enter.
    pub sequence: Sequence,
    pub receipts: Sequence,
    /// What the bucket `suppressions` holds.
    pub bucket: Suppression,
    pub lead: Option<Lead>,
    pub arrivals: u64,
    pub doubt: DoubtPolicy,
}

impl World {
    pub fn new(reentry: Reentry) -> Self {
        Self {
            now: START,
            random: 0.5,
            sequence: sequence(reentry),
            receipts: Sequence { name: "receipts".into(), transactional: true, ..sequence(Reentry::Ignore) },
            bucket: Suppression::default(),
            lead: None,
            arrivals: 0,
            doubt: DoubtPolicy::default(),
        }
    }

    /// A world in which the lead has arrived.
    pub fn enrolled(reentry: Reentry) -> Self {
        let mut world = Self::new(reentry);
        world.arrive().unwrap();
        world
    }

    pub fn context(&self) -> Context {
        Context { now: self.now, random: self.random, retry: RetryPolicy::default(), doubt: self.doubt }
    }

    pub fn arrive(&mut self) -> Result<Transition, Refusal> {
        self.arrivals += 1;
        self.arrive_as(self.arrivals)
    }

    pub fn arrive_as(&mut self, arrival: u64) -> Result<Transition, Refusal> {
        let sequence = self.sequence.clone();
        self.arrive_in(&sequence, arrival)
    }

    pub fn arrive_in(&mut self, sequence: &Sequence, arrival: u64) -> Result<Transition, Refusal> {
        let address = Address::parse("jane@example.com").unwrap();
        let event = Event::Arrived {
            lead_id: LeadIdKey::new("key").lead_id(&address),
            arrival: Arrival {
                address,
                profile: Profile { first_name: Some(format!("Jane {arrival}")), ..Profile::default() },
                sequence: None,
            },
            id: ArrivalId::new(arrival, START, None),
            sequence,
            suppression: self.bucket.clone(),
        };
        self.apply(event)
    }

    pub fn suppress(&mut self) -> Result<Transition, Refusal> {
        self.bucket.merge(&suppressed(SuppressionCause::Manual, self.now));
        self.apply(Event::Suppressed(self.bucket.clone()))
    }

    /// As the lead's actor does it.
    pub fn tell(&mut self, feedback: &Feedback) -> Result<Transition, Refusal> {
        let lead = self.lead.as_ref().unwrap();
        let sequence = lead.enrolment_of(feedback).map_or_else(Sequence::default, |it| self.named(&it.sequence.name));
        let too_many = || lead.too_many_soft_bounces(feedback, &SoftBouncePolicy::default());
        let suppression = feedback.suppression().or_else(too_many).map(|known| {
            self.bucket.merge(&known);
            self.bucket.clone()
        });
        self.apply(Event::Told { feedback, sequence: &sequence, suppression })
    }

    fn named(&self, sequence: &str) -> Sequence {
        if sequence == self.receipts.name { self.receipts.clone() } else { self.sequence.clone() }
    }

    /// For the newest enrolment.
    pub fn step(&mut self, event: StepEvent) -> Result<Transition, Refusal> {
        let id = self.lead.as_ref().unwrap().enrolments.last().unwrap().id();
        self.step_of(id, event)
    }

    pub fn step_of(&mut self, enrolment: EnrolmentId, event: StepEvent) -> Result<Transition, Refusal> {
        let sequence = self.named(&enrolment.sequence);
        self.apply(Event::Step { enrolment, sequence: &sequence, event })
    }

    pub fn begin(&mut self) -> Result<Transition, Refusal> {
        self.step(begin())
    }

    /// The answer to the open attempt of the newest enrolment.
    pub fn answer(&mut self, outcome: Outcome) -> Result<Transition, Refusal> {
        let open = self.state().open_attempt();
        let (send_key, attempt) =
            open.map_or_else(|| ("none".into(), 1), |attempt| (attempt.send_key.clone(), attempt.number));
        self.step(StepEvent::Answered { send_key, attempt, outcome })
    }

    pub fn apply(&mut self, event: Event<'_>) -> Result<Transition, Refusal> {
        let decided = transition(self.lead.as_ref(), event, &self.context())?;
        self.lead = Some(decided.lead.clone());
        Ok(decided)
    }

    pub fn state(&self) -> &State {
        &self.lead.as_ref().unwrap().enrolments.last().unwrap().state
    }
}

pub fn suppressed(cause: SuppressionCause, timestamp: Timestamp) -> Suppression {
    let mark = SuppressionMark { timestamp, source: "test".to_owned(), reason: "a reason".to_owned() };
    Suppression::of(cause, mark)
}

pub fn begin() -> StepEvent {
    StepEvent::Begin { owner: "engine-1".into(), provider: "resend".into(), answer_within: Duration::from_secs(20) }
}

pub fn accepted() -> Outcome {
    Outcome::Accepted { message_id: "m-1".into() }
}

pub fn timer(decided: &Transition) -> Option<(Timestamp, u64)> {
    decided.effects.iter().find_map(|effect| match effect {
        Effect::SetTimer { at, generation } => Some((*at, *generation)),
        Effect::Send(_) => None,
    })
}
