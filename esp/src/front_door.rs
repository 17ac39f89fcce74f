//! The gateway as its clients have it: the way in for the canary.
use std::time::Duration;

use async_trait::async_trait;
use dripline_actors::ports::{FrontDoor, FrontDoorError, Submission};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Client, RequestBuilder, Response, Url};

use crate::answer::Answer;
use crate::http::{client, join, parse};
use crate::{BuildError, Secret};

/// One request takes no longer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A gateway, by HTTP.
pub struct HttpFrontDoor {
    url: Url,
    key: Option<Secret>,
    client: Client,
}

impl HttpFrontDoor {
    /// At this URL, as the internet has it. `key` is one of the gateway's own, where it asks for one.
    ///
    /// # Errors
    /// A URL that is none, no CA certificates.
    pub fn new(url: &str, setting: &'static str, key: Option<Secret>) -> Result<Self, BuildError> {
        let url = parse(url).map_err(|reason| BuildError::Invalid { setting, reason })?;
        let client = client(&url, TIMEOUT, 1).build().map_err(BuildError::Client)?;
        Ok(Self { url, key, client })
    }

    async fn send(&self, request: RequestBuilder) -> Result<(), FrontDoorError> {
        let response: Response = request.send().await.map_err(|error| FrontDoorError::Unavailable(error.into()))?;
        if response.status().is_success() {
            return Ok(());
        }
        let answer = Answer::read("the gateway", response).await;
        Err(FrontDoorError::Unavailable(answer.told().into()))
    }
}

#[async_trait]
impl FrontDoor for HttpFrontDoor {
    async fn submit(&self, lead: Submission) -> Result<(), FrontDoorError> {
        let path = lead.source.map_or_else(|| "/v1/leads".to_owned(), |source| format!("/v1/leads/{source}"));
        let mut request = self.client.post(join(&self.url, &path)).header(CONTENT_TYPE, lead.content_type);
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, format!("Bearer {}", key.expose()));
        }
        if let Some(id) = lead.id {
            request = request.header("Idempotency-Key", id);
        }
        self.send(request.body(lead.payload)).await
    }

    async fn ready(&self) -> Result<(), FrontDoorError> {
        self.send(self.client.get(join(&self.url, "/readyz"))).await
    }
}
