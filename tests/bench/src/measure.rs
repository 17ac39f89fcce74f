//! What is read of processes, and the arithmetic of a report.
use std::collections::HashMap;
use std::ops::RangeBounds;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use dripline_stand_in::{Accepted, Summary};
use serde::Serialize;

/// The processor time that these processes have used so far.
pub fn cpu(pids: &[u32]) -> Duration {
    pids.iter().filter_map(|&pid| dripline_test_support::cpu_time(pid)).sum()
}

/// The peak resident memory of these processes together, in MB.
pub fn peak_mb(pids: &[u32]) -> u64 {
    pids.iter().filter_map(|&pid| dripline_test_support::peak_memory(pid)).sum::<u64>() >> 20
}

/// The memory these processes hold now, in MB.
pub fn resident_mb(pids: &[u32]) -> u64 {
    let resident = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    };
    pids.iter().filter_map(resident).sum::<u64>() >> 10
}

pub fn cores() -> Result<usize> {
    Ok(std::thread::available_parallelism()?.get())
}

/// Milliseconds since 1970, as the stand-in and the server date what they take.
pub fn now_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

// Counts here are far below 2^52.
#[allow(clippy::cast_precision_loss)]
pub fn float(count: usize) -> f64 {
    count as f64
}

pub fn two_places(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

pub fn seconds(time: Duration) -> f64 {
    two_places(time.as_secs_f64())
}

pub fn per_second(count: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { (float(count) / time.as_secs_f64()).round() }
}

/// Of each of so many things, in microseconds.
pub fn micros_each(time: Duration, count: usize) -> f64 {
    if count == 0 { 0.0 } else { (time.as_secs_f64() * 1e6 / float(count)).round() }
}

pub fn percentile(sorted: &[i64], percent: usize) -> i64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

/// What the provider saw, and what it cost.
#[derive(Debug, Serialize)]
pub struct Seen {
    pub sends: usize,
    pub duplicates: usize,
    pub missing: usize,
    /// Between the first and the last email.
    pub sends_per_s: f64,
    /// How much later than its time an email after the first left.
    pub lag_p50_ms: i64,
    pub lag_p99_ms: i64,
    pub lag_max_ms: i64,
    /// Processor time a send, user and system, which is steadier than the speed where others use the machine too.
    pub engine_cpu_us: f64,
    pub nats_server_cpu_us: f64,
}

impl Seen {
    pub fn new(expected: usize, summary: &Summary, lags: &[i64], [engine_cpu, server_cpu]: [Duration; 2]) -> Self {
        let span = summary.last_at.zip(summary.first_at).map_or(0, |(last, first)| last - first);
        Self {
            sends: summary.accepted,
            duplicates: summary.duplicates,
            missing: expected.saturating_sub(summary.distinct_send_keys),
            sends_per_s: per_second(summary.accepted, Duration::from_millis(span)),
            lag_p50_ms: percentile(lags, 50),
            lag_p99_ms: percentile(lags, 99),
            lag_max_ms: lags.last().copied().unwrap_or(0),
            engine_cpu_us: micros_each(engine_cpu, summary.accepted),
            nats_server_cpu_us: micros_each(server_cpu, summary.accepted),
        }
    }

    /// # Errors
    /// An email went twice, or did not go.
    pub fn check(&self) -> Result<()> {
        let Self { duplicates, missing, .. } = self;
        ensure!(*duplicates == 0 && *missing == 0, "{duplicates} emails went twice, {missing} did not go");
        Ok(())
    }
}

/// How much later than `every` after the one before it an email left, in milliseconds and rising order: of those that
/// were due within `window`, in milliseconds since 1970.
pub fn lags(accepted: &[Accepted], every: Duration, window: impl RangeBounds<u64>) -> Vec<i64> {
    let every = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
    let mut by_lead: HashMap<&str, Vec<u64>> = HashMap::new();
    for email in accepted {
        by_lead.entry(&email.lead_id).or_default().push(email.at);
    }
    let mut lags = Vec::new();
    for times in by_lead.values_mut() {
        times.sort_unstable();
        for pair in times.windows(2) {
            let due = pair[0].saturating_add(every);
            if window.contains(&due) {
                lags.push(i64::try_from(pair[1]).unwrap_or(i64::MAX) - i64::try_from(due).unwrap_or(i64::MAX));
            }
        }
    }
    lags.sort_unstable();
    lags
}

// The report is what this program is for.
#[allow(clippy::print_stdout)]
pub fn report(report: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}

// Some scenarios take minutes: whoever waits should see why.
#[allow(clippy::print_stderr)]
pub fn progress(text: impl std::fmt::Display) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use dripline_stand_in::Vendor;

    #[test]
    fn a_lag_is_counted_from_the_email_before() {
        let email = |lead: &str, at| Accepted {
            provider: Vendor::Resend,
            send_key: "".into(),
            lead_id: lead.into(),
            to: "".into(),
            sequence: "".into(),
            step: "".into(),
            subject: "".into(),
            via: "".into(),
            unsubscribe: "".into(),
            message_id: "".into(),
            at,
        };
        let accepted = [email("a", 5_000), email("b", 1_200), email("a", 7_100), email("b", 2_250), email("a", 6_010)];
        assert_eq!(lags(&accepted, Duration::from_secs(1), ..), [10, 50, 90]);
        assert_eq!(lags(&accepted, Duration::from_secs(1), 2_200..7_000), [10, 50]);
    }

    #[test]
    fn a_percentile_of_few_is_one_of_them() {
        assert_eq!(percentile(&[], 99), 0);
        assert_eq!(percentile(&[1, 2, 3], 50), 2);
        assert_eq!(percentile(&[1, 2, 3], 100), 3);
    }
}
