//! Raw leads: each is read, checked and handed to its lead.
use std::sync::Arc;

use dripline_domain::{Arrival, ArrivalError, LeadIdKey, LeadKey, Sanitiser};

use crate::leads::Services;
use crate::ports::{Delivery, Rejection};
use crate::pump::Consume;

/// The subject of raw leads; `leads.new.<source>` names the source.
const LEADS_SUBJECT: &str = "leads.new";

/// Reads raw leads.
pub(crate) struct Intake {
    pub(crate) services: Arc<Services>,
    pub(crate) sanitiser: Sanitiser,
    pub(crate) lead_ids: LeadIdKey,
}

impl Consume for Intake {
    fn name(&self) -> &'static str {
        "intake"
    }

    fn consume(&self, delivery: Delivery) {
        let arrival = match self.read(&delivery) {
            Ok(arrival) => arrival,
            Err(error) => return reject(&self.services, error.code(), error.to_string(), delivery),
        };
        let source = delivery.subject.strip_prefix(LEADS_SUBJECT).and_then(|rest| rest.strip_prefix('.'));
        let sequence = match &arrival.sequence {
            Some(name) => self.services.sequences.current(name),
            None => self.services.sequences.for_source(source),
        };
        let Some(sequence) = sequence else {
            let reason = match &arrival.sequence {
                Some(name) => format!("there is no sequence `{name}`"),
                None => "the lead names no sequence, its source maps to none, and there is no default".to_owned(),
            };
            return reject(&self.services, "unknown_sequence", reason, delivery);
        };
        let key = LeadKey::of(&arrival.address);
        let lead_id = self.lead_ids.lead_id(&arrival.address);
        tracing::info!(%lead_id, source, sequence = sequence.name.as_str(), "lead arrived");
        hand_over(self.services.leads.arrive(key, arrival, lead_id, sequence, delivery));
    }
}

impl Intake {
    fn read(&self, delivery: &Delivery) -> Result<Arrival, ArrivalError> {
        match delivery.content_type.as_deref() {
            Some("application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack") => {
                let fields = rmp_serde::from_slice(&delivery.payload)
                    .map_err(|error| ArrivalError::NotMessagePack(error.to_string()))?;
                self.sanitiser.read(fields)
            }
            _ => self.sanitiser.read_json(&delivery.payload),
        }
    }
}

pub(crate) fn reject(services: &Arc<Services>, code: &'static str, reason: String, delivery: Delivery) {
    let services = Arc::clone(services);
    tokio::spawn(async move {
        let settle = services.reject(Rejection::of(code, reason, &delivery)).await;
        delivery.settle(settle);
    });
}

pub(crate) fn hand_over(result: Result<(), crate::NotRunning>) {
    if let Err(error) = result {
        // The message was dropped unsettled, and so asks for redelivery.
        tracing::debug!(%error, "a message could not be handed over; it will be delivered again");
    }
}
