//! The two places values come from besides the defaults.
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::value::{Dict, Map, Value};
use figment::{Error, Figment, Metadata, Profile, Provider};

use super::error::ConfigError;
use super::{Config, FILE_VARIABLE};
use crate::telemetry::FILTER_VARIABLE;

const PREFIX: &str = "DRIPLINE_";

/// Variables of ours that are not keys of the configuration.
const NOT_KEYS: [&str; 2] = [FILE_VARIABLE, FILTER_VARIABLE];

/// The variables that are ours, by name.
pub fn ours(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Vec<(String, String)>, ConfigError> {
    let mut variables = Vec::new();
    for (name, value) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        let value = value.into_string().map_err(|_| ConfigError::at(name, "is not UTF-8"))?;
        variables.push((name.to_owned(), value));
    }
    // The order of an environment is arbitrary; which of two errors is told must not be.
    variables.sort();
    Ok(variables)
}

/// The configuration file.
pub struct ConfigFile {
    path: PathBuf,
    values: Dict,
}

impl ConfigFile {
    /// Reads the whole file; its values are checked later, together with all others.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::at(&name, format!("cannot be read: {error}")))?;
        let table: toml::Table = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            ConfigError::at(format!("{name}:{line}"), error.message().replace('\n', ", "))
        })?;
        let values = Value::serialize(&table).map_err(ConfigError::from_figment)?.into_dict().unwrap_or_default();
        Ok(Self { path: path.to_owned(), values })
    }
}

impl Provider for ConfigFile {
    fn metadata(&self) -> Metadata {
        Metadata::from("file", self.path.as_path())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// One variable of the environment. Each is a source of its own, so that errors and the report can name it.
pub struct Variable {
    name: String,
    key: String,
    value: Value,
}

impl Variable {
    /// Reads one variable; none for one that says nothing. A variable is a text unless its key wants something
    /// else: `DRIPLINE_NATS__PASSWORD=0123` keeps its zero.
    pub fn read(name: String, text: &str, defaults: &Figment) -> Result<Option<Self>, ConfigError> {
        if NOT_KEYS.contains(&name.as_str()) {
            return Ok(None);
        }
        let key = name[PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
        if key.split('.').any(str::is_empty) {
            return Err(ConfigError::unknown(&name, "", &[]));
        }
        let mut variable = Self { name, key, value: Value::from(text) };
        let wanted = match defaults.clone().merge(&variable).extract::<Config>().map_err(|error| error.kind) {
            Err(Kind::InvalidType(_, wanted)) => wanted,
            Err(Kind::UnknownField(name, known)) => {
                return Err(ConfigError::unknown(&variable.name, &name, known));
            }
            // Another error is for the whole to show: what is missing here may stand in the file.
            Ok(_) | Err(_) => return Ok((!text.is_empty()).then_some(variable)),
        };
        variable.value = match wanted.as_str() {
            "a sequence" => Value::from(list(text)),
            _ => text.parse().unwrap_or_else(|never| match never {}),
        };
        Ok((!text.is_empty()).then_some(variable))
    }
}

/// `a,b` and `[a, b]`: each entry a text.
fn list(text: &str) -> Vec<&str> {
    let inner = text.trim();
    let inner = inner.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(inner);
    inner.split(',').map(|entry| entry.trim().trim_matches('"')).filter(|entry| !entry.is_empty()).collect()
}

impl Provider for &Variable {
    fn metadata(&self) -> Metadata {
        Metadata::from("variable", self.name.as_str())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let nested = figment::util::nest(&self.key, self.value.clone());
        Ok(Profile::Default.collect(nested.into_dict().unwrap_or_default()))
    }
}
