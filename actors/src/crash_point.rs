//! Points at which a test can have the process end, as by a crash: one for each line of the protocol.
//!
//! `CRASH_AT=committed:2` ends it when the point `committed` is passed for the second time; with `STOP_AT` it stands still
//! there (SIGSTOP) until it is let on. Without the feature `crash-points` there is nothing of it in the program.

/// Ends the process here, or lets it stand still, if it is told to.
#[cfg(feature = "crash-points")]
pub(crate) fn crash_point(point: &'static str) {
    use std::collections::HashMap;
    use std::sync::{Mutex, OnceLock, PoisonError};
    use std::time::{Duration, Instant};

    type At = Option<(String, u32)>;
    static AT: OnceLock<[At; 2]> = OnceLock::new();
    static PASSED: OnceLock<Mutex<HashMap<&'static str, u32>>> = OnceLock::new();
    let told = |variable| -> At {
        let at = std::env::var(variable).ok()?;
        let (point, time) = at.split_once(':')?;
        Some((point.to_owned(), time.parse().ok()?))
    };
    let [crash, stop] = AT.get_or_init(|| [told("CRASH_AT"), told("STOP_AT")]);
    let count = {
        let mut passed = PASSED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        let count = passed.entry(point).or_default();
        *count += 1;
        *count
    };
    let is_here = |at: &At| at.as_ref().is_some_and(|(name, time)| name == point && count == *time);
    if is_here(crash) {
        tracing::error!(point, count, "the process ends here, as it was told to");
        std::process::abort();
    }
    if is_here(stop) {
        tracing::error!(point, count, "the process stands still here, as it was told to");
        let mut last = Instant::now();
        let stopping = std::process::Command::new("kill").args(["-STOP", &std::process::id().to_string()]).spawn();
        // Until time has passed us by. Then at once, before the process learns what happened meanwhile.
        let mut now = Instant::now();
        while stopping.is_ok() && now.duration_since(last) < Duration::from_millis(100) {
            (last, now) = (now, Instant::now());
        }
    }
}

/// Ends the process here, if it is told to: never, in a release.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub(crate) fn crash_point(_point: &'static str) {}
