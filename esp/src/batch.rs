//! One call for many emails: how they are shared out among calls, and what an answer to a whole call means for each.
use std::time::{Duration, Instant};

use async_trait::async_trait;
use dripline_actors::ports::{AfterLostAnswer, Esp, LookUp};
use dripline_domain::{Email, Outcome, Timestamp};
use futures_util::future::join_all;
use reqwest::StatusCode;
use tokio::sync::Semaphore;

use crate::answer::Answer;
use crate::http::Http;

/// Most bytes of the emails of one call, before JSON adds to them. Postmark takes 50 MB, escapes included; but a call
/// must also come through within `esp.timeout`.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// What an email needs besides its text, in bytes: addresses, ids, the names of the fields.
const OVERHEAD: usize = 1024;

/// A provider that sends one email a call, and can send many.
#[async_trait]
pub(crate) trait Batch: Esp {
    /// Most emails of one call.
    const LIMIT: usize;

    /// By which its calls are made.
    fn http(&self) -> &Http;
    /// One call for all of them, that takes no longer than this.
    async fn together(&self, emails: &[&Email], within: Duration) -> Together;
    /// A call for one, likewise.
    async fn alone(&self, email: &Email, within: Duration) -> Outcome;

    /// Whether no call can carry this one with others.
    fn goes_alone(&self, _email: &Email) -> bool {
        false
    }
    /// Whether the call for these, which are at least one, can carry this one as well; none of them goes alone.
    fn has_room_for(&self, _email: &Email, _among: &[&Email]) -> bool {
        true
    }
    /// What it is called where calls are for many: another name where a lost answer is another matter.
    fn name_of_batches(&self) -> &'static str {
        self.name()
    }
    /// What can be done about the lost answer of a call for many.
    fn after_lost_batch(&self) -> AfterLostAnswer {
        self.after_lost_answer()
    }
}

/// The provider, sending many emails with one call.
pub struct Batching<P>(pub(crate) P);

#[async_trait]
impl<P: Batch> Esp for Batching<P> {
    fn name(&self) -> &'static str {
        self.0.name_of_batches()
    }

    async fn send(&self, email: &Email) -> Outcome {
        self.0.alone(email, self.0.http().timeout).await
    }

    fn batch_limit(&self) -> usize {
        P::LIMIT
    }

    async fn send_batch(&self, emails: &[Email]) -> Vec<Outcome> {
        send(&self.0, emails).await
    }

    fn after_lost_answer(&self) -> AfterLostAnswer {
        self.0.after_lost_batch()
    }

    async fn look_up(&self, email: &Email, attempted_at: Timestamp) -> LookUp {
        self.0.look_up(email, attempted_at).await
    }
}

/// What came of one call for many emails.
pub(crate) enum Together {
    /// Of each, in order.
    Each(Vec<Outcome>),
    /// Nothing was sent, for this reason, which may concern one among them only.
    Refused(Outcome),
}

impl Together {
    /// There is no answer, or none with results: what a call for one email would mean by it, it means for all.
    pub fn whole(outcome: Outcome, status: Option<StatusCode>, emails: &[&Email]) -> Self {
        // A sender that is not allowed is true of every lead of its sequence, but not of the next sequence's.
        let senders_differ = emails.windows(2).any(|two| two[0].from != two[1].from);
        let of_a_sender = senders_differ && status.is_some_and(|status| matches!(status.as_u16(), 400 | 422));
        match outcome {
            Outcome::Refused { .. } => Self::Refused(outcome),
            Outcome::Misconfigured { .. } if of_a_sender => Self::Refused(outcome),
            _ => Self::Each(vec![outcome; emails.len()]),
        }
    }

    /// Of a call for one.
    pub fn of_one(self) -> Outcome {
        match self {
            Self::Refused(outcome) => outcome,
            Self::Each(mut outcomes) => {
                let nothing = || Outcome::Unknown { reason: "no result".to_owned() };
                outcomes.pop().unwrap_or_else(nothing)
            }
        }
    }

    /// It looks like acceptance, but there is not one result for each email: any of them may have been mailed.
    pub fn uncounted(answer: &Answer, emails: &[&Email]) -> Self {
        let reason = format!("{}, but not with {} results", answer.told(), emails.len());
        Self::Each(vec![Outcome::Unknown { reason }; emails.len()])
    }
}

/// Sends them all, with as few calls as may be, within the time of one call. An outcome for each, in order.
async fn send<P: Batch>(provider: &P, emails: &[Email]) -> Vec<Outcome> {
    let until = Instant::now() + provider.http().timeout;
    let goes_alone = |email: &Email| provider.goes_alone(email);
    let shares = shares(emails, P::LIMIT, goes_alone, |email, among| provider.has_room_for(email, among));
    let outcomes = join_all(shares.iter().map(|share| one_call(provider, &share.emails, until))).await;
    let places = shares.iter().flat_map(|share| &share.places);
    let mut placed: Vec<_> = places.zip(outcomes.into_iter().flatten()).collect();
    placed.sort_unstable_by_key(|(place, _)| **place);
    placed.into_iter().map(|(_, outcome)| outcome).collect()
}

async fn one_call(provider: &impl Batch, emails: &[&Email], until: Instant) -> Vec<Outcome> {
    if emails.len() > 1
        && let Together::Each(outcomes) = provider.together(emails, provider.http().timeout).await
    {
        return outcomes;
    }
    one_by_one(provider, emails, until).await
}

/// Whoever was at fault is then refused alone.
async fn one_by_one(provider: &impl Batch, emails: &[&Email], until: Instant) -> Vec<Outcome> {
    let http = provider.http();
    let places = Semaphore::new(http.connections.max(1));
    let calls = emails.iter().map(|email| async {
        let _place = places.acquire().await;
        let left = until.saturating_duration_since(Instant::now());
        // A call cut short leaves its email in doubt; one not made does not.
        if left < http.timeout / 4 {
            let reason = "the call for many emails was refused, and no time was left for one alone".to_owned();
            return Outcome::Transient { reason };
        }
        provider.alone(email, left).await
    });
    join_all(calls).await
}

/// What one call is for.
#[derive(Default)]
struct Share<'a> {
    emails: Vec<&'a Email>,
    /// Where each stands among all.
    places: Vec<usize>,
    bytes: usize,
    /// For one that goes alone.
    is_closed: bool,
}

/// Divides them so that each share has `limit` emails at most, and [`MOST_BYTES`] if more than one; each goes into the
/// first that has room for it.
fn shares(
    emails: &[Email],
    limit: usize,
    goes_alone: impl Fn(&Email) -> bool,
    has_room_for: impl Fn(&Email, &[&Email]) -> bool,
) -> Vec<Share<'_>> {
    let mut shares: Vec<Share<'_>> = Vec::new();
    for (place, email) in emails.iter().enumerate() {
        let (size, is_closed) = (size(email), goes_alone(email));
        let has_room = |share: &&mut Share<'_>| {
            !is_closed
                && !share.is_closed
                && share.emails.len() < limit
                && share.bytes + size <= MOST_BYTES
                && has_room_for(email, &share.emails)
        };
        let share = match shares.iter_mut().find(has_room) {
            Some(share) => share,
            None => shares.push_mut(Share { is_closed, ..Share::default() }),
        };
        share.emails.push(email);
        share.places.push(place);
        share.bytes += size;
    }
    shares
}

fn size(email: &Email) -> usize {
    let headers = email.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    OVERHEAD + email.subject.len() + email.text.len() + email.html.as_ref().map_or(0, String::len) + headers
}

#[cfg(test)]
mod tests {
    use dripline_domain::Address;

    use super::*;

    fn email(bytes: usize) -> Email {
        Email {
            from: "team@acme.example".into(),
            to: Address::parse("jane@example.com").unwrap(),
            reply_to: None,
            subject: String::new(),
            html: None,
            text: "x".repeat(bytes),
            headers: Vec::new(),
            message_id: String::new(),
            send_key: "".into(),
            lead_id: "".into(),
            sequence: "".into(),
            version: 1,
            step: "".into(),
        }
    }

    #[test]
    fn many_or_large_emails_are_shared_out_among_several_calls() {
        let half = MOST_BYTES / 2;
        for (sizes, limit, expected) in [
            (vec![], 5, vec![]),
            (vec![1, 1, 1], 5, vec![3]),
            (vec![1, 1, 1], 2, vec![2, 1]),
            (vec![1, 1, 1], 1, vec![1, 1, 1]),
            (vec![half, half, half], 5, vec![1, 1, 1]),
            (vec![half, 1, half, 1, 1], 5, vec![4, 1]),
            (vec![half, 1, half, 1, 1], 2, vec![2, 2, 1]),
            (vec![1, MOST_BYTES, 1], 5, vec![2, 1]),
        ] {
            let emails: Vec<_> = sizes.iter().map(|bytes| email(*bytes)).collect();
            let counts: Vec<_> =
                shares(&emails, limit, |_| false, |_, _| true).iter().map(|share| share.emails.len()).collect();
            assert_eq!(counts, expected, "{sizes:?} by {limit}");
        }
    }

    #[test]
    fn an_email_that_cannot_go_with_the_first_ones_goes_with_the_next_that_it_can_go_with() {
        let emails: Vec<_> = [10, 11, 12, 13, 14].map(email).into();
        let alike = |email: &Email, among: &[&Email]| email.text.len() % 2 == among[0].text.len() % 2;
        let places = |alone: usize| -> Vec<_> {
            let shares = shares(&emails, 5, |email| email.text.len() == alone, alike);
            shares.into_iter().map(|share| share.places).collect()
        };
        assert_eq!(places(0), [vec![0, 2, 4], vec![1, 3]]);
        assert_eq!(places(10), [vec![0], vec![1, 3], vec![2, 4]]);
    }
}
