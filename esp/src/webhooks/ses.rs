use dripline_actors::ports::FeedbackError;
use dripline_domain::FeedbackKind::{
    Accepted, Clicked, Complained, Deferred, Delivered, Dropped, HardBounced, Opened, Resubscribed, SoftBounced,
    Unsubscribed,
};
use dripline_domain::{Feedback, FeedbackKind, SuppressionCause};
use serde_json::Value;

use super::event::Event;

/// The event of a configuration set, or the notification of an identity, which differ in the name of the first field.
/// <https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html>
pub(super) fn read(event: &Event) -> Result<Vec<Feedback>, FeedbackError> {
    let name = match event.some_text("/eventType") {
        Some(name) => name,
        None => event.text("/notificationType")?,
    };
    // What happened; where it says when, and to whom; and in whose words.
    let (kind, time, people, words) = match name {
        "Send" => (Accepted, "/mail/timestamp", "/mail/destination", ""),
        "Delivery" => (Delivered, "/delivery/timestamp", "/delivery/recipients", "/delivery/smtpResponse"),
        "DeliveryDelay" => {
            (Deferred, "/deliveryDelay/timestamp", "/deliveryDelay/delayedRecipients", "/deliveryDelay/delayType")
        }
        "Bounce" => (bounce(event)?, "/bounce/timestamp", "/bounce/bouncedRecipients", "/bounce/bounceSubType"),
        "Complaint" => match complaint(event) {
            Some(kind) => {
                (kind, "/complaint/timestamp", "/complaint/complainedRecipients", "/complaint/complaintFeedbackType")
            }
            None => return Ok(Vec::new()),
        },
        "Reject" => (Dropped { because: None }, "/mail/timestamp", "/mail/destination", "/reject/reason"),
        "Rendering Failure" => {
            (Dropped { because: None }, "/mail/timestamp", "/mail/destination", "/failure/errorMessage")
        }
        "Open" => (Opened, "/open/timestamp", "/mail/destination", ""),
        "Click" => (Clicked, "/click/timestamp", "/mail/destination", ""),
        "Subscription" => (subscription(event), "/subscription/timestamp", "/mail/destination", "/subscription/source"),
        _ => return Ok(Vec::new()),
    };
    let message_id = event.text("/mail/messageId")?;
    // Bounces and complaints have an id of their own, the others do not; that of SNS stays in its envelope.
    let feedback_id = event.some_text("/bounce/feedbackId").or_else(|| event.some_text("/complaint/feedbackId"));
    let id = match feedback_id {
        Some(id) => id.to_owned(),
        None => format!("{name}:{message_id}:{}", event.text(time)?),
    };
    let said = event
        .says(kind, id, event.time(time)?)?
        .of_message(Some(message_id))
        .with_ids(|name| event.some_text(&format!("/mail/tags/{name}/0")));
    let about = |(at, person): (usize, &Value)| {
        let (address, own_words) = if person.is_string() {
            (format!("{people}/{at}"), None)
        } else {
            (format!("{people}/{at}/emailAddress"), person["diagnosticCode"].as_str())
        };
        Ok(said.about(event.address(&address)?, own_words.or_else(|| event.some_text(words))))
    };
    event.list(people)?.iter().enumerate().map(about).collect()
}

/// <https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html#bounce-types>
fn bounce(event: &Event) -> Result<FeedbackKind, FeedbackError> {
    Ok(match (event.text("/bounce/bounceType")?, event.some_text("/bounce/bounceSubType")) {
        // Not even tried, because of earlier bounces.
        (_, Some("Suppressed" | "OnAccountSuppressionList")) => Dropped { because: Some(SuppressionCause::HardBounce) },
        (_, Some("UnsubscribedRecipient")) => Dropped { because: Some(SuppressionCause::Unsubscribe) },
        ("Permanent", _) => HardBounced,
        // `Transient`, `Undetermined`.
        (_, _) => SoftBounced,
    })
}

/// None where the person said that it is no spam.
/// <https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html#complaint-object>
fn complaint(event: &Event) -> Option<FeedbackKind> {
    if event.some_text("/complaint/complaintFeedbackType") == Some("not-spam") {
        return None;
    }
    match event.some_text("/complaint/complaintSubType") {
        // Not even tried, because of an earlier complaint.
        Some("OnAccountSuppressionList") => Some(Dropped { because: Some(SuppressionCause::Complaint) }),
        _ => Some(Complained),
    }
}

/// Whoever opts out of one topic of a contact list wants no more of what we send.
/// <https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html#event-publishing-retrieving-sns-contents-subscription-object>
fn subscription(event: &Event) -> FeedbackKind {
    let of_all = event.value("/subscription/newTopicPreferences/unsubscribeAll").and_then(Value::as_bool);
    let topics = event.list("/subscription/newTopicPreferences/topicSubscriptionStatus").unwrap_or_default();
    let of_one = topics.iter().any(|topic| topic["subscriptionStatus"] == "OptOut");
    if of_all == Some(true) || of_one { Unsubscribed } else { Resubscribed }
}
