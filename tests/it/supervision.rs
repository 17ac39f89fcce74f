//! A lead whose actor fails costs only that lead.
use std::sync::Arc;
use std::time::Duration;

use dripline_actors::ports::{ComposeError, Composer};
use dripline_domain::{Email, Lead, Sequence, SmolStr};
use dripline_esp::MinijinjaComposer;
use dripline_test_support::until;

use crate::engine::start;
use crate::system::System;

/// A composer with a bug that shows for one lead.
struct Buggy(MinijinjaComposer);

impl Composer for Buggy {
    fn compose(&self, sequence: &Arc<Sequence>, step: usize, lead: &Lead, key: SmolStr) -> Result<Email, ComposeError> {
        assert!(!lead.address.as_str().starts_with("bug"), "a bug shows for this lead");
        self.0.compose(sequence, step, lead, key)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_whose_actor_fails_again_and_again_is_parked_and_the_others_go_on() {
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_ENGINE__RESTART_LIMIT", "3");
    let metrics = dripline::metrics::install().unwrap();
    let engine =
        start(&system, |ports, links| ports.composer = Arc::new(Buggy(MinijinjaComposer::new(Some(links))))).await;

    system.publish("leads.new", r#"{"email": "bug@example.com"}"#).await;
    system.publish("leads.new", r#"{"email": "jane@example.com"}"#).await;
    system.until_status("jane=40example.com", "COMPLETED").await;
    let parked = system.until_status("bug=40example.com", "PARKED").await;
    let reason = parked["enrollments"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("failed 3 times") && reason.contains("a bug shows for this lead"), "{reason}");
    until("its message is in REJECTED", async || system.rejected("failed_repeatedly").await.len() == 1).await.unwrap();
    let measured = metrics.render();
    for line in [
        "dripline_lead_restarts_total 3",
        "dripline_lead_events_total{event=\"parked\"} 1",
        "dripline_lead_events_total{event=\"sent\"} 3",
        "dripline_rejected_total{code=\"failed_repeatedly\"} 1",
    ] {
        assert!(measured.lines().any(|measured| measured == line), "no {line} in:\n{measured}");
    }
    engine.stop(Duration::from_secs(5)).await;
}
