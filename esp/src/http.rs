//! What the HTTP adapters share: one tuned client each, and what it means when no answer comes.
use std::sync::Once;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dripline_actors::ports::LookUp;
use dripline_domain::{Address, Outcome};
use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Client, ClientBuilder, RequestBuilder, Response, Url, redirect};
use serde::de::DeserializeOwned;

use crate::BuildError;
use crate::answer::Answer;
use crate::reason::tidy;
use crate::timely::{Timely, is_too_late};

/// Idle connections are closed after this. Shorter than any provider's own limit (60 s and up), since a connection
/// that dies under a request leaves an [`Outcome::Unknown`] behind.
const IDLE: Duration = Duration::from_secs(20);

/// One provider's API: its client, its base URL, and its credentials among the client's default headers.
pub(crate) struct Http {
    vendor: &'static str,
    client: Client,
    base_url: Url,
    /// For a whole call.
    pub timeout: Duration,
    /// The most calls in flight.
    pub connections: usize,
}

/// What an [`Http`] is made of.
pub(crate) struct Endpoint<'a> {
    /// As people know it: `SendGrid`.
    pub vendor: &'static str,
    /// The setting that holds `base_url`.
    pub setting: &'static str,
    /// With or without a path and a final slash.
    pub base_url: &'a str,
    /// The header that carries the credentials.
    pub header: HeaderName,
    /// Its value.
    pub credentials: &'a str,
    /// The setting that holds the credentials.
    pub credentials_setting: &'static str,
    /// For the whole call.
    pub timeout: Duration,
    /// Most connections kept open: the most calls in flight.
    pub connections: usize,
}

impl Http {
    /// # Errors
    /// A URL that is none, credentials that cannot stand in a header, no CA certificates.
    pub fn new(endpoint: Endpoint<'_>) -> Result<Self, BuildError> {
        let base_url =
            parse(endpoint.base_url).map_err(|reason| BuildError::Invalid { setting: endpoint.setting, reason })?;
        let mut credentials = HeaderValue::from_str(endpoint.credentials).map_err(|_| BuildError::Invalid {
            setting: endpoint.credentials_setting,
            reason: "holds a character that cannot stand in a header, perhaps a line break".to_owned(),
        })?;
        credentials.set_sensitive(true);

        let client = client(&base_url, endpoint.timeout, endpoint.connections)
            .default_headers(HeaderMap::from_iter([(endpoint.header, credentials)]))
            .build()
            .map_err(BuildError::Client)?;
        let Endpoint { vendor, timeout, connections, .. } = endpoint;
        Ok(Self { vendor, client, base_url, timeout, connections })
    }

    /// The URL of this path, which begins with a slash.
    pub fn url(&self, path: &str) -> Url {
        join(&self.base_url, path)
    }

    /// A POST that takes no longer than this; without a body yet.
    pub fn post(&self, url: &Url, within: Duration) -> RequestBuilder {
        let request = self.client.post(url.clone());
        // The client has this time-out for all its calls already.
        if within == self.timeout { request } else { request.timeout(within) }
    }

    /// A URL that the provider gave, if it leads to the provider itself: our credentials go with the request.
    pub fn own(&self, url: &str) -> Option<Url> {
        Url::parse(url).ok().filter(|url| url.origin() == self.base_url.origin())
    }

    /// A GET that asks about an email, answered as JSON.
    ///
    /// # Errors
    /// [`LookUp::Unclear`]: there was no answer, or it was not 200 with JSON of this shape.
    pub async fn ask<T: DeserializeOwned>(&self, url: Url, recipient: &Address) -> Result<T, LookUp> {
        let unclear = |reason| LookUp::Unclear { reason };
        let request = self.client.get(url).header(ACCEPT, "application/json");
        let response = request.send().await.map_err(|error| unclear(self.told(error, recipient)))?;
        let answer = Answer::read(self.vendor, response).await;
        let said = if answer.status.as_u16() == 200 { answer.json() } else { None };
        said.ok_or_else(|| unclear(answer.reason(None, recipient)))
    }

    /// Sends, and reads the whole answer.
    ///
    /// # Errors
    /// What it means that there is none: [`Outcome::Transient`] if no connection was made, or it came too late to send;
    /// [`Outcome::Unknown`] otherwise.
    pub async fn call(&self, request: RequestBuilder, recipient: &Address) -> Result<Answer, Outcome> {
        match self.send(request).await {
            Ok(response) => Ok(Answer::read(self.vendor, response).await),
            Err(error) => {
                let (unsent, unbuilt) = (error.is_connect() || is_too_late(&error), error.is_builder());
                let reason = self.told(error, recipient);
                Err(if unsent {
                    Outcome::Transient { reason }
                } else if unbuilt {
                    Outcome::Refused { reason }
                } else {
                    Outcome::Unknown { reason }
                })
            }
        }
    }

    /// Sends a request whose body never leaves after the call's time.
    async fn send(&self, request: RequestBuilder) -> Result<Response, reqwest::Error> {
        let mut request = request.build()?;
        // Half of it, as for the connection: whoever waited so long has little chance of an answer in time.
        let not_after = Instant::now() + request.timeout().copied().unwrap_or(self.timeout) / 2;
        if let Some(bytes) = request.body().and_then(Body::as_bytes).map(Bytes::copy_from_slice) {
            *request.body_mut() = Some(Body::wrap(Timely::new(bytes, not_after)));
        }
        self.client.execute(request).await
    }

    /// Why there is no answer, for people.
    fn told(&self, mut error: reqwest::Error, recipient: &Address) -> String {
        // The query of a look-up names the recipient, encoded as `tidy` would not know it.
        if let Some(url) = error.url_mut() {
            url.set_query(None);
        }
        let told = tidy(&chain(&error), recipient);
        if error.is_connect() {
            format!("no connection to {}: {told}", self.vendor)
        } else if error.is_builder() {
            format!("no request to {} can be made of this email: {told}", self.vendor)
        } else {
            format!("no answer from {}: {told}", self.vendor)
        }
    }
}

/// For calls to this host alone: bounded in time, without redirects, tried once.
pub(crate) fn client(url: &Url, timeout: Duration, connections: usize) -> ClientBuilder {
    install_tls();
    let builder = Client::builder()
        .user_agent(concat!("dripline/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .tcp_nodelay(true)
        // A redirected POST would go to a host nobody configured.
        .redirect(redirect::Policy::none())
        // Whether to try again is the engine's decision alone.
        .retry(reqwest::retry::never())
        .timeout(timeout)
        // Shorter than the whole, so that an unreachable host is told from a lost answer.
        .connect_timeout(timeout / 2)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(connections);
    let builder = if is_loopback(url) { builder.no_proxy() } else { builder };
    // A stand-in without TLS needs no certificates, and where it runs there may be none.
    if url.scheme() == "http" { builder.tls_certs_only([]) } else { builder }
}

/// rustls leaves the choice of cryptography to the program: to be called before anything speaks TLS. Whoever chose first
/// stays.
pub fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

pub(crate) fn parse(base_url: &str) -> Result<Url, String> {
    let url = Url::parse(base_url).map_err(|error| format!("`{base_url}` is not a URL: {error}"))?;
    if !matches!(url.scheme(), "https" | "http") || url.host().is_none() {
        return Err(format!("`{base_url}` must begin with https:// (or http:// for a stand-in)"));
    }
    Ok(url)
}

pub(crate) fn join(base_url: &Url, path: &str) -> Url {
    let mut url = base_url.clone();
    url.set_path(&format!("{}{path}", base_url.path().trim_end_matches('/')));
    url
}

pub(crate) fn with_query(url: &Url, query: &[(&str, &str)]) -> Url {
    let mut url = url.clone();
    url.query_pairs_mut().extend_pairs(query);
    url
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told.push_str(": ");
        told.push_str(&error.to_string());
        cause = error.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_may_have_a_path_and_a_final_slash() {
        for (base, whole) in [
            ("https://api.resend.com", "https://api.resend.com/emails"),
            ("https://api.resend.com/", "https://api.resend.com/emails"),
            ("http://127.0.0.1:8080/stub/", "http://127.0.0.1:8080/stub/emails"),
        ] {
            assert_eq!(join(&parse(base).unwrap(), "/emails").as_str(), whole);
        }
        for wrong in ["", "api.resend.com", "ftp://api.resend.com", "mailto:x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn proxies_are_left_out_only_for_this_machine() {
        for (url, here) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost:1", true),
            ("https://api.sendgrid.com", false),
            ("https://localhost.example.com", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), here, "{url}");
        }
    }
}
