//! The calls under `/_/`, by which a test steers the stand-in and asks what happened.
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, Faults};
use crate::ledger::Ledger;
use crate::vendor::{JSON, Reply};

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Box<Fault>),
    Many(Vec<Fault>),
}

/// Answers one control call.
pub fn answer(ledger: &Ledger, faults: &Faults, parts: &Parts, body: &[u8]) -> Reply {
    match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/_/accepted") => accepted(ledger, parts.uri.query()),
        (&Method::GET, "/_/summary") => json(&ledger.summary()),
        (&Method::GET, "/_/refusals") => json(&ledger.refusals()),
        (&Method::GET, "/_/faults") => json(&faults.list()),
        (&Method::POST, "/_/faults") => set_faults(faults, body),
        (&Method::POST, "/_/reset") => reset(ledger, faults),
        (_, path) => text(StatusCode::NOT_FOUND, format!("no control call {path}\n")),
    }
}

fn accepted(ledger: &Ledger, query: Option<&str>) -> Reply {
    let query = query.unwrap_or_default();
    let to = form_urlencoded::parse(query.as_bytes()).find_map(|(name, value)| (name == "to").then_some(value));
    let mut lines = Vec::new();
    for email in ledger.accepted() {
        if to.as_ref().is_none_or(|to| **to == *email.to) {
            // Writing strings and a number into memory cannot fail.
            let _ = serde_json::to_writer(&mut lines, &*email);
            lines.push(b'\n');
        }
    }
    Reply::new(StatusCode::OK, "application/x-ndjson", lines)
}

fn set_faults(faults: &Faults, body: &[u8]) -> Reply {
    let wanted = match serde_json::from_slice(body) {
        Ok(OneOrMany::One(fault)) => vec![*fault],
        Ok(OneOrMany::Many(faults)) => faults,
        // Read once more as one fault: the error of an untagged enum says nothing.
        Err(error) => {
            let reason = serde_json::from_slice::<Fault>(body).err().unwrap_or(error);
            return text(StatusCode::BAD_REQUEST, format!("{reason}\n"));
        }
    };
    match faults.set(wanted) {
        Ok(()) => json(&faults.list()),
        Err(reason) => text(StatusCode::BAD_REQUEST, format!("{reason}\n")),
    }
}

fn reset(ledger: &Ledger, faults: &Faults) -> Reply {
    ledger.reset();
    let _ = faults.set(Vec::new());
    json(&ledger.summary())
}

fn json(value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => Reply::new(StatusCode::OK, JSON, body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, body: String) -> Reply {
    Reply::new(status, "text/plain; charset=utf-8", body)
}
