//! Points at which a test can have the process end, as by a crash: one for each line of the protocol.
//!
//! `CRASH_AT=committed:2` ends it when the point `committed` is passed for the second time. Without the feature
//! `crash-points` there is nothing of it in the program.

/// Ends the process here, if it is told to.
#[cfg(feature = "crash-points")]
pub(crate) fn crash_point(point: &'static str) {
    use std::collections::HashMap;
    use std::sync::{Mutex, OnceLock, PoisonError};

    static AT: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static PASSED: OnceLock<Mutex<HashMap<&'static str, u32>>> = OnceLock::new();
    let at = AT.get_or_init(|| {
        let at = std::env::var("CRASH_AT").ok()?;
        let (point, time) = at.split_once(':')?;
        Some((point.to_owned(), time.parse().ok()?))
    });
    let Some((name, time)) = at else { return };
    let mut passed = PASSED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let count = passed.entry(point).or_default();
    *count += 1;
    if name == point && count == time {
        tracing::error!(point, time, "the process ends here, as it was told to");
        std::process::abort();
    }
}

/// Ends the process here, if it is told to: never, in a release.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub(crate) fn crash_point(_point: &'static str) {}
