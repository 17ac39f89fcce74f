use async_nats::jetstream::Context;
use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use async_nats::jetstream::stream::{InfoError, Stream};
use async_trait::async_trait;
use dripline_actors::ports::{AlertStore, Revision, SaveError, StoreError};
use dripline_domain::Alert;
use futures_util::TryStreamExt;

use crate::topology::{ALERTS, ALERTS_BUCKET, ALERTS_BUCKET_SUBJECT};
use crate::unavailable;

/// The bucket `alerts`: a document an alert, from when it was raised until everybody was told that it is over.
pub struct JetStreamAlerts {
    bucket: Store,
    stream: Stream<()>,
}

impl JetStreamAlerts {
    /// Over the bucket.
    ///
    /// # Errors
    /// It is not there, or the server is away.
    pub async fn open(context: &Context) -> Result<Self, StoreError> {
        Ok(Self {
            bucket: context.get_key_value(ALERTS).await.map_err(unavailable)?,
            stream: context.get_stream_no_info(ALERTS_BUCKET).await.map_err(unavailable)?,
        })
    }
}

#[async_trait]
impl AlertStore for JetStreamAlerts {
    async fn all(&self) -> Result<Vec<(Alert, Revision)>, StoreError> {
        let failed = |error: InfoError| unavailable(error);
        let subjects = self.stream.info_with_subjects(format!("{ALERTS_BUCKET_SUBJECT}>")).await.map_err(failed)?;
        let subjects: Vec<(String, usize)> = subjects.map_err(failed).try_collect().await?;
        let mut alerts = Vec::with_capacity(subjects.len());
        for (subject, _) in subjects {
            if let Some(key) = subject.strip_prefix(ALERTS_BUCKET_SUBJECT) {
                alerts.extend(self.load(key).await?);
            }
        }
        Ok(alerts)
    }

    async fn load(&self, key: &str) -> Result<Option<(Alert, Revision)>, StoreError> {
        let Some(entry) = self.bucket.entry(key).await.map_err(unavailable)? else { return Ok(None) };
        match entry.operation {
            Operation::Put => {
                let alert =
                    serde_json::from_slice(&entry.value).map_err(|error| StoreError::Unreadable(error.into()))?;
                Ok(Some((alert, entry.revision)))
            }
            Operation::Delete | Operation::Purge => Ok(None),
        }
    }

    async fn save(&self, alert: &Alert, expected: Revision) -> Result<Revision, SaveError> {
        let value = serde_json::to_vec(alert).map_err(|error| StoreError::Unreadable(error.into()))?;
        self.bucket.update(&alert.key, value.into(), expected).await.map_err(refused)
    }

    async fn remove(&self, key: &str, expected: Revision) -> Result<(), SaveError> {
        // The whole subject, so that it has no revision when it is raised again; but nothing that came after.
        let purged = self.stream.purge().filter(format!("{ALERTS_BUCKET_SUBJECT}{key}")).sequence(expected + 1).await;
        purged.map(drop).map_err(|error| unavailable(error).into())
    }
}

/// A write with an expected revision was not made.
pub(crate) fn refused(error: async_nats::jetstream::kv::UpdateError) -> SaveError {
    if error.kind() == UpdateErrorKind::WrongLastRevision { SaveError::Conflict } else { unavailable(error).into() }
}
