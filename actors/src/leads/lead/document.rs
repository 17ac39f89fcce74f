//! A lead's document in memory.
use bytes::Bytes;
use dripline_domain::{Lead, LeadKey};

use super::Stored;
use crate::ports::{LeadStore, Revision, StoreError};

/// What this actor knows of its document.
pub(super) enum Document {
    /// Not read yet, or no longer to be trusted.
    Unread,
    /// As this process stored it.
    Stored(Stored),
    /// As of this revision; `stored` where this process stored it.
    Known { lead: Option<Box<Lead>>, revision: Revision, stored: Option<Bytes> },
}

impl Document {
    /// The lead, read if need be.
    pub(super) async fn lead(&mut self, key: &LeadKey, store: &dyn LeadStore) -> Result<Option<&Lead>, StoreError> {
        if let Self::Stored(Stored { document, revision }) = self {
            // What this process has written it can read; if not, the bucket's own has the last word.
            *self = Lead::from_json(document).map_or(Self::Unread, |lead| Self::Known {
                lead: Some(Box::new(lead)),
                revision: *revision,
                stored: Some(document.clone()),
            });
        }
        if matches!(self, Self::Unread) {
            let (lead, revision) = store.load(key).await?;
            *self = Self::Known { lead: lead.map(Box::new), revision, stored: None };
        }
        Ok(self.known())
    }

    /// Of a lead that is taken for new without a look: where it is not, its first write is refused.
    pub(super) fn presumed_none() -> Self {
        Self::Known { lead: None, revision: 0, stored: None }
    }

    /// The lead as it stands now, whatever is known of it.
    pub(super) async fn read_anew(
        &mut self,
        key: &LeadKey,
        store: &dyn LeadStore,
    ) -> Result<Option<&Lead>, StoreError> {
        *self = Self::Unread;
        let (lead, revision) = store.load_newest(key).await?;
        *self = Self::Known { lead: lead.map(Box::new), revision, stored: None };
        Ok(self.known())
    }

    fn known(&self) -> Option<&Lead> {
        match self {
            Self::Known { lead, .. } => lead.as_deref(),
            Self::Stored(_) | Self::Unread => None,
        }
    }

    /// As the bucket has it, where this process stored it and, as far as is known, nobody else has since.
    pub(super) fn stored(&self) -> Option<Stored> {
        match self {
            Self::Stored(stored) => Some(stored.clone()),
            Self::Known { revision, stored: Some(document), .. } => {
                Some(Stored { document: document.clone(), revision: *revision })
            }
            Self::Known { stored: None, .. } | Self::Unread => None,
        }
    }

    /// For logs: the key holds the address, the id says nothing of the person.
    pub(super) fn lead_id(&self) -> &str {
        self.known().map_or("not read", |lead| lead.lead_id.as_str())
    }
}
