//! Operators, as good ones are: they ask until they have an answer, each time with the same request id.
use std::time::Duration;

use async_nats::{Client, Request};
use tokio::time::{Instant, sleep};

use crate::history::{Answer, Order, Verb};
use crate::now;

/// By whom the journal has every order of ours.
pub(crate) const OPERATOR: &str = "operator of the torture";

/// The service answers within 4 s, or not at all.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);

/// Orders something, until it is answered or `give_up` has come.
pub(crate) async fn order(client: &Client, id: String, verb: Verb, give_up: Instant) -> Order {
    let mut order = Order { id, verb, first_sent: now(), tries: 0, answer: None, repeat: None };
    order.answer = until_answered(client, &mut order, give_up).await;
    order
}

/// Asks once more for what was answered, under the same id.
pub(crate) async fn repeat(client: &Client, order: &mut Order, give_up: Instant) {
    let mut again = order.clone();
    order.repeat = until_answered(client, &mut again, give_up).await;
}

async fn until_answered(client: &Client, order: &mut Order, give_up: Instant) -> Option<Answer> {
    let subject = format!("dripline.{}", order.verb.subject());
    let mut fields = order.verb.fields();
    for (name, value) in [("by", OPERATOR), ("reason", &order.id), ("requestId", &order.id)] {
        fields[name] = value.into();
    }
    let payload = fields.to_string();
    while Instant::now() < give_up {
        order.tries += 1;
        let request = Request::new().payload(payload.clone().into()).timeout(Some(PATIENCE));
        if let Ok(message) = client.send_request(subject.clone(), request).await {
            let refused = message.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error"));
            match refused.map(ToString::to_string) {
                Some(code) if code == "unavailable" => {}
                refused => return Some(Answer { at: now(), refused }),
            }
        }
        sleep(PAUSE).await;
    }
    None
}
