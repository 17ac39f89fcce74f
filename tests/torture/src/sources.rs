//! Lead sources and operators, as good ones are: they try until they have an answer.
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream;
use dripline_domain::{Address, LeadKey};
use reqwest::StatusCode;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::history::{Promise, Submission, Suppression};
use crate::plan::{Arrival, Cause};
use crate::{lock, now};

/// After a failure a source waits a little longer each time, up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Taken {
    lead_id: String,
}

/// Hands a lead in until it has a 202, or `give_up` has come; and once more where the source lost the answer.
pub(crate) async fn submit(
    http: &reqwest::Client,
    url: &str,
    arrival: &Arrival,
    give_up: Instant,
    submissions: &Mutex<Vec<Submission>>,
) {
    let mut submission = Submission {
        address: arrival.address.clone(),
        sequence: arrival.sequence.clone(),
        key: arrival.key.clone(),
        first_tried: now(),
        last_tried: 0,
        tries: 0,
        promise: None,
        refused: None,
    };
    submission.promise = until_taken(http, url, &mut submission, give_up).await;
    if let Some(pause) = arrival.answer_lost {
        sleep(pause).await;
        // It had been promised already: another answer promises nothing new.
        until_taken(http, url, &mut submission, give_up).await;
    }
    lock(submissions).push(submission);
}

async fn until_taken(
    http: &reqwest::Client,
    url: &str,
    submission: &mut Submission,
    give_up: Instant,
) -> Option<Promise> {
    let Submission { address, sequence, key, .. } = &*submission;
    // The name changes with each arrival, so that a second one has something to merge.
    let lead = json!({"email": address, "firstName": key, "sequence": sequence});
    let mut pause = Duration::from_millis(100);
    while Instant::now() < give_up {
        submission.tries += 1;
        submission.last_tried = now();
        match http.post(url).header("Idempotency-Key", &submission.key).json(&lead).send().await {
            Ok(response) if response.status() == StatusCode::ACCEPTED => {
                // An answer that breaks off in its body is a lost answer.
                if let Ok(Taken { lead_id }) = response.json().await {
                    return Some(Promise { at: now(), lead_id });
                }
            }
            Ok(response) if response.status().is_server_error() => {}
            Ok(response) => {
                let status = response.status();
                submission.refused = Some(format!("{status}: {}", response.text().await.unwrap_or_default()));
                return None;
            }
            Err(_) => {}
        }
        sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
    None
}

/// Puts an address into the bucket `suppressions`, until that is acknowledged or `give_up` has come.
pub(crate) async fn suppress(
    context: &jetstream::Context,
    address: &str,
    give_up: Instant,
    suppressions: &Mutex<Vec<Suppression>>,
) -> Result<()> {
    let key = LeadKey::of(&Address::parse(address).context("an address of ours is none")?);
    while Instant::now() < give_up {
        let put = async {
            let bucket = context.get_key_value("suppressions").await?;
            bucket.put(key.as_str(), json!({"reason": "asked by phone"}).to_string().into()).await?;
            anyhow::Ok(())
        };
        if let Ok(Ok(())) = timeout(Duration::from_secs(5), put).await {
            let cause = Cause::Operator;
            lock(suppressions).push(Suppression { address: address.to_owned(), cause, acknowledged: now() });
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
