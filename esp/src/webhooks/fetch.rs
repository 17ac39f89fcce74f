use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use dripline_actors::ports::Source;
use reqwest::{Client, Url, redirect};

use crate::BuildError;
use crate::http::install_tls;

/// The most that is read of an answer, in bytes. A certificate has two thousand.
const LIMIT: usize = 64 * 1024;

/// For a whole call: the delivery waits for it, and SNS gives up on us after 15 seconds.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The way to what a delivery refers to: Amazon's signing certificates, and the confirmation of a subscription.
#[async_trait]
pub trait Fetch: Send + Sync + 'static {
    /// One GET of a URL that was found to be Amazon's; the body of a 200.
    ///
    /// # Errors
    /// No answer, another status, or an answer of more than 64 KiB.
    async fn get(&self, url: Url) -> Result<Bytes, Source>;
}

/// By HTTPS, certificates checked, nowhere else than asked.
pub(super) struct Https(Client);

impl Https {
    pub fn new() -> Result<Self, BuildError> {
        install_tls();
        let client = Client::builder()
            .user_agent(concat!("dripline/", env!("CARGO_PKG_VERSION")))
            .https_only(true)
            .redirect(redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()
            .map_err(BuildError::Client)?;
        Ok(Self(client))
    }
}

#[async_trait]
impl Fetch for Https {
    async fn get(&self, url: Url) -> Result<Bytes, Source> {
        let mut answer = self.0.get(url).send().await?.error_for_status()?;
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > LIMIT {
                return Err(format!("an answer of more than {LIMIT} bytes").into());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}
