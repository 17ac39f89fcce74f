//! What goes wrong on purpose.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::vendor::Letter;

/// One way of going wrong, and for whom. It meets only requests that are otherwise right.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// For [`FaultKind::Status`] and [`FaultKind::LookUpStatus`]: which one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// For [`FaultKind::Status`] and [`FaultKind::Garbage`]: further headers, such as `Retry-After`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// For [`FaultKind::Status`] and [`FaultKind::Garbage`]: the body; the vendor's own error otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// How many of the requests it meets, from 0 to 1; all of them if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Makes another choice of requests with the same probability.
    #[serde(default)]
    pub seed: u64,
    /// It is over after so many requests; never if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// How long it takes: the wait of [`FaultKind::Slow`], the end of [`FaultKind::Hang`], the lag of
    /// [`FaultKind::LookUpLag`], a wait before any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Only requests to an address that holds this. Of a call for many emails with status 400 or 422, only those to it are
    /// refused; any other fault meets the whole call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_to: Option<String>,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Nothing: ends all faults.
    None,
    /// Not accepted; answered with this status.
    Status,
    /// Not accepted and not answered; the connection stays open, for `delay_ms` or for good.
    Hang,
    /// Accepted, but the connection closes without an answer.
    DropAfterAccept,
    /// Not accepted; the connection closes without an answer.
    DropBeforeAccept,
    /// Not accepted; answered 200 with a page that is not JSON, as a wrong path or a proxy would.
    Garbage,
    /// Accepted at once, answered after `delay_ms`.
    Slow,
    /// What was accepted is found only after `delay_ms`. Meets no other request than look-ups.
    LookUpLag,
    /// A look-up is answered with this status, and nothing else is.
    LookUpStatus,
}

impl FaultKind {
    fn is_of_look_ups(self) -> bool {
        matches!(self, Self::LookUpLag | Self::LookUpStatus)
    }
}

impl Fault {
    /// A fault of this kind that meets every request.
    pub fn new(kind: FaultKind) -> Self {
        Self {
            kind,
            status: None,
            headers: BTreeMap::new(),
            body: None,
            probability: None,
            seed: 0,
            count: None,
            delay_ms: None,
            match_to: None,
        }
    }

    /// How long it takes; no time if not said.
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.unwrap_or_default())
    }

    /// Whether of a call for many emails only some are refused.
    pub fn refuses_one_of_many(&self) -> Option<&str> {
        let refuses = self.kind == FaultKind::Status && matches!(self.status, Some(400 | 422));
        self.match_to.as_deref().filter(|_| refuses)
    }

    fn check(&self) -> Result<(), String> {
        match self.kind {
            FaultKind::Status | FaultKind::LookUpStatus if !matches!(self.status, Some(200..=599)) => {
                return Err("a status fault needs a status from 200 to 599".into());
            }
            FaultKind::Slow | FaultKind::LookUpLag if self.delay_ms.is_none() => {
                return Err("a slow fault needs delay_ms".into());
            }
            _ => {}
        }
        if self.probability.is_some_and(|probability| !(0.0..=1.0).contains(&probability)) {
            return Err("probability goes from 0 to 1".into());
        }
        Ok(())
    }
}

/// The faults in force.
#[derive(Default)]
pub struct Faults {
    /// Spares the lock while there are none.
    any: AtomicBool,
    inner: Mutex<Vec<Active>>,
}

struct Active {
    fault: Fault,
    chance: Chance,
}

impl Faults {
    /// Puts these faults in place of all earlier ones.
    pub fn set(&self, faults: Vec<Fault>) -> Result<(), String> {
        faults.iter().try_for_each(Fault::check)?;
        let faults = faults.into_iter().filter(|fault| fault.kind != FaultKind::None);
        let active: Vec<_> = faults.map(|fault| Active { chance: Chance::new(fault.seed), fault }).collect();
        let mut inner = self.lock();
        self.any.store(!active.is_empty(), Ordering::Release);
        *inner = active;
        Ok(())
    }

    /// The faults still in force, with what is left of their counts.
    pub fn list(&self) -> Vec<Fault> {
        self.lock().iter().map(|active| active.fault.clone()).collect()
    }

    /// The first fault that meets this request to send, if one does.
    pub fn meet(&self, letters: &[Letter]) -> Option<Fault> {
        self.first(|active| !active.fault.kind.is_of_look_ups() && active.meets(letters))
    }

    /// The first fault that meets a look-up, if one does.
    pub fn meet_look_up(&self) -> Option<Fault> {
        self.first(|active| active.fault.kind == FaultKind::LookUpStatus && active.meets(&[]))
    }

    /// For how many milliseconds after it was accepted an email to this address cannot be found.
    pub fn lag(&self) -> impl Fn(&str) -> u64 + use<> {
        let lags: Vec<_> = self.list().into_iter().filter(|fault| fault.kind == FaultKind::LookUpLag).collect();
        move |to| {
            let meets = |fault: &&Fault| fault.match_to.as_ref().is_none_or(|part| to.contains(part.as_str()));
            lags.iter().filter(meets).filter_map(|fault| fault.delay_ms).max().unwrap_or_default()
        }
    }

    fn first(&self, meets: impl FnMut(&mut Active) -> bool) -> Option<Fault> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let mut inner = self.lock();
        let index = inner.iter_mut().position(meets)?;
        let fault = inner[index].fault.clone();
        if let Some(count) = &mut inner[index].fault.count {
            *count -= 1;
            if *count == 0 {
                inner.remove(index);
            }
        }
        self.any.store(!inner.is_empty(), Ordering::Release);
        Some(fault)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Active>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Active {
    fn meets(&mut self, letters: &[Letter]) -> bool {
        let Fault { match_to, probability, count, .. } = &self.fault;
        count.is_none_or(|left| left > 0)
            && match_to.as_ref().is_none_or(|part| letters.iter().any(|letter| letter.to.contains(part.as_str())))
            && probability.is_none_or(|probability| self.chance.next() < probability)
    }
}

/// Numbers from 0 to 1 that look random and are the same in every run (`SplitMix64`).
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let upper_half = u32::try_from(mix(self.0) >> 32).unwrap_or_default();
        f64::from(upper_half) / (f64::from(u32::MAX) + 1.0)
    }
}

/// Spreads a counter over all 64 bits (`SplitMix64`'s last steps).
pub fn mix(counter: u64) -> u64 {
    let mut bits = counter;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(address: &str) -> Vec<Letter> {
        vec![Letter {
            send_key: "k".into(),
            lead_id: "l".into(),
            to: address.into(),
            sequence: "s".into(),
            step: "t".into(),
            subject: "u".into(),
            via: "".into(),
            unsubscribe: "".into(),
        }]
    }

    #[test]
    fn a_counted_fault_is_over_after_its_count() {
        let faults = Faults::default();
        faults.set(vec![Fault { count: Some(2), ..Fault::new(FaultKind::Hang) }]).unwrap();
        let met: Vec<_> = (0..4).map(|_| faults.meet(&to("a@b.c")).is_some()).collect();
        assert_eq!(met, [true, true, false, false]);
        assert!(faults.list().is_empty());
    }

    #[test]
    fn a_fault_for_one_address_spares_the_others() {
        let faults = Faults::default();
        faults.set(vec![Fault { match_to: Some("bad".into()), ..Fault::new(FaultKind::Garbage) }]).unwrap();
        assert!(faults.meet(&to("good@example.com")).is_none());
        assert!(faults.meet(&to("bad@example.com")).is_some());
    }

    #[test]
    fn the_first_fault_that_matches_is_met() {
        let faults = Faults::default();
        let one = Fault { match_to: Some("one".into()), ..Fault::new(FaultKind::Hang) };
        faults.set(vec![one, Fault::new(FaultKind::Garbage)]).unwrap();
        assert_eq!(faults.meet(&to("one@b.c")).map(|fault| fault.kind), Some(FaultKind::Hang));
        assert_eq!(faults.meet(&to("two@b.c")).map(|fault| fault.kind), Some(FaultKind::Garbage));
    }

    #[test]
    fn a_probable_fault_meets_the_same_requests_in_every_run() {
        let run = |seed| {
            let faults = Faults::default();
            faults.set(vec![Fault { probability: Some(0.25), seed, ..Fault::new(FaultKind::Hang) }]).unwrap();
            (0..4_000).map(|_| faults.meet(&to("a@b.c")).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let met = run(7).into_iter().filter(|met| *met).count();
        assert!((900..1_100).contains(&met), "{met} of 4,000");
    }

    #[test]
    fn none_ends_all_faults() {
        let faults = Faults::default();
        faults.set(vec![Fault::new(FaultKind::Hang)]).unwrap();
        faults.set(vec![Fault::new(FaultKind::None)]).unwrap();
        assert!(faults.meet(&to("a@b.c")).is_none());
    }

    #[test]
    fn a_look_up_meets_only_its_own_faults() {
        let faults = Faults::default();
        let status = Fault { status: Some(500), count: Some(1), ..Fault::new(FaultKind::LookUpStatus) };
        let lag = Fault { delay_ms: Some(50), match_to: Some("slow".into()), ..Fault::new(FaultKind::LookUpLag) };
        faults.set(vec![status, lag, Fault::new(FaultKind::Hang)]).unwrap();
        assert_eq!(faults.meet(&to("slow@b.c")).map(|fault| fault.kind), Some(FaultKind::Hang));
        assert_eq!(faults.meet_look_up().map(|fault| fault.kind), Some(FaultKind::LookUpStatus));
        assert!(faults.meet_look_up().is_none());
        assert_eq!((faults.lag()("slow@b.c"), faults.lag()("fast@b.c")), (50, 0));
    }

    #[test]
    fn a_fault_that_says_too_little_is_refused() {
        let faults = Faults::default();
        assert!(faults.set(vec![Fault::new(FaultKind::Status)]).is_err());
        assert!(faults.set(vec![Fault::new(FaultKind::Slow)]).is_err());
        assert!(faults.set(vec![Fault::new(FaultKind::LookUpLag)]).is_err());
        assert!(faults.set(vec![Fault::new(FaultKind::LookUpStatus)]).is_err());
        assert!(faults.set(vec![Fault { probability: Some(1.5), ..Fault::new(FaultKind::Hang) }]).is_err());
    }
}
