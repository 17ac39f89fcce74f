use async_nats::jetstream::{self, consumer};
use dripline_actors::ports::StoreError;
use dripline_domain::{Canary, Timestamp};

use crate::canary::read_canary;
use crate::inbox::timestamp;
use crate::topology::{
    CANARY, DUE, FEEDBACK, FEEDBACK_CONSUMER, INTAKE, JOURNAL, LEADS, LEADS_BUCKET, REJECTED, SUPPRESSIONS_BUCKET,
    TIMERS,
};
use crate::unavailable;

/// The streams whose depth tells how the system does.
const STREAMS: [&str; 7] = [LEADS, FEEDBACK, TIMERS, LEADS_BUCKET, SUPPRESSIONS_BUCKET, REJECTED, JOURNAL];
/// The consumers, each with its stream.
const CONSUMERS: [(&str, &str); 3] = [(LEADS, INTAKE), (FEEDBACK, FEEDBACK_CONSUMER), (TIMERS, DUE)];

/// What a stream holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFigures {
    /// Its name.
    pub stream: &'static str,
    /// Messages in it.
    pub messages: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// When it took its oldest message; none where it is empty.
    pub oldest: Option<Timestamp>,
}

/// Where a consumer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerFigures {
    /// The stream it reads.
    pub stream: &'static str,
    /// Its name.
    pub consumer: &'static str,
    /// Messages it has not handed out yet.
    pub pending: u64,
    /// Messages it has handed out, and that nobody has answered for.
    pub unsettled: u64,
    /// Those of them that it has handed out more than once.
    pub redelivered: u64,
}

/// Asks the server for the figures of streams and consumers, and for the canary: some twelve small requests, however much
/// they hold.
pub struct Figures {
    context: jetstream::Context,
}

impl Figures {
    /// Over this context.
    pub fn new(context: jetstream::Context) -> Self {
        Self { context }
    }

    /// Every stream that matters.
    ///
    /// # Errors
    /// The server is away, or one of the streams is missing.
    pub async fn streams(&self) -> Result<Vec<StreamFigures>, StoreError> {
        let mut figures = Vec::with_capacity(STREAMS.len());
        for name in STREAMS {
            let stream = self.context.get_stream(name).await.map_err(unavailable)?;
            let state = &stream.cached_info().state;
            figures.push(StreamFigures {
                stream: name,
                messages: state.messages,
                bytes: state.bytes,
                oldest: (state.messages > 0).then(|| timestamp(state.first_timestamp.unix_timestamp_nanos())),
            });
        }
        Ok(figures)
    }

    /// Every consumer.
    ///
    /// # Errors
    /// The server is away, or one of the consumers is missing.
    pub async fn consumers(&self) -> Result<Vec<ConsumerFigures>, StoreError> {
        let mut figures = Vec::with_capacity(CONSUMERS.len());
        for (stream, name) in CONSUMERS {
            let consumer: consumer::PullConsumer =
                self.context.get_consumer_from_stream(name, stream).await.map_err(unavailable)?;
            let info = consumer.cached_info();
            figures.push(ConsumerFigures {
                stream,
                consumer: name,
                pending: info.num_pending,
                unsettled: info.num_ack_pending as u64,
                redelivered: info.num_redelivered as u64,
            });
        }
        Ok(figures)
    }

    /// Where the canary is, and what its last runs found.
    ///
    /// # Errors
    /// The server is away, the bucket is missing, or what it holds cannot be read.
    pub async fn canary(&self) -> Result<Canary, StoreError> {
        let bucket = self.context.get_key_value(CANARY).await.map_err(unavailable)?;
        Ok(read_canary(&bucket).await?.0)
    }
}
