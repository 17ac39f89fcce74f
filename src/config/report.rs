use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::error::Origin;
use super::{ConfigError, Loaded};

impl Loaded {
    /// Every key, its value with secrets masked, and where it comes from: an aligned table, or JSON.
    pub fn report(&self, json: bool) -> String {
        if json { self.as_json() } else { self.as_table() }
    }

    fn as_json(&self) -> String {
        let row =
            |(key, value, from): (String, Value, Origin)| (key, json!({ "value": value, "from": from.to_string() }));
        let object: Map<String, Value> = self.rows().into_iter().map(row).collect();
        format!("{:#}\n", Value::Object(object))
    }

    fn as_table(&self) -> String {
        let row = |(key, value, from): (String, Value, Origin)| [key, plain(&value), from.to_string()];
        let rows: Vec<[String; 3]> = self.rows().into_iter().map(row).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let (keys, values) = (width(0), width(1));
        rows.iter().fold(String::new(), |mut table, [key, value, from]| {
            // Writing to a String cannot fail.
            let _ = writeln!(table, "{key:keys$}  {value:values$}  {from}");
            table
        })
    }

    fn rows(&self) -> Vec<(String, Value, Origin)> {
        let mut values = Vec::new();
        // Serialising the configuration cannot fail: all keys of its maps are texts.
        flatten(String::new(), serde_json::to_value(&self.config).unwrap_or_default(), &mut values);
        let row = |(key, value): (String, Value)| {
            let from = self.origin(&key);
            (key, value, from)
        };
        values.into_iter().map(row).collect()
    }

    /// Where the value of this key comes from.
    pub(super) fn origin(&self, key: &str) -> Origin {
        Origin::of(self.figment.find_metadata(key))
    }

    /// The value of this key is of the right type, and wrong.
    pub(crate) fn wrong(&self, key: &str, message: impl Into<String>) -> ConfigError {
        ConfigError::of_key(&self.origin(key), key, message)
    }
}

fn flatten(key: String, value: Value, rows: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (name, value) in object {
                let key = if key.is_empty() { name } else { format!("{key}.{name}") };
                flatten(key, value, rows);
            }
        }
        Value::String(text) if text.contains("://") => {
            let masked: Vec<String> = text.split(',').map(without_password).collect();
            rows.push((key, Value::String(masked.join(","))));
        }
        value => rows.push((key, value)),
    }
}

/// A URL may carry a password as well: `nats://user:password@host`.
fn without_password(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let authority = &url[start..];
    let authority = &authority[..authority.find(['/', '?', '#']).unwrap_or(authority.len())];
    match authority.rfind('@') {
        Some(end) => format!("{}***{}", &url[..start], &url[start + end..]),
        None => url.to_owned(),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) if !text.is_empty() => text.clone(),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), |number| number.to_string()),
        other => other.to_string(),
    }
}
