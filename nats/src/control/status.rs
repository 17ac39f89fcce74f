//! How it stands with all of it.
use async_nats::jetstream::consumer::PullConsumer;
use futures_util::TryStreamExt;
use serde_json::{Map, Value, json};

use super::Desk;
use super::request::Problem;
use crate::topology::{
    DUE, ENGINES, FEEDBACK, FEEDBACK_CONSUMER, INTAKE, JOURNAL, LEADS, LEADS_BUCKET, REJECTED, TIMERS,
};

impl Desk {
    pub(super) async fn status(&self) -> Result<Value, Problem> {
        let engines = self.context.get_key_value(ENGINES).await.map_err(Problem::unavailable)?;
        let mut engines: Vec<String> =
            engines.keys().await.map_err(Problem::unavailable)?.try_collect().await.map_err(Problem::unavailable)?;
        engines.sort_unstable();
        let mut streams = Map::new();
        for name in [LEADS, FEEDBACK, LEADS_BUCKET, TIMERS, REJECTED, JOURNAL] {
            let stream = self.context.get_stream(name).await.map_err(Problem::unavailable)?;
            let state = &stream.cached_info().state;
            streams.insert(name.to_owned(), json!({"messages": state.messages, "bytes": state.bytes}));
        }
        let mut queues = Map::new();
        for (stream, name) in [(LEADS, INTAKE), (TIMERS, DUE), (FEEDBACK, FEEDBACK_CONSUMER)] {
            let consumer: PullConsumer =
                self.context.get_consumer_from_stream(name, stream).await.map_err(Problem::unavailable)?;
            let info = consumer.cached_info();
            let queue = json!({
                "waiting": info.num_pending, "atWork": info.num_ack_pending, "deliveredAgain": info.num_redelivered,
            });
            queues.insert(name.to_owned(), queue);
        }
        let paused: Map<String, Value> =
            self.parts.controls.all_paused().into_iter().map(|(what, control)| (what, json!(control))).collect();
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "engine": self.parts.controller.owner(),
            "uptimeMs": crate::millis(self.started.elapsed()),
            "engines": engines,
            "providers": self.parts.controller.providers(),
            "paused": paused,
            "queues": queues,
            "streams": streams,
        }))
    }
}
