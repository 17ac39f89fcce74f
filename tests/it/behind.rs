//! A copy of the bucket `leads` that is behind answers; what was decided by it would be of before.
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dripline_actors::ports::{BatchResult, Fate, JournalLines, LeadStore, Put, Revision, StoreError};
use dripline_actors::{Engine, Order, OrderedAction};
use dripline_domain::{Address, Lead, LeadKey, LeadStatus, Operator, RequestId};

use crate::engine::start;
use crate::system::System;

const JANE: &str = "jane@example.com";

type Document = (Option<Lead>, Revision);

/// The bucket, one of whose copies can be made to stand still: by it any copy's word is given.
#[derive(Clone)]
struct Behind {
    bucket: Arc<dyn LeadStore>,
    copy: Arc<Mutex<Option<Document>>>,
}

impl Behind {
    /// From now on the copy has this lead as it is now.
    async fn stand_still(&self, key: &LeadKey) {
        let now = self.bucket.load_newest(key).await.unwrap();
        *self.copy.lock().unwrap() = Some(now);
    }
}

#[async_trait]
impl LeadStore for Behind {
    async fn load(&self, key: &LeadKey) -> Result<Document, StoreError> {
        let copy = self.copy.lock().unwrap().clone();
        match copy {
            Some(before) => Ok(before),
            None => self.bucket.load(key).await,
        }
    }

    async fn load_newest(&self, key: &LeadKey) -> Result<Document, StoreError> {
        self.bucket.load_newest(key).await
    }

    async fn write(&self, puts: &[Put], journal: JournalLines) -> BatchResult {
        self.bucket.write(puts, journal).await
    }

    async fn examine(&self, puts: &[Put]) -> Result<Vec<Fate>, StoreError> {
        self.bucket.examine(puts).await
    }
}

async fn order(engine: &Engine, action: OrderedAction, request: &str) {
    let operator = Operator::new("ops", "a test").unwrap();
    let order = Order { action, operator, request: RequestId::parse(request).unwrap() };
    let obeyed = engine.controller().order(&Address::parse(JANE).unwrap(), order).await;
    obeyed.unwrap_or_else(|error| panic!("{request}: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_carried_out_and_shown_although_the_copy_that_answers_is_of_before() {
    let system = System::new("resend").await;
    system.sequence("welcome", &[("first", "1d")]);
    let mut behind = None;
    let engine = start(&system, |ports, _| {
        let store = Behind { bucket: Arc::clone(&ports.store), copy: Arc::default() };
        ports.store = Arc::new(store.clone());
        behind = Some(store);
    })
    .await;
    let behind = behind.unwrap();
    system.publish("leads.new", &format!(r#"{{"email": "{JANE}"}}"#)).await;
    let address = Address::parse(JANE).unwrap();
    let key = LeadKey::of(&address);
    system.until_status(key.as_str(), "NEW").await;

    // The copy knows of no pause: it would have nothing to resume.
    behind.stand_still(&key).await;
    order(&engine, OrderedAction::Pause, "pause-1").await;
    order(&engine, OrderedAction::Resume, "resume-1").await;
    assert_eq!(system.document(key.as_str()).await.unwrap()["status"], "NEW");

    // The copy has her paused already.
    order(&engine, OrderedAction::Pause, "pause-2").await;
    behind.stand_still(&key).await;
    order(&engine, OrderedAction::Resume, "resume-2").await;
    order(&engine, OrderedAction::Pause, "pause-3").await;
    assert_eq!(system.document(key.as_str()).await.unwrap()["status"], "PAUSED");

    order(&engine, OrderedAction::Resume, "resume-3").await;
    let shown = engine.controller().lead(&address).await.unwrap();
    assert_eq!(shown.status(), LeadStatus::New);
    engine.stop(Duration::from_secs(5)).await;
}
