//! What the types alone don't say.
use std::time::Duration;

use super::units::duration;
use super::{
    Alerts, Canary, CanaryEvidence, ConfigError, Engine, Esp, Feedback, Gateway, Guard, Loaded, Log, Metrics, Nats,
    OutgoingWebhook, Provider, Retry, Sequences, Telemetry, Unsubscribe,
};
use axum::http::Uri;
use dripline_domain::{JournalEvent, SOFT_BOUNCES_KEPT, check_region, split_mailbox};
use dripline_esp::{AlertEmail, AlertWebhook, HttpFrontDoor, HttpWebhook, Imap, Mailpit, Secret};
use tracing_subscriber::EnvFilter;

type Checked = Result<(), ConfigError>;

/// NATS keeps at most so many copies.
const MOST_REPLICAS: usize = 5;

/// Each is tried for a link that is none of ours.
const MOST_UNSUBSCRIBE_KEYS: usize = 16;
const SHORTEST_UNSUBSCRIBE_KEY: usize = 32;

/// A guard's window slides in steps of a 24th: shorter ones would be finer than clocks agree.
const SHORTEST_WINDOW: Duration = Duration::from_mins(1);

/// The first thing that is wrong.
pub fn validate(loaded: &Loaded) -> Checked {
    let config = &loaded.config;
    nats(loaded, &config.nats)?;
    esp(loaded, &config.esp)?;
    sequences(loaded, &config.sequences)?;
    gateway(loaded, &config.gateway)?;
    unsubscribe(loaded, &config.unsubscribe)?;
    engine(loaded, &config.engine, &config.esp)?;
    retry(loaded, &config.retry)?;
    feedback(loaded, &config.feedback)?;
    guard(loaded, &config.guard)?;
    for name in &config.statistics.exclude {
        ensure(loaded, "statistics.exclude", is_name(name), || not_a_name(name))?;
    }
    outgoing_webhooks(loaded, &config.outgoing_webhooks)?;
    alerts(loaded, &config.alerts)?;
    canary(loaded, &config.canary)?;
    log(loaded, &config.log)?;
    metrics(loaded, &config.metrics, &config.gateway)?;
    telemetry(loaded, &config.telemetry)
}

/// `key` must hold; otherwise `message` says what would.
fn ensure(loaded: &Loaded, key: &str, holds: bool, message: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(loaded.wrong(key, message())) }
}

fn at_least_one(loaded: &Loaded, key: &str, number: usize) -> Checked {
    ensure(loaded, key, number >= 1, || format!("`{number}` is too few; write 1 or more"))
}

fn longer_than_nothing(loaded: &Loaded, key: &str, time: Duration) -> Checked {
    ensure(loaded, key, !time.is_zero(), || "must be longer than nothing, such as \"10s\"".into())
}

fn nats(loaded: &Loaded, nats: &Nats) -> Checked {
    ensure(loaded, "nats.url", !nats.url.trim().is_empty(), || "is empty; write \"nats://host:4222\"".into())?;
    ensure(loaded, "nats.replicas", (1..=MOST_REPLICAS).contains(&nats.replicas), || {
        format!("`{}` is not from 1 to {MOST_REPLICAS}; write 1 for one server, 3 for a cluster", nats.replicas)
    })?;
    ensure(loaded, "nats.max_leads", nats.max_leads != Some(0), || {
        "`0` would take no lead; write 1 or more, or leave it out".into()
    })?;
    if nats.user.is_some() && nats.password.is_none() {
        return Err(ConfigError::missing("nats.password"));
    }
    if nats.password.is_some() && nats.user.is_none() {
        return Err(ConfigError::missing("nats.user"));
    }
    let ways = [
        ("nats.user", nats.user.is_some()),
        ("nats.nkey_seed", nats.nkey_seed.is_some()),
        ("nats.creds_file", nats.creds_file.is_some()),
    ];
    let mut chosen = ways.iter().filter(|(_, is_set)| *is_set).map(|(key, _)| *key);
    match (chosen.next(), chosen.next()) {
        (Some(first), Some(second)) => Err(loaded.wrong(second, format!("{first} is set as well; keep one of them"))),
        _ => Ok(()),
    }
}

fn esp(loaded: &Loaded, esp: &Esp) -> Checked {
    ensure(loaded, "esp.rate", esp.rate.is_finite() && esp.rate >= 0.0, || {
        format!("`{}` is not a rate; write emails a second, or 0 for no limit", esp.rate)
    })?;
    at_least_one(loaded, "esp.in_flight", esp.in_flight)?;
    longer_than_nothing(loaded, "esp.timeout", esp.timeout)?;
    ensure(loaded, "esp.breaker_failures", esp.breaker_failures >= 1, || "`0` is too few; write 1 or more".into())?;
    longer_than_nothing(loaded, "esp.probe_every", esp.probe_every)?;
    provider(esp, esp.provider)?;
    let mut chosen = vec![esp.provider];
    for &fallback in &esp.fallback {
        ensure(loaded, "esp.fallback", !chosen.contains(&fallback), || {
            "names the provider itself, or one twice; write each once".into()
        })?;
        provider(esp, fallback)?;
        chosen.push(fallback);
    }
    Ok(())
}

/// A chosen provider must have what it cannot do without.
fn provider(esp: &Esp, chosen: Provider) -> Checked {
    let missing = match chosen {
        Provider::Outbox => None,
        Provider::Sendgrid => {
            let has_key = esp.sendgrid.as_ref().is_some_and(|sendgrid| !sendgrid.api_key.is_empty());
            (!has_key).then_some("esp.sendgrid.api_key")
        }
        Provider::Mailgun => match &esp.mailgun {
            Some(mailgun) if mailgun.api_key.is_empty() => Some("esp.mailgun.api_key"),
            Some(mailgun) => mailgun.domain.is_empty().then_some("esp.mailgun.domain"),
            None => Some("esp.mailgun.api_key"),
        },
        Provider::Postmark => {
            let has_token = esp.postmark.as_ref().is_some_and(|postmark| !postmark.server_token.is_empty());
            (!has_token).then_some("esp.postmark.server_token")
        }
        Provider::Resend => {
            let has_key = esp.resend.as_ref().is_some_and(|resend| !resend.api_key.is_empty());
            (!has_key).then_some("esp.resend.api_key")
        }
        Provider::Smtp => match &esp.smtp {
            Some(smtp) if smtp.host.is_empty() => Some("esp.smtp.host"),
            Some(smtp) if smtp.username.is_some() && smtp.password.is_none() => Some("esp.smtp.password"),
            Some(smtp) => (smtp.password.is_some() && smtp.username.is_none()).then_some("esp.smtp.username"),
            None => Some("esp.smtp.host"),
        },
    };
    missing.map_or(Ok(()), |key| Err(ConfigError::missing(key)))
}

fn sequences(loaded: &Loaded, sequences: &Sequences) -> Checked {
    if let Some(name) = &sequences.default {
        ensure(loaded, "sequences.default", is_name(name), || not_a_name(name))?;
    }
    for (source, sequence) in &sequences.sources {
        ensure(loaded, "sequences.sources", is_name(source), || not_a_name(source))?;
        let key = format!("sequences.sources.{source}");
        ensure(loaded, &key, is_name(sequence), || not_a_name(sequence))?;
    }
    Ok(())
}

/// What a sequence or a source may be called: it becomes part of a subject.
fn is_name(name: &str) -> bool {
    crate::gateway::is_source(name)
}

fn not_a_name(name: &str) -> String {
    format!("`{name}` is not a name; write 1 to 64 of a-z, 0-9, _ and -")
}

fn gateway(loaded: &Loaded, gateway: &Gateway) -> Checked {
    at_least_one(loaded, "gateway.body_limit", gateway.body_limit)?;
    ensure(loaded, "gateway.api_keys", gateway.api_keys.iter().all(|key| !key.is_empty()), || {
        "an empty key would let everyone in; remove it".into()
    })?;
    for origin in &gateway.cors_origins {
        ensure(loaded, "gateway.cors_origins", origin == "*" || is_origin(origin), || {
            format!("`{origin}` is not an origin; write \"https://acme.example\" without a path, or \"*\"")
        })?;
    }
    let Some(url) = &gateway.form_redirect else { return Ok(()) };
    ensure(loaded, "gateway.form_redirect", is_url(url), || {
        format!("`{url}` is not a web address; write \"https://acme.example/thanks\"")
    })
}

fn is_url(url: &str) -> bool {
    (url.starts_with("https://") || url.starts_with("http://")) && is_visible(url)
}

/// Scheme, host and perhaps a port, as a browser sends it.
fn is_origin(origin: &str) -> bool {
    let host = origin.split_once("://").filter(|(scheme, _)| !scheme.is_empty()).map(|(_, host)| host);
    host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', '@', '*'])) && is_visible(origin)
}

/// Can stand in a header.
fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn unsubscribe(loaded: &Loaded, unsubscribe: &Unsubscribe) -> Checked {
    if let Some(url) = &unsubscribe.base_url {
        ensure(loaded, "unsubscribe.base_url", is_base_url(url), || {
            format!("`{url}` cannot be the beginning of a link; write \"https://mail.acme.example\"")
        })?;
    }
    ensure(loaded, "unsubscribe.keys", unsubscribe.keys.len() <= MOST_UNSUBSCRIBE_KEYS, || {
        format!("are more than {MOST_UNSUBSCRIBE_KEYS}; leave out the last ones")
    })?;
    let long_enough = |key: &Secret| key.expose().chars().count() >= SHORTEST_UNSUBSCRIBE_KEY;
    ensure(loaded, "unsubscribe.keys", unsubscribe.keys.iter().all(long_enough), || {
        format!(
            "each must have {SHORTEST_UNSUBSCRIBE_KEY} characters or more, so that nobody guesses it; make one with \
             `openssl rand -hex 32`"
        )
    })
}

/// As mail programs take a link for one click: HTTPS (RFC 8058 §3.1). Without it only on this machine, to try it out.
fn is_base_url(url: &str) -> bool {
    let plain = !url.contains(['?', '#', '@', '<', '>', '"', '\'', '&']) && is_visible(url);
    let Some(uri) = url.parse::<Uri>().ok().filter(|uri| plain && uri.host().is_some_and(|host| !host.is_empty()))
    else {
        return false;
    };
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => matches!(uri.host(), Some("localhost" | "127.0.0.1" | "[::1]")),
        _ => false,
    }
}

fn engine(loaded: &Loaded, engine: &Engine, esp: &Esp) -> Checked {
    at_least_one(loaded, "engine.resident_leads", engine.resident_leads)?;
    at_least_one(loaded, "engine.in_flight", engine.in_flight)?;
    ensure(loaded, "engine.ack_wait", engine.ack_wait >= Duration::from_secs(1), || {
        format!("`{}` is too short; write \"1s\" or longer", duration::show(&engine.ack_wait))
    })?;
    // Whichever of the two was set is the one to change.
    let key = if esp.timeout == Esp::default().timeout { "engine.ack_wait" } else { "esp.timeout" };
    ensure(loaded, key, engine.ack_wait > esp.timeout, || {
        format!(
            "engine.ack_wait ({}) must be longer than esp.timeout ({}), or NATS hands out an email again that is still being sent",
            duration::show(&engine.ack_wait),
            duration::show(&esp.timeout)
        )
    })?;
    longer_than_nothing(loaded, "engine.idle", engine.idle)?;
    longer_than_nothing(loaded, "engine.sweep_every", engine.sweep_every)?;
    match engine.default_region.as_deref().map(check_region) {
        Some(Err(error)) => Err(loaded.wrong("engine.default_region", error.to_string())),
        Some(Ok(())) | None => Ok(()),
    }
}

fn retry(loaded: &Loaded, retry: &Retry) -> Checked {
    ensure(loaded, "retry.max_attempts", retry.max_attempts >= 1, || "`0` is too few; write 1 or more".into())?;
    longer_than_nothing(loaded, "retry.first", retry.first)?;
    let key = if retry.longest == Retry::default().longest { "retry.first" } else { "retry.longest" };
    ensure(loaded, key, retry.first <= retry.longest, || {
        format!(
            "retry.longest ({}) must not be shorter than retry.first ({})",
            duration::show(&retry.longest),
            duration::show(&retry.first)
        )
    })
}

fn feedback(loaded: &Loaded, feedback: &Feedback) -> Checked {
    let (key, most) = ("feedback.soft_bounces", SOFT_BOUNCES_KEPT);
    ensure(loaded, key, (1..=most).contains(&feedback.soft_bounces), || {
        format!("`{}` is not from 1 to {most}", feedback.soft_bounces)
    })?;
    longer_than_nothing(loaded, "feedback.soft_bounces_within", feedback.soft_bounces_within)
}

fn guard(loaded: &Loaded, guard: &Guard) -> Checked {
    ensure(loaded, "guard.window", guard.window >= SHORTEST_WINDOW, || {
        format!("`{}` is too short; write \"1m\" or longer", duration::show(&guard.window))
    })?;
    for (key, limit) in [("guard.bounce_limit", guard.bounce_limit), ("guard.complaint_limit", guard.complaint_limit)] {
        ensure(loaded, key, (0.0..=1.0).contains(&limit), || {
            format!("`{limit}` is not a part of the emails; write 0.05 for 5 %, or 1 to turn it off")
        })?;
    }
    ensure(loaded, "guard.least", guard.least >= 1, || "`0` is too few; write 1 or more".into())
}

fn outgoing_webhooks(loaded: &Loaded, webhooks: &[OutgoingWebhook]) -> Checked {
    let mut names = Vec::new();
    for (place, OutgoingWebhook { name, url, secret, events }) in webhooks.iter().enumerate() {
        let key = |key: &str| format!("outgoing_webhooks.{place}.{key}");
        ensure(loaded, &key("name"), is_name(name), || not_a_name(name))?;
        ensure(loaded, &key("name"), !names.contains(&name), || format!("`{name}` is there twice; write another"))?;
        names.push(name);
        HttpWebhook::new(name, url, secret)
            .map_err(|error| loaded.wrong(&format!("outgoing_webhooks.{place}"), error.to_string()))?;
        let Some(events) = events else { continue };
        ensure(loaded, &key("events"), !events.is_empty(), || "is empty; leave it out for all events".into())?;
        for event in events {
            match event {
                JournalEvent::Lead(_) | JournalEvent::Control(_) => {}
                JournalEvent::Unknown(name) => {
                    let message = format!("`{name}` is no event of the journal; docs/outgoing-webhooks.md lists them");
                    return Err(loaded.wrong(&key("events"), message));
                }
            }
        }
    }
    Ok(())
}

fn alerts(loaded: &Loaded, alerts: &Alerts) -> Checked {
    if let Some(url) = &alerts.webhook_url {
        AlertWebhook::generic(url).map_err(|error| loaded.wrong("alerts.webhook_url", error.to_string()))?;
    }
    if let Some(url) = &alerts.slack_url {
        AlertWebhook::slack(url).map_err(|error| loaded.wrong("alerts.slack_url", error.to_string()))?;
    }
    if !alerts.email_to.is_empty() {
        let from = alerts.email_from.as_ref().ok_or_else(|| ConfigError::missing("alerts.email_from"))?;
        ensure(loaded, "alerts.email_from", split_mailbox(from).is_some(), || not_a_mailbox(from))?;
        let server = alerts.smtp.as_ref().filter(|smtp| !smtp.host.is_empty());
        let server = server.ok_or_else(|| ConfigError::missing("alerts.smtp.host"))?;
        AlertEmail::new(server, from, Vec::new())
            .map_err(|error| loaded.wrong("alerts.smtp", error.to_string().replace("esp.smtp", "alerts.smtp")))?;
    }
    longer_than_nothing(loaded, "alerts.every", alerts.every)?;
    ensure(loaded, "alerts.patience", alerts.patience >= alerts.every * 3, || {
        let (patience, every) = (duration::show(&alerts.patience), duration::show(&alerts.every));
        format!("`{patience}` is too short; write three times alerts.every ({every}) or longer")
    })?;
    longer_than_nothing(loaded, "alerts.repeat", alerts.repeat)?;
    longer_than_nothing(loaded, "alerts.queue_age", alerts.queue_age)?;
    longer_than_nothing(loaded, "alerts.within", alerts.within)?;
    for (key, count) in [("alerts.rejected", alerts.rejected), ("alerts.in_doubt", alerts.in_doubt)] {
        ensure(loaded, key, count >= 1, || "`0` is too few; write 1 or more".into())?;
    }
    Ok(())
}

fn not_a_mailbox(text: &str) -> String {
    format!("`{text}` is not a mailbox; write \"Acme <hello@acme.example>\"")
}

fn canary(loaded: &Loaded, canary: &Canary) -> Checked {
    if canary.address.is_none() {
        return Ok(());
    }
    match (&canary.sequence, &canary.from) {
        (Some(name), _) => ensure(loaded, "canary.sequence", is_name(name), || not_a_name(name))?,
        (None, Some(from)) => ensure(loaded, "canary.from", split_mailbox(from).is_some(), || not_a_mailbox(from))?,
        (None, None) => {
            return Err(ConfigError::missing("canary.from").because("the canary's own sequence needs a sender"));
        }
    }
    for (key, time) in
        [("canary.interval", canary.interval), ("canary.retry", canary.retry), ("canary.deadline", canary.deadline)]
    {
        longer_than_nothing(loaded, key, time)?;
    }
    if let Some(url) = &canary.gateway_url {
        HttpFrontDoor::new(url, "canary.gateway_url", None)
            .map_err(|error| loaded.wrong("canary.gateway_url", error.to_string()))?;
    }
    match canary.evidence {
        CanaryEvidence::Webhook => Ok(()),
        CanaryEvidence::Mailpit => {
            let url = canary.mailpit_url.as_ref().ok_or_else(|| ConfigError::missing("canary.mailpit_url"))?;
            Mailpit::new(url).map(drop).map_err(|error| loaded.wrong("canary.mailpit_url", error.to_string()))
        }
        CanaryEvidence::Imap => {
            let imap = canary.imap.clone().unwrap_or_default();
            let needed = [
                ("canary.imap.host", imap.host.is_empty()),
                ("canary.imap.username", imap.username.is_empty()),
                ("canary.imap.password", imap.password.is_empty()),
            ];
            match needed.into_iter().find(|(_, missing)| *missing) {
                Some((key, _)) => Err(ConfigError::missing(key)),
                None => Imap::new(&imap).map(drop).map_err(|error| loaded.wrong("canary.imap", error.to_string())),
            }
        }
    }
}

fn log(loaded: &Loaded, log: &Log) -> Checked {
    filter(&log.level).map_err(|message| loaded.wrong("log.level", message))
}

fn metrics(loaded: &Loaded, metrics: &Metrics, gateway: &Gateway) -> Checked {
    // Port 0 is a free one, another each time.
    let same = metrics.listen.is_some_and(|listen| listen.port() != 0 && listen == gateway.listen);
    ensure(loaded, "metrics.listen", !same, || {
        format!("`{}` is where the gateway listens; take another port", gateway.listen)
    })
}

fn telemetry(loaded: &Loaded, telemetry: &Telemetry) -> Checked {
    ensure(loaded, "telemetry.sample_ratio", (0.0..=1.0).contains(&telemetry.sample_ratio), || {
        format!("`{}` is not from 0 to 1; write 0.1 to send a tenth of the traces", telemetry.sample_ratio)
    })?;
    let Some(url) = &telemetry.otlp_endpoint else { return Ok(()) };
    ensure(loaded, "telemetry.otlp_endpoint", is_url(url), || {
        format!("`{url}` is not a web address; write \"http://127.0.0.1:4318\"")
    })
}

/// Whether this says which events are logged.
pub fn filter(text: &str) -> Result<(), String> {
    EnvFilter::try_new(text).map(drop).map_err(|_| {
        format!(
            "`{text}` is not a level; write error, warn, info, debug or trace, or a filter such as \"info,dripline=debug\""
        )
    })
}
