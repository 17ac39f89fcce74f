//! Who may hand leads in, and how fast.
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::{ConnectInfo, Request};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use dripline_esp::Secret;
use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use subtle::{Choice, ConstantTimeEq};

use super::{API_KEY, FORWARDED_FOR, Problem};

/// How often those are forgotten who have not been here for a while.
const FORGET_EVERY_SECONDS: u64 = 10;

/// The keys, one of which must come with each lead.
pub struct ApiKeys(Vec<Secret>);

impl ApiKeys {
    pub fn new(keys: Vec<Secret>) -> Self {
        Self(keys)
    }

    /// Whether these headers hold one of the keys. Without any key, everyone is let in.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if self.0.is_empty() || bearer(headers).is_some_and(|key| self.knows(key)) {
            return Ok(());
        }
        let key = headers.get(API_KEY).map(HeaderValue::as_bytes);
        if key.is_some_and(|key| self.knows(key)) { Ok(()) } else { Err(Problem::unauthorised()) }
    }

    /// Takes as long for a key that is almost right as for any other of its length.
    fn knows(&self, key: &[u8]) -> bool {
        let found = self.0.iter().fold(Choice::from(0), |found, known| found | known.expose().as_bytes().ct_eq(key));
        found.into()
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, key) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
}

/// Holds each client, or whatever else has a key, to a rate.
pub struct KeyedLimit<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, HashMapStateStore<K>, DefaultClock>,
    clock: DefaultClock,
    began: Instant,
    forgot_at: AtomicU64,
}

impl<K: Hash + Eq + Clone> KeyedLimit<K> {
    pub fn new(quota: Quota) -> Self {
        Self {
            limiter: RateLimiter::hashmap(quota),
            clock: DefaultClock::default(),
            began: Instant::now(),
            forgot_at: AtomicU64::new(0),
        }
    }

    pub fn check(&self, key: &K) -> Result<(), Problem> {
        self.forget();
        self.limiter.check_key(key).map_err(|until| Problem::too_many_requests(until.wait_time_from(self.clock.now())))
    }

    /// Without this, everyone who ever came would stay in memory. Done by whoever comes when it is time.
    fn forget(&self) {
        let now = self.began.elapsed().as_secs();
        let last = self.forgot_at.load(Ordering::Relaxed);
        let due = now >= last + FORGET_EVERY_SECONDS;
        if due && self.forgot_at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
    }
}

/// What one client holds: an IPv4 address, or an IPv6 /64, all of whose addresses are one household's.
pub fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Who sent this request. Behind a trusted proxy, that is whom the proxy saw: it appends to what came before, and what
/// came before anyone can write.
pub fn client(request: &Request, trust_forwarded_for: bool) -> IpAddr {
    let forwarded = trust_forwarded_for.then(|| forwarded_for(request.headers())).flatten();
    let peer = || request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    forwarded.or_else(peer).unwrap_or(Ipv6Addr::UNSPECIFIED.into())
}

fn forwarded_for(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all(FORWARDED_FOR).iter().next_back()?.to_str().ok()?;
    let last = last.rsplit(',').next()?.trim();
    last.parse().ok().or_else(|| last.parse::<SocketAddr>().ok().map(|address| address.ip()))
}
