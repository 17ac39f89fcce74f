//! What an operator can set, where each value came from, and one clear line for what is wrong.
//!
//! Defaults ← `dripline.toml` ← `DRIPLINE_*` variables, `__` between the parts of a key: `esp.rate` is
//! `DRIPLINE_ESP__RATE`. An unknown key is an error wherever it stands: a typo must not turn a limit off. A variable
//! that is set but empty counts as not set, since compose files hand variables over that way. In a variable, a list
//! is written `a,b`.
mod error;
mod report;
mod sequence_check;
mod settings;
mod sources;
mod units;
mod validate;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::Serialized;

pub use self::error::ConfigError;
pub use self::sequence_check::{SequenceReport, check_sequences, check_unsubscribe, read_sequences};
pub use self::settings::{
    Alerts, Canary, CanaryEvidence, Config, Engine, Esp, Feedback, Gateway, Guard, Log, LogFormat, Metrics, Nats,
    OutgoingWebhook, Provider, Retry, Sequences, Statistics, Telemetry, Unsubscribe,
};
use self::sources::{ConfigFile, Variable};
use crate::telemetry::FILTER_VARIABLE;

/// The file that is read when none is named. It may be missing.
pub const DEFAULT_FILE: &str = "dripline.toml";

/// Names the configuration file, as `--config` does.
pub const FILE_VARIABLE: &str = "DRIPLINE_CONFIG";

/// A configuration that holds, and where each of its values came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    figment: Figment,
}

impl Config {
    /// Reads the file and the environment of this process. Without `path`, `DRIPLINE_CONFIG` names the file.
    ///
    /// # Errors
    /// One line that names the file or variable, the key, and what is right.
    pub fn load(path: Option<&Path>) -> Result<Loaded, ConfigError> {
        Self::load_with(path, std::env::vars_os())
    }

    /// As [`Config::load`], with these variables in place of the environment.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Loaded, ConfigError> {
        let environment = sources::ours(environment)?;
        let named = environment.iter().find(|(name, value)| name == FILE_VARIABLE && !value.is_empty());
        let path = path.map(Path::to_path_buf).or_else(|| named.map(|(_, value)| PathBuf::from(value)));

        let defaults = Figment::from(Serialized::defaults(Self::default()));
        let mut figment = match path {
            Some(path) => defaults.clone().merge(ConfigFile::read(&path)?),
            None if Path::new(DEFAULT_FILE).exists() => {
                defaults.clone().merge(ConfigFile::read(Path::new(DEFAULT_FILE))?)
            }
            None => defaults.clone(),
        };
        for (name, value) in environment {
            if name == FILTER_VARIABLE && !value.is_empty() {
                validate::filter(&value).map_err(|message| ConfigError::at(&name, message))?;
            }
            if let Some(variable) = Variable::read(name, &value, &defaults)? {
                figment = figment.merge(&variable);
            }
        }

        let config = figment.extract().map_err(ConfigError::from_figment)?;
        let loaded = Loaded { config, figment };
        validate::validate(&loaded)?;
        Ok(loaded)
    }
}

#[cfg(test)]
mod tests;
