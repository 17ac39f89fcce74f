//! The canary, as configured: its sequence, its way in, its mailbox.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use dripline_actors::ports::FrontDoor;
use dripline_actors::{CanaryPorts, Evidence};
use dripline_domain::{CanaryRules, Reentry, Send, Sequence, Step, Template};
use dripline_esp::{HttpFrontDoor, Imap, Mailpit};
use dripline_nats::{Connections, JetStreamCanary};
use sha2::{Digest as _, Sha256};

use crate::config::{Canary, CanaryEvidence, Config};

/// The built-in sequence.
const BUILT_IN: &str = "dripline-canary";
const HTML: &str = "<p>This email was sent by the canary of Dripline to find out whether emails arrive.</p>";

/// The sequence of the canary, where there is one.
pub(crate) fn sequence_name(canary: &Canary) -> Option<String> {
    canary.address.as_ref()?;
    Some(canary.sequence.clone().unwrap_or_else(|| BUILT_IN.to_owned()))
}

/// The built-in sequence, where it is used.
pub(crate) fn built_in(canary: &Canary) -> Option<Sequence> {
    let from = canary.from.as_ref().filter(|_| canary.address.is_some() && canary.sequence.is_none())?;
    let step = |id: &str, after: Duration| Step {
        id: id.into(),
        after,
        send: Send { subject: format!("Dripline canary: {id}"), template: "canary".to_owned() },
    };
    let sequence = Sequence {
        name: BUILT_IN.into(),
        version: 1,
        from: from.as_str().into(),
        reply_to: None,
        reentry: Reentry::Ignore,
        // Nobody reads it, so nobody unsubscribes.
        transactional: true,
        steps: vec![step("first", Duration::ZERO), step("second", canary.step_after)],
        templates: BTreeMap::from([("canary".to_owned(), Template { html: Some(HTML.to_owned()), text: None })]),
    };
    // Another content is another version; nobody raises it by hand here.
    let content = Sha256::digest(serde_json::to_vec(&sequence).unwrap_or_default());
    let version = u32::from_be_bytes([content[0], content[1], content[2], content[3]]) >> 1;
    Some(Sequence { version: version.max(1), ..sequence })
}

/// What the canary needs, where there is one.
pub(crate) async fn ports(
    config: &Config,
    connections: &Connections,
    front_door: &Arc<dyn FrontDoor>,
) -> anyhow::Result<Option<CanaryPorts>> {
    let canary = &config.canary;
    let (Some(address), Some(sequence)) = (canary.address.clone(), sequence_name(canary)) else { return Ok(None) };
    let gateway: Option<Arc<dyn FrontDoor>> = match &canary.gateway_url {
        Some(url) => {
            let key = config.gateway.api_keys.first().cloned();
            Some(Arc::new(HttpFrontDoor::new(url, "canary.gateway_url", key)?))
        }
        None => None,
    };
    let evidence = match canary.evidence {
        CanaryEvidence::Webhook => Evidence::Webhooks,
        CanaryEvidence::Mailpit => {
            Evidence::Mailbox(Arc::new(Mailpit::new(canary.mailpit_url.as_deref().unwrap_or_default())?))
        }
        CanaryEvidence::Imap => Evidence::Mailbox(Arc::new(Imap::new(&canary.imap.clone().unwrap_or_default())?)),
    };
    let Canary { interval, retry, deadline, .. } = *canary;
    Ok(Some(CanaryPorts {
        store: Arc::new(JetStreamCanary::open(connections).await.context("bucket canary")?),
        door: gateway.clone().unwrap_or_else(|| Arc::clone(front_door)),
        gateway,
        evidence,
        address,
        rules: CanaryRules { sequence, interval, retry: retry.min(interval), deadline },
    }))
}
