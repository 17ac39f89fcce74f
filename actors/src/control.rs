//! What an operator orders. An order about a lead is handed to the lead's actor like any other message, so that it is
//! decided and written like any other; whichever process holds the lead, the revision of its document decides.
use std::sync::Arc;
use std::time::Duration;

use dripline_domain::{Address, Arrival, Lead, LeadId, LeadIdKey, LeadKey, Operator, Refusal, RequestId, Timestamp};
use serde::Serialize;

use crate::leads::Services;
use crate::ports::{Clock, Control, StoreError};

/// A lead that is at work answers within this, or the operator is told to ask again: less than the `nats` CLI waits.
const PATIENCE: Duration = Duration::from_secs(4);

/// What an operator wants done to one lead.
#[derive(Debug, Clone)]
pub struct Order {
    /// What.
    pub action: OrderedAction,
    /// Who, and why.
    pub operator: Operator,
    /// A repeated request changes nothing more.
    pub request: RequestId,
}

/// The kinds of [`Order`]; [`dripline_domain::OperatorAction`] says what each does.
#[derive(Debug, Clone)]
pub enum OrderedAction {
    /// Nothing of this lead is sent.
    Pause,
    /// It goes on, and what was parked is tried again.
    Resume,
    /// To another step.
    Move {
        /// In which sequence.
        sequence: String,
        /// The step, by its id.
        step: String,
        /// The version to go on with; none for the one it is on.
        version: Option<u32>,
        /// When; none for as long after now as the step says.
        at: Option<Timestamp>,
    },
    /// From one version of a sequence to another.
    Migrate {
        /// Which sequence.
        sequence: String,
        /// The version it is on.
        from: u32,
        /// The version to go on with.
        to: u32,
    },
    /// Anew at the first step.
    Restart {
        /// Of this sequence, at the version that new leads enter.
        sequence: String,
    },
    /// It ends.
    Stop {
        /// In this sequence alone; none for all.
        sequence: Option<String>,
    },
    /// Into a sequence.
    Enroll {
        /// Cleaned; names the sequence, or the configured one is taken.
        arrival: Box<Arrival>,
    },
    /// An attempt in doubt is settled.
    Resolve {
        /// In this sequence.
        sequence: String,
        /// The email is out.
        sent: bool,
    },
    /// All that is known of the person goes.
    Erase,
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq)]
pub enum Obeyed {
    /// The lead as it now is on disk.
    Lead(Box<Lead>),
    /// There is no document any more; whether there was one.
    Erased {
        /// Whose.
        lead_id: LeadId,
        /// False where there was nothing to erase.
        erased: bool,
    },
}

/// Why an order was not carried out. Nothing of it is on disk, unless it is [`ControlError::Unavailable`]: then the same
/// request may be made again.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no document of this lead.
    #[error("there is no such lead")]
    NoSuchLead,
    /// The name of no sequence.
    #[error("there is no sequence `{0}`")]
    NoSuchSequence(String),
    /// Never published.
    #[error("there is no version {version} of sequence `{sequence}`")]
    NoSuchVersion {
        /// Of this sequence.
        sequence: String,
        /// This one.
        version: u32,
    },
    /// No sequence was named, and none is configured for such leads.
    #[error("name a `sequence`: there is no default one (sequences.default)")]
    NoDefaultSequence,
    /// The lead, as it is, has no use for it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The document is not one of ours.
    #[error("the lead's document cannot be read: {0}")]
    Unreadable(String),
    /// Something it needs is away, or the lead is busy.
    #[error("not now: {0}; make the same request again, with the same `requestId`")]
    Unavailable(String),
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        let text = crate::Chain(&error).to_string();
        match error {
            StoreError::Unavailable(_) => Self::Unavailable(text),
            StoreError::Unreadable(_) => Self::Unreadable(text),
        }
    }
}

/// One provider, as this process sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProviderStatus {
    /// Its name.
    pub name: String,
    /// It takes no calls before this, because it failed again and again.
    pub stopped_until: Option<Timestamp>,
    /// An operator holds it back.
    pub paused: Option<Control>,
    /// Calls under way.
    pub calls: usize,
}

/// What operators can do and see of a running engine.
#[derive(Clone)]
pub struct Controller {
    pub(crate) services: Arc<Services>,
    pub(crate) lead_ids: LeadIdKey,
}

impl Controller {
    /// Has an order carried out by the lead's actor; on disk when it returns.
    ///
    /// # Errors
    /// It has no use now, or something it needs is away.
    pub async fn order(&self, address: &Address, order: Order) -> Result<Obeyed, ControlError> {
        let answer = self.services.leads.order(LeadKey::of(address), self.lead_id(address), order);
        let answer = answer.map_err(|error| ControlError::Unavailable(error.to_string()))?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(obeyed)) => obeyed,
            Ok(Err(_dropped)) => Err(ControlError::Unavailable("the lead's actor failed".to_owned())),
            Err(_elapsed) => Err(ControlError::Unavailable("the lead is busy with an email".to_owned())),
        }
    }

    /// A lead's document as it stands now, also where a copy of the bucket is behind.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub async fn lead(&self, address: &Address) -> Result<Lead, ControlError> {
        let (lead, _) = self.services.store.load_newest(&LeadKey::of(address)).await?;
        lead.ok_or(ControlError::NoSuchLead)
    }

    /// The id of this address, whether there is a lead or not.
    pub fn lead_id(&self, address: &Address) -> LeadId {
        self.lead_ids.lead_id(address)
    }

    /// Every configured provider, in order of preference.
    pub fn providers(&self) -> Vec<ProviderStatus> {
        self.services.providers.status()
    }

    /// Names this process.
    pub fn owner(&self) -> &str {
        &self.services.owner
    }

    /// The engine's clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.services.clock
    }
}
