use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use async_trait::async_trait;
use dripline_actors::ports::{StatisticsStore, StoreError, Surveyor};
use dripline_domain::{Installation, QueueState, Statistics, Timestamp};

use crate::connect::Connections;
use crate::inbox::timestamp;
use crate::statistics::JetStreamStatistics;
use crate::topology::{
    DUE, ENGINES_BUCKET, FEEDBACK, FEEDBACK_CONSUMER, INTAKE, LEADS, REJECTED, STATISTICS_BUCKET, TIMERS,
    TIMERS_DUE_SUBJECT,
};
use crate::unavailable;

/// Looks at streams and consumers: a dozen small requests, however much they hold, and the statistics.
pub struct JetStreamSurveyor {
    context: Context,
    statistics: JetStreamStatistics,
}

impl JetStreamSurveyor {
    /// Over this connection.
    ///
    /// # Errors
    /// The statistics are not there.
    pub async fn open(connections: &Connections) -> Result<Self, StoreError> {
        let context = Connections::jetstream(&connections.general);
        let statistics = context.get_stream_no_info(STATISTICS_BUCKET).await.map_err(unavailable)?;
        Ok(Self { context, statistics: JetStreamStatistics::new(connections.clone(), statistics) })
    }

    async fn stream(&self, name: &str) -> Result<Stream, StoreError> {
        self.context.get_stream(name).await.map_err(unavailable)
    }

    /// `subjects` are those that the consumer reads.
    async fn queue(&self, name: &str, consumer: &str, subjects: &str) -> Result<QueueState, StoreError> {
        let stream = self.stream(name).await?;
        let consumer: PullConsumer = stream.get_consumer(consumer).await.map_err(unavailable)?;
        let (info, consumed) = (stream.cached_info(), consumer.cached_info());
        let waiting = consumed.num_pending + consumed.num_ack_pending as u64;
        let oldest = if waiting == 0 {
            None
        } else {
            let next = consumed.ack_floor.stream_sequence + 1;
            match stream.get_first_raw_message_by_subject(subjects, next).await {
                Ok(message) => Some(timestamp(message.time.unix_timestamp_nanos())),
                // Settled meanwhile.
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => None,
                Err(error) => return Err(unavailable(error)),
            }
        };
        let reached = |count: u64, most: i64| u64::try_from(most).is_ok_and(|most| most > 0 && count >= most);
        Ok(QueueState {
            stream: name.to_owned(),
            waiting,
            oldest,
            newest: newest(&stream),
            paused: consumed.paused,
            full: reached(info.state.messages, info.config.max_messages)
                || reached(info.state.bytes, info.config.max_bytes),
        })
    }
}

fn newest(stream: &Stream) -> Option<Timestamp> {
    let state = &stream.cached_info().state;
    (state.last_sequence > 0).then(|| timestamp(state.last_timestamp.unix_timestamp_nanos()))
}

fn lost_answers(statistics: &Statistics) -> u64 {
    let versions = statistics.sequences.values().flat_map(|it| it.versions.values().chain(&it.earlier));
    versions.map(|version| version.emails().in_doubt).sum::<u64>() + statistics.unattributed.in_doubt
}

#[async_trait]
impl Surveyor for JetStreamSurveyor {
    async fn look(&self) -> Result<Installation, StoreError> {
        let in_doubt = lost_answers(&self.statistics.load().await?.statistics);
        Ok(Installation {
            engines: self.stream(ENGINES_BUCKET).await?.cached_info().state.messages,
            leads: self.queue(LEADS, INTAKE, ">").await?,
            feedback: self.queue(FEEDBACK, FEEDBACK_CONSUMER, ">").await?,
            timers: self.queue(TIMERS, DUE, &format!("{TIMERS_DUE_SUBJECT}>")).await?,
            rejected: self.stream(REJECTED).await?.cached_info().state.last_sequence,
            in_doubt,
        })
    }
}
