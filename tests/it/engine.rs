//! An engine within the test, one of whose ports is the test's own.
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use dripline::config::Config;
use dripline::service;
use dripline_actors::ports::Esp;
use dripline_actors::{Engine, Ports};
use dripline_domain::{Email, Outcome};
use dripline_esp::UnsubscribeLinks;
use dripline_nats::{Connections, topology};

use crate::system::{System, UNSUBSCRIBE_KEY};

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

/// Starts it, with what `replace` makes of its ports; its provider takes every email.
pub async fn start(system: &System, replace: impl FnOnce(&mut Ports, UnsubscribeLinks)) -> Engine {
    let variables = system.variables().iter().map(|(name, value)| (name.into(), value.into()));
    let mut loaded = Config::load_with(Some(Path::new("/dev/null")), variables).unwrap();
    loaded.config.sequences.dir = system.dir().join("sequences");
    let config = &loaded.config;
    let connections = service::connect(config, "test").await.unwrap();
    let context = Connections::jetstream(&connections.general);
    let applied = topology::apply(&context, service::topology_options(config)).await.unwrap();
    let links = UnsubscribeLinks::new(&system.gateway(""), UNSUBSCRIBE_KEY.as_bytes(), []);
    let sequences = service::sequences(&loaded, &connections).await.unwrap();
    let (esps, lead_ids) = (vec![Arc::new(Accepting) as Arc<dyn Esp>], applied.lead_ids.clone());
    let ports = service::ports(config, &connections, esps, links.clone(), lead_ids, sequences);
    let mut ports = Box::pin(ports).await.unwrap();
    replace(&mut ports, links);
    // Of this server alone: actors are registered under it, for all tests of this process.
    let owner = format!("test.{}", system.server.url().rsplit(':').next().unwrap());
    Engine::start(ports, service::settings(config, owner, applied.lead_ids)).await.unwrap()
}
