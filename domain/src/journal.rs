use serde::de::{IntoDeserializer, value};
use serde::{Deserialize, Deserializer, Serialize};
use smol_str::SmolStr;

use crate::{LeadId, Timestamp, What};

/// A line of the journal, as whoever counts or forwards it reads it. What else stands in the line is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalLine {
    /// Whose; none where it concerns no lead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lead_id: Option<LeadId>,
    /// When it was written.
    pub timestamp: Timestamp,
    /// What happened.
    pub event: JournalEvent,
    /// In which sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<SmolStr>,
    /// At which version of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// At which step, by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<SmolStr>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The provider that was called, or that told us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<SmolStr>,
    /// The outgoing webhook, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<SmolStr>,
    /// Who did it, where it was somebody's decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<SmolStr>,
}

/// What a line of the journal tells.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum JournalEvent {
    /// Something that happened to a lead.
    Lead(What),
    /// Something that was decided about an address or a whole sequence.
    Control(ControlEvent),
    /// Written by a newer version of dripline.
    Unknown(String),
}

/// The events of the journal that are no lead's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlEvent {
    /// An address must not be mailed any more.
    SuppressionAdded,
    /// An address may be mailed again.
    SuppressionRemoved,
    /// No step of a sequence is sent until it is resumed.
    SequencePaused,
    /// The steps of a sequence are sent again.
    SequenceResumed,
    /// New leads enter another version of a sequence, without a restart.
    SequenceReloaded,
    /// No call is made to a provider until it is resumed.
    ProviderPaused,
    /// A provider is called again.
    ProviderResumed,
    /// Nothing is posted to an outgoing webhook until it is resumed.
    OutgoingPaused,
    /// An outgoing webhook is told again what happens.
    OutgoingResumed,
}

impl<'de> Deserialize<'de> for JournalEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = SmolStr::deserialize(deserializer)?;
        let named = || IntoDeserializer::<value::Error>::into_deserializer(name.as_str());
        Ok(if let Ok(what) = What::deserialize(named()) {
            Self::Lead(what)
        } else if let Ok(event) = ControlEvent::deserialize(named()) {
            Self::Control(event)
        } else {
            Self::Unknown(name.to_string())
        })
    }
}

impl JournalLine {
    /// Reads one line.
    ///
    /// # Errors
    /// Not JSON, or without a time or an event.
    pub fn from_json(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }
}
