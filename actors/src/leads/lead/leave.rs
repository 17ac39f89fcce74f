//! Whether a lead may be mailed now: the permit, who said no, what is held back.
use std::sync::Arc;

use dripline_domain::{Event, LeadId};
use tracing::{Instrument, trace_span};

use super::document::Document;
use super::{Interruption, LeadState, Services};
use crate::Chain;
use crate::crash_point::crash_point;
use crate::ports::{Controlled, StoreError};
use crate::provider::Place;
use crate::trace;

impl LeadState {
    /// Waits for the permit. Gives the place back if the lead must not be mailed, and writes that down.
    pub(super) async fn permit(
        &mut self,
        place: Place,
        lead_id: &LeadId,
        transactional: bool,
    ) -> Result<Option<Place>, Interruption> {
        let services = Arc::clone(&self.services);
        if let Some(until) = services.limiter.paused(services.clock.now()) {
            return Err(Interruption::Later(until));
        }
        services.limiter.permit().instrument(trace_span!(target: trace::TARGET, "permit")).await?;
        let known = services.suppressions.get(&self.key, lead_id).await?;
        if known.in_force(transactional).is_none() {
            return Ok(Some(place));
        }
        crash_point("suppression-found");
        self.decide_once(|| Event::Suppressed(known.clone())).await?;
        Ok(None)
    }

    /// Why a call whose intent is on disk must not be made, if so; a suppression is written down.
    pub(super) async fn why_not(
        &mut self,
        lead_id: &LeadId,
        transactional: bool,
        place: &Place,
        sequence: &str,
    ) -> Option<String> {
        let services = Arc::clone(&self.services);
        let known = match services.suppressions.get(&self.key, lead_id).await {
            Ok(known) => known,
            Err(error) => return Some(Chain(&error).to_string()),
        };
        let Some((_, mark)) = known.in_force(transactional) else {
            return services.held_back(place, sequence).await.unwrap_or_else(|error| Some(Chain(&error).to_string()));
        };
        if let Err(error) = self.decide_once(|| Event::Suppressed(known.clone())).await {
            // The next step finds it again.
            tracing::warn!(lead_id = self.lead_id(), error = %Chain(&error), "a suppression could not be written down");
            self.document = Document::Unread;
        }
        Some(mark.reason.clone())
    }
}

impl Services {
    /// Why an operator holds back this provider or this sequence, if so.
    pub(super) async fn held_back(&self, place: &Place, sequence: &str) -> Result<Option<String>, StoreError> {
        let (what, control) = match place.paused_now().await? {
            Some(control) => (place.provider(), control),
            None => match self.controls.paused_now(Controlled::Sequence(sequence)).await? {
                Some(control) => (sequence, control),
                None => return Ok(None),
            },
        };
        Ok(Some(format!("{what} is paused: {}", control.reason)))
    }
}
