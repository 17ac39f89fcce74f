use async_trait::async_trait;
use dripline_actors::ports::{Mailbox, MailboxError};
use dripline_domain::{Address, Arrived, SmolStr, Timestamp};
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{MOST_EMAILS, STEP_HEADER, TIMEOUT};
use crate::BuildError;
use crate::answer::Answer;
use crate::http::{chain, client, join, parse};

/// Mailpit, by its API (<https://mailpit.axllent.org/docs/api-v1/>).
pub struct Mailpit {
    url: Url,
    client: Client,
}

#[derive(Deserialize)]
struct Found {
    messages: Vec<Message>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Message {
    #[serde(rename = "ID")]
    id: String,
    created: jiff::Timestamp,
}

impl Mailpit {
    /// At this URL, without `/api`.
    ///
    /// # Errors
    /// A URL that is none, no CA certificates.
    pub fn new(url: &str) -> Result<Self, BuildError> {
        let url = parse(url).map_err(|reason| BuildError::Invalid { setting: "canary.mailpit_url", reason })?;
        let client = client(&url, TIMEOUT, 1).build().map_err(BuildError::Client)?;
        Ok(Self { url, client })
    }

    fn search(&self, address: &Address) -> Url {
        let mut url = join(&self.url, "/api/v1/search");
        let limit = MOST_EMAILS.to_string();
        url.query_pairs_mut().append_pair("query", &format!("to:\"{address}\"")).append_pair("limit", &limit);
        url
    }

    async fn ask(&self, request: RequestBuilder) -> Result<Answer, MailboxError> {
        // The query names the address.
        let response = request.send().await.map_err(|error| MailboxError(chain(&error.without_url())))?;
        let answer = Answer::read("Mailpit", response).await;
        if answer.status.is_success() { Ok(answer) } else { Err(MailboxError(answer.told())) }
    }

    async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, MailboxError> {
        let answer = self.ask(self.client.get(url)).await?;
        answer.json().ok_or_else(|| MailboxError(format!("not Mailpit's API: {}", answer.told())))
    }
}

#[async_trait]
impl Mailbox for Mailpit {
    async fn arrived(&self, address: &Address) -> Result<Vec<Arrived>, MailboxError> {
        let Found { mut messages } = self.get(self.search(address)).await?;
        messages.sort_by_key(|message| message.created);
        let mut arrived = Vec::with_capacity(messages.len());
        for Message { id, created } in messages {
            let url = join(&self.url, &format!("/api/v1/message/{id}/headers"));
            let headers: std::collections::HashMap<String, Vec<String>> = self.get(url).await?;
            arrived.push(Arrived {
                step: headers.get(STEP_HEADER).and_then(|values| values.first()).map(SmolStr::new),
                at: Some(Timestamp::from_millis(created.as_millisecond())),
            });
        }
        Ok(arrived)
    }

    async fn remove(&self, address: &Address) -> Result<(), MailboxError> {
        self.ask(self.client.delete(self.search(address))).await.map(drop)
    }
}
