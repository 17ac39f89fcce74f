//! Each provider's documented request, and what its answers mean, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod http_server;
mod losses;
mod mailgun;
mod outbox;
mod postmark;
mod resend;
mod sendgrid;
mod smtp;
mod smtp_server;
mod stand_in;

use std::time::{Duration, SystemTime};

use dripline_actors::ports::LookUp;
use dripline_domain::{Address, Email, Outcome, Timestamp};

/// Long enough for a local answer, on a busy machine too.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The second email of a sequence, with everything that an email can have.
fn email() -> Email {
    Email {
        from: "Acme Team <team@acme.example>".into(),
        to: Address::parse("jane@example.com").unwrap(),
        reply_to: Some("help@acme.example".into()),
        subject: "Jane, welcome – day 2".to_owned(),
        html: Some("<p>Hello Jane &amp; co</p>".to_owned()),
        text: "Hello Jane & co".to_owned(),
        headers: vec![
            ("List-Unsubscribe", "<https://acme.example/u?t=abc>".to_owned()),
            ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".to_owned()),
        ],
        message_id: "<5f2c91@acme.example>".to_owned(),
        send_key: "5f2c91".into(),
        lead_id: "ld_0123456789abcdef0123456789abcdef".into(),
        sequence: "welcome".into(),
        version: 3,
        step: "day-2".into(),
    }
}

/// Several such emails, to `jane@…`, `jane1@…`, …, with send keys `5f2c91`, `key-1`, ….
fn emails(count: usize) -> Vec<Email> {
    let further = (1..count).map(|at| Email {
        to: Address::parse(&format!("jane{at}@example.com")).unwrap(),
        send_key: format!("key-{at}").into(),
        message_id: format!("<key-{at}@acme.example>"),
        ..email()
    });
    std::iter::once(email()).chain(further).collect()
}

/// An outcome in one line, for tables: its name, and an accepted email's id.
fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Accepted { message_id } => format!("accepted {message_id}"),
        other => other.name().to_owned(),
    }
}

fn tell_all(outcomes: &[Outcome]) -> Vec<String> {
    outcomes.iter().map(told).collect()
}

/// The reason, where there is one.
fn reason(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Transient { reason }
        | Outcome::Refused { reason }
        | Outcome::Misconfigured { reason }
        | Outcome::Unknown { reason } => reason,
        Outcome::Accepted { .. } | Outcome::RateLimited { .. } => "",
    }
}

fn ago(time: Duration) -> Timestamp {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    Timestamp::from_millis((now.as_millis() - time.as_millis()).try_into().unwrap())
}

/// What a look-up found, in one line.
fn found(look_up: &LookUp) -> String {
    match look_up {
        LookUp::Found { message_id } => format!("found {message_id}"),
        LookUp::NotFound => "not found".to_owned(),
        LookUp::Unclear { .. } => "unclear".to_owned(),
    }
}
