//! The way back: a person who follows the link of an email, and the provider that tells what became of one. Both try until
//! they have a 200.
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dripline_domain::Timestamp;
use dripline_stand_in::Accepted;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::history::Suppression;
use crate::now;
use crate::plan::Cause;
use crate::world::StandIn;

/// Who has no email by then says nothing.
const EMAIL_WITHIN: Duration = Duration::from_secs(3);
/// As often as a patient person presses: the page takes 20 changes of mind a minute from one address.
const PAUSE: Duration = Duration::from_secs(1);

/// What Postmark calls our webhook with, which it does not sign.
pub(crate) const USER: &str = "postmark";
pub(crate) const PASSWORD: &str = "torture";

/// Has a person, or the provider, say that an address must not be mailed. None where it was not mailed yet, or `give_up`
/// has come.
///
/// # Errors
/// The stand-in cannot be reached. An answer that no good request should get is the inner error.
pub(crate) async fn tell(
    http: &reqwest::Client,
    webhook: &str,
    provider: &StandIn,
    address: &str,
    cause: Cause,
    give_up: Instant,
) -> Result<Result<Option<Suppression>>> {
    let Some(email) = mailed(provider, address).await? else { return Ok(Ok(None)) };
    let request = match cause {
        Cause::Operator | Cause::Unsubscribe => match link(&email) {
            Ok(link) => http.post(link).form(&[("List-Unsubscribe", "One-Click")]),
            Err(error) => return Ok(Err(error)),
        },
        Cause::Complaint | Cause::HardBounce => {
            http.post(webhook).basic_auth(USER, Some(PASSWORD)).json(&event(&email, cause))
        }
    };
    Ok(until_taken(&request, give_up)
        .await
        .map(|taken| taken.map(|acknowledged| Suppression { address: address.to_owned(), cause, acknowledged })))
}

/// The first email to this address.
async fn mailed(provider: &StandIn, address: &str) -> Result<Option<Accepted>> {
    let since = Instant::now();
    loop {
        if let Some(email) = provider.accepted_by(address).await?.into_iter().next() {
            return Ok(Some(email));
        }
        if since.elapsed() > EMAIL_WITHIN {
            return Ok(None);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Where a mail program finds it.
fn link(email: &Accepted) -> Result<&str> {
    let link = email.unsubscribe.strip_prefix('<').and_then(|link| link.strip_suffix('>'));
    link.with_context(|| format!("an email to {} has no link to unsubscribe: `{}`", email.to, email.unsubscribe))
}

/// <https://postmarkapp.com/developer/webhooks/bounce-webhook>,
/// <https://postmarkapp.com/developer/webhooks/spam-complaint-webhook>
fn event(email: &Accepted, cause: Cause) -> Value {
    let (record, kind, code) = match cause {
        Cause::Complaint => ("SpamComplaint", "SpamComplaint", 512),
        Cause::Operator | Cause::Unsubscribe | Cause::HardBounce => ("Bounce", "HardBounce", 1),
    };
    let Accepted { send_key, lead_id, to, sequence, step, subject, message_id, .. } = email;
    json!({
        "RecordType": record, "ID": now(), "Type": kind, "TypeCode": code, "Name": kind, "Tag": sequence,
        "MessageID": message_id, "ServerID": 1, "MessageStream": "outbound", "Email": to, "From": "hello@acme.example",
        "Metadata": {"send_key": send_key, "lead_id": lead_id, "sequence": sequence, "step": step},
        "Description": "", "Details": "as the torture has it", "Subject": subject,
        "BouncedAt": Timestamp::from_millis(i64::try_from(now()).unwrap_or(i64::MAX)).to_string(),
        "DumpAvailable": false, "Inactive": true, "CanActivate": false,
    })
}

/// When it was taken.
async fn until_taken(request: &RequestBuilder, give_up: Instant) -> Result<Option<u64>> {
    while Instant::now() < give_up {
        let again = request.try_clone().context("a request cannot be made twice")?;
        match again.send().await {
            Ok(response) if response.status() == StatusCode::OK => return Ok(Some(now())),
            Ok(response)
                if response.status().is_server_error() || response.status() == StatusCode::TOO_MANY_REQUESTS => {}
            Ok(response) => bail!("{} for {request:?}: {}", response.status(), response.text().await?),
            Err(_) => {}
        }
        sleep(PAUSE).await;
    }
    Ok(None)
}
