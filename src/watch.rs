//! The watchers of this process, as configured.
use std::sync::Arc;

use anyhow::Context as _;
use dripline_actors::ports::{AlertChannel, Controls, FrontDoor};
use dripline_actors::{Providers, Watch, WatchPorts};
use dripline_esp::{AlertEmail, AlertWebhook};
use dripline_nats::{Connections, JetStreamAlerts, JetStreamSurveyor};

use crate::canary;
use crate::config::{Alerts, Config};
use crate::service::SystemClock;

/// Starts the alerts, and the canary where there is one.
pub(crate) async fn start(
    config: &Config,
    connections: &Connections,
    owner: String,
    front_door: &Arc<dyn FrontDoor>,
    providers: Option<Providers>,
    controls: Arc<dyn Controls>,
) -> anyhow::Result<Watch> {
    let context = Connections::jetstream(&connections.general);
    let ports = WatchPorts {
        owner,
        clock: Arc::new(SystemClock),
        surveyor: Arc::new(JetStreamSurveyor::open(connections).await.context("bucket statistics")?),
        controls,
        front_door: Arc::clone(front_door),
        providers,
        alerts: Arc::new(JetStreamAlerts::open(&context).await.context("bucket alerts")?),
        channels: channels(&config.alerts)?,
        canary: canary::ports(config, connections, front_door).await?,
    };
    Watch::start(ports, (&config.alerts).into()).await.context("the watchers did not start")
}

fn channels(alerts: &Alerts) -> anyhow::Result<Vec<Arc<dyn AlertChannel>>> {
    let Alerts { webhook_url, slack_url, email_to, email_from, smtp, .. } = alerts;
    let mut channels: Vec<Arc<dyn AlertChannel>> = Vec::new();
    if let Some(url) = webhook_url {
        channels.push(Arc::new(AlertWebhook::generic(url)?));
    }
    if let Some(url) = slack_url {
        channels.push(Arc::new(AlertWebhook::slack(url)?));
    }
    if let (false, Some(from), Some(server)) = (email_to.is_empty(), email_from, smtp) {
        channels.push(Arc::new(AlertEmail::new(server, from, email_to.clone())?));
    }
    Ok(channels)
}
