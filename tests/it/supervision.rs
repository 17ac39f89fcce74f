//! A lead whose actor fails costs only that lead.
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dripline::config::Config;
use dripline::service;
use dripline_actors::Engine;
use dripline_actors::ports::{ComposeError, Composer, Esp};
use dripline_domain::{Email, Lead, Outcome, Sequence, SmolStr};
use dripline_esp::{MinijinjaComposer, UnsubscribeLinks};
use dripline_nats::{Connections, topology};
use dripline_test_support::until;

use crate::system::{System, UNSUBSCRIBE_KEY};

/// A composer with a bug that shows for one lead.
struct Buggy(MinijinjaComposer);

impl Composer for Buggy {
    fn compose(&self, sequence: &Arc<Sequence>, step: usize, lead: &Lead, key: SmolStr) -> Result<Email, ComposeError> {
        assert!(!lead.address.as_str().starts_with("bug"), "a bug shows for this lead");
        self.0.compose(sequence, step, lead, key)
    }
}

struct Accepting;

#[async_trait]
impl Esp for Accepting {
    fn name(&self) -> &'static str {
        "accepting"
    }

    async fn send(&self, _: &Email) -> Outcome {
        Outcome::Accepted { message_id: "m".into() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_whose_actor_fails_again_and_again_is_parked_and_the_others_go_on() {
    let system = System::new("resend").await;
    let variables = system.variables().iter().map(|(name, value)| (name.into(), value.into()));
    let mut loaded = Config::load_with(Some(Path::new("/dev/null")), variables).unwrap();
    loaded.config.sequences.dir = system.dir().join("sequences");
    loaded.config.engine.restart_limit = 3;
    let config = &loaded.config;

    let metrics = dripline::metrics::install().unwrap();
    let connections = service::connect(config, "test").await.unwrap();
    let context = Connections::jetstream(&connections.general);
    let applied = topology::apply(&context, service::topology_options(config)).await.unwrap();
    let links = UnsubscribeLinks::new(&system.gateway(""), UNSUBSCRIBE_KEY.as_bytes(), []);
    let sequences = service::sequences(&loaded, &connections).await.unwrap();
    let (esps, lead_ids) = (vec![Arc::new(Accepting) as Arc<dyn Esp>], applied.lead_ids.clone());
    let mut ports = service::ports(config, &connections, esps, links.clone(), lead_ids, sequences).await.unwrap();
    ports.composer = Arc::new(Buggy(MinijinjaComposer::new(Some(links))));
    let settings = service::settings(config, "test-engine".to_owned(), applied.lead_ids);
    let engine = Engine::start(ports, settings).await.unwrap();

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
