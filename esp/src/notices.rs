//! How people are told of alerts: webhooks, Slack's form of them, and email by a mail server of its own, since the
//! provider may be what is sick.
use std::time::Duration;

use async_trait::async_trait;
use dripline_actors::ports::{AlertChannel, ChannelError, Esp};
use dripline_domain::{Address, Alert, Email, NoticeKind, Outcome, SmolStr, Timestamp};
use reqwest::{Client, Url};
use serde_json::{Value, json};

use crate::http::{chain, client, parse};
use crate::{BuildError, Secret, Smtp, smtp};

/// One try takes no longer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a notice says, in a line: `[critical] no engine is alive: …`.
fn line(alert: &Alert, kind: NoticeKind) -> String {
    let Alert { severity, summary, since, .. } = alert;
    match kind {
        NoticeKind::Raised => format!("[{severity}] {summary}"),
        NoticeKind::Repeated => format!("[{severity}] still, since {since}: {summary}"),
        NoticeKind::Resolved => format!("[resolved] {summary} (since {since})"),
    }
}

/// When what it tells happened.
fn time(alert: &Alert, kind: NoticeKind) -> Timestamp {
    match kind {
        NoticeKind::Raised => alert.since,
        NoticeKind::Repeated => alert.told,
        NoticeKind::Resolved => alert.resolved.unwrap_or(alert.told),
    }
}

/// What is posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// For programs: type, timestamp, data, as the outgoing webhooks have it.
    Generic,
    /// What Slack takes, and many others (<https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>).
    Slack,
}

/// Notices by HTTP POST.
pub struct AlertWebhook {
    form: Form,
    url: Url,
    client: Client,
}

impl AlertWebhook {
    /// Posts JSON for programs.
    ///
    /// # Errors
    /// A URL that is none, no CA certificates.
    pub fn generic(url: &Secret) -> Result<Self, BuildError> {
        Self::new(Form::Generic, url, "alerts.webhook_url")
    }

    /// Posts what Slack shows.
    ///
    /// # Errors
    /// As [`AlertWebhook::generic`].
    pub fn slack(url: &Secret) -> Result<Self, BuildError> {
        Self::new(Form::Slack, url, "alerts.slack_url")
    }

    fn new(form: Form, url: &Secret, setting: &'static str) -> Result<Self, BuildError> {
        // The URL may hold a token, so it is not shown.
        let invalid = |_| BuildError::Invalid { setting, reason: "is not a URL that begins with https://".to_owned() };
        let url = parse(url.expose()).map_err(invalid)?;
        let client = client(&url, TIMEOUT, 1).build().map_err(BuildError::Client)?;
        Ok(Self { form, url, client })
    }

    fn body(&self, alert: &Alert, kind: NoticeKind) -> Value {
        let Alert { key, severity, summary, since, resolved, .. } = alert;
        match self.form {
            Form::Slack => json!({"text": line(alert, kind)}),
            Form::Generic => json!({
                "type": format!("dripline.alert.{}", kind.name()),
                "timestamp": time(alert, kind).to_string(),
                "data": {
                    "alert": key, "severity": severity, "summary": summary, "since": since.to_string(),
                    "resolved": resolved.map(|resolved| resolved.to_string()),
                },
            }),
        }
    }
}

#[async_trait]
impl AlertChannel for AlertWebhook {
    fn name(&self) -> &'static str {
        match self.form {
            Form::Generic => "webhook",
            Form::Slack => "slack",
        }
    }

    async fn tell(&self, alert: &Alert, kind: NoticeKind) -> Result<(), ChannelError> {
        let answer = self.client.post(self.url.clone()).json(&self.body(alert, kind)).send().await;
        let answer = answer.map_err(|error| ChannelError(chain(&error.without_url())))?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(ChannelError(format!("it answered {}", answer.status())))
        }
    }
}

/// Notices by email, one to each address.
pub struct AlertEmail {
    smtp: Smtp,
    from: String,
    to: Vec<Address>,
}

impl AlertEmail {
    /// By this mail server. `from` is a mailbox, as a header takes it.
    ///
    /// # Errors
    /// As [`Smtp::new`].
    pub fn new(server: &smtp::Config, from: &str, to: Vec<Address>) -> Result<Self, BuildError> {
        Ok(Self { smtp: Smtp::new(server, TIMEOUT, 1)?, from: from.to_owned(), to })
    }

    /// The same `Message-ID` on every try, so that a mailbox shows a repeated one once.
    fn email(&self, alert: &Alert, kind: NoticeKind, to: &Address) -> Email {
        let Alert { key, since, resolved, .. } = alert;
        let line = line(alert, kind);
        let at = time(alert, kind).as_millis();
        let until = resolved.map_or_else(String::new, |resolved| format!("Resolved: {resolved}\n"));
        Email {
            from: self.from.as_str().into(),
            to: to.clone(),
            reply_to: None,
            // A header, and so one line; a summary may quote what a provider said.
            subject: format!("Dripline: {line}")
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .take(200)
                .collect(),
            html: None,
            text: format!("{line}\n\nAlert: {key}\nSince: {since}\n{until}"),
            headers: vec![("Auto-Submitted", "auto-generated".to_owned())],
            message_id: format!("<{key}.{at}.{}@dripline.invalid>", kind.name()),
            send_key: format!("{key}.{at}.{}", kind.name()).into(),
            lead_id: SmolStr::default(),
            sequence: "alerts".into(),
            version: 1,
            step: kind.name().into(),
        }
    }
}

#[async_trait]
impl AlertChannel for AlertEmail {
    fn name(&self) -> &'static str {
        "email"
    }

    /// An address that is refused keeps the others from nothing; if any was not mailed, all are tried again.
    async fn tell(&self, alert: &Alert, kind: NoticeKind) -> Result<(), ChannelError> {
        let mut failure = None;
        for to in &self.to {
            match self.smtp.send(&self.email(alert, kind, to)).await {
                Outcome::Accepted { .. } => {}
                Outcome::RateLimited { .. } => failure = Some("the mail server is too busy".to_owned()),
                Outcome::Transient { reason }
                | Outcome::Refused { reason }
                | Outcome::Misconfigured { reason }
                | Outcome::Unknown { reason } => failure = Some(reason),
            }
        }
        failure.map_or(Ok(()), |reason| Err(ChannelError(reason)))
    }
}

#[cfg(test)]
mod tests {
    use dripline_domain::{Cause, Condition};

    use super::*;

    #[test]
    fn a_notice_says_what_is_wrong_and_when_it_is_over() {
        let condition = Condition { cause: Cause::NoEngine, summary: "no engine\r\nis alive".to_owned() };
        let alert = Alert::raise(&condition, &[], Timestamp::from_millis(0));
        let over = Alert { resolved: Some(Timestamp::from_millis(60_000)), ..alert.clone() };
        let of = |form| AlertWebhook::new(form, &Secret::from("http://127.0.0.1:1/"), "alerts.webhook_url").unwrap();
        let body = of(Form::Generic).body(&over, NoticeKind::Resolved);
        assert_eq!(body["type"], "dripline.alert.resolved");
        assert_eq!((&body["data"]["alert"], &body["data"]["severity"]), (&json!("no-engine"), &json!("critical")));
        assert_eq!(body["data"]["resolved"], "1970-01-01T00:01:00.000Z");
        assert_eq!(
            of(Form::Slack).body(&alert, NoticeKind::Raised),
            json!({"text": "[critical] no engine\r\nis alive"})
        );
        let server = smtp::Config { host: "mail.acme.example".to_owned(), ..smtp::Config::default() };
        let channel = AlertEmail::new(&server, "dripline@acme.example", Vec::new()).unwrap();
        let email = channel.email(&over, NoticeKind::Resolved, &Address::parse("ops@acme.example").unwrap());
        assert_eq!(email.subject, "Dripline: [resolved] no engine  is alive (since 1970-01-01T00:00:00.000Z)");
        assert!(email.text.contains("Resolved: 1970-01-01T00:01:00.000Z"), "{}", email.text);
    }

    #[test]
    fn a_webhook_url_that_is_none_is_not_shown() {
        let error = AlertWebhook::slack(&Secret::from("hooks.slack.example/secret")).err().unwrap().to_string();
        assert!(error.starts_with("alerts.slack_url") && !error.contains("secret"), "{error}");
    }
}
