use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dripline_domain::Timestamp;
use sha2::{Digest, Sha256};

/// The tokens that were used, each with what it was used for.
///
/// Kept in two generations, so that forgetting costs nothing: a token is remembered for one lifetime at least and two at
/// the most. Where more come in a lifetime than a generation may hold, the oldest are forgotten before their time.
pub(super) struct UsedTokens {
    lifetime: Duration,
    most: usize,
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    began: Option<Timestamp>,
    current: HashMap<[u8; 16], [u8; 16]>,
    previous: HashMap<[u8; 16], [u8; 16]>,
}

impl UsedTokens {
    /// Remembers each token for `lifetime` at least, in generations of `most`.
    pub fn new(lifetime: Duration, most: usize) -> Self {
        Self { lifetime, most, generations: Mutex::default() }
    }

    /// Whether this token was not used for anything else before; it is now used for this.
    pub fn claim(&self, token: &str, for_what: &[u8], now: Timestamp) -> bool {
        let (token, for_what) = (digest(token.as_bytes()), digest(for_what));
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let began = *generations.began.get_or_insert(now);
        if now.since(began) > self.lifetime || generations.current.len() >= self.most {
            generations.previous = mem::take(&mut generations.current);
            generations.began = Some(now);
        }
        if let Some(used_for) = generations.previous.get(&token) {
            return *used_for == for_what;
        }
        *generations.current.entry(token).or_insert(for_what) == for_what
    }
}

fn digest(bytes: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&Sha256::digest(bytes)[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_one_event_for_as_long_as_it_is_remembered() {
        let tokens = UsedTokens::new(Duration::from_secs(10), 100);
        let at = |second: i64| Timestamp::from_millis(second * 1_000);
        assert!(tokens.claim("a", b"delivered", at(0)));
        assert!(tokens.claim("a", b"delivered", at(1)), "the same once more");
        assert!(!tokens.claim("a", b"opened", at(2)));
        assert!(tokens.claim("b", b"opened", at(3)));
        assert!(!tokens.claim("a", b"opened", at(11)), "in the generation before");
        assert!(tokens.claim("a", b"opened", at(22)), "forgotten");
    }

    #[test]
    fn memory_is_bounded() {
        let tokens = UsedTokens::new(Duration::from_secs(10), 100);
        for token in 0..250 {
            assert!(tokens.claim(&token.to_string(), b"", Timestamp::from_millis(0)));
        }
        let generations = tokens.generations.lock().unwrap();
        assert_eq!((generations.current.len(), generations.previous.len()), (50, 100));
    }
}
