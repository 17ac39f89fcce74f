use std::path::PathBuf;

/// Why an adapter could not be made. Each message names the setting to change.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A setting that has no default.
    #[error("{setting} is not set")]
    Missing {
        /// As in the configuration: `esp.sendgrid.api_key`.
        setting: &'static str,
    },
    /// A setting that cannot be used.
    #[error("{setting} {reason}")]
    Invalid {
        /// As in the configuration.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The HTTP client refused its settings, or the system has no CA certificates.
    #[error("the HTTP client could not be made (are the system's CA certificates installed?)")]
    Client(#[source] reqwest::Error),
    /// The TLS side of SMTP refused its settings.
    #[error("TLS could not be set up for SMTP")]
    Tls(#[source] lettre::transport::smtp::Error),
    /// The outbox's folder could not be made.
    #[error("esp.outbox.dir: {} cannot be made", path.display())]
    Directory {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl BuildError {
    /// The value of `setting`, or the complaint that it is not set.
    pub(crate) fn unless_set<'a>(value: &'a str, setting: &'static str) -> Result<&'a str, Self> {
        if value.is_empty() { Err(Self::Missing { setting }) } else { Ok(value) }
    }
}
