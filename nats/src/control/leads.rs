//! Requests that read many leads, in pages: each is bounded in time and in size, and says where to go on.
use std::time::Instant;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::DirectGetErrorKind;
use dripline_actors::ports::{Sequences as _, StoreError, journal_lines};
use dripline_actors::{ControlError, Order, OrderedAction};
use dripline_domain::{Address, Enrolment, Lead, LeadKey, Operator, RequestId};
use futures_util::stream::{self, BoxStream, StreamExt};
use serde_json::{Value, json};

use super::request::{History, List, Migrate, Problem};
use super::{Desk, PAGE_TIME};
use crate::lead_scan::messages;
use crate::marks::Marks;
use crate::store::is_removed;
use crate::topology::LEADS_BUCKET_SUBJECT;

/// Entries of a page, unless another number is asked for.
const PAGE: usize = 50;
/// The most that may be asked for.
const MOST: usize = 500;
/// Journal messages read at a time: each may have most of a megabyte.
const READING: usize = 16;
/// Leads of a migration at work at a time.
const MIGRATING: usize = 16;
/// Leads that one request migrates.
const MIGRATED: usize = 500;

impl Desk {
    /// The lines of one lead, the newest first.
    pub(super) async fn history(&self, request: History) -> Result<Value, Problem> {
        let History { address, lead_id, before, limit } = request;
        let lead_id = match (address, lead_id) {
            (Some(address), None) => {
                let address =
                    Address::parse(&address).map_err(|error| Problem::invalid(format!("`address`: {error}")))?;
                self.parts.controller.lead_id(&address).to_string()
            }
            (None, Some(lead_id)) => lead_id,
            (Some(_), Some(_)) | (None, None) => return Err(Problem::invalid("name an `address` or a `leadId`")),
        };
        let limit = page(limit)?;
        let state = self.journal.get_info().await.map_err(Problem::unavailable)?.state;
        let newest = before.map_or(state.last_sequence, |before| before.saturating_sub(1).min(state.last_sequence));
        let sequences = (state.first_sequence.max(1)..=newest).rev();
        let mut read = stream::iter(sequences).map(|sequence| self.journal_message(sequence)).buffered(READING);
        let (began, mut entries, mut next) = (Instant::now(), Vec::new(), None);
        while let Some(message) = read.next().await {
            let (sequence, payload) = message?;
            // The id is looked for as bytes first: most lines are of others.
            let mine = journal_lines(&payload).filter(|line| contains(line, lead_id.as_bytes()));
            let mine: Vec<Value> = mine
                .filter_map(|line| serde_json::from_slice(line).ok())
                .filter(|line: &Value| line["leadId"] == lead_id.as_str())
                .collect();
            entries.extend(mine.into_iter().rev());
            // A message is read as a whole: the next page begins before it.
            if entries.len() >= limit || began.elapsed() > PAGE_TIME {
                next = (sequence > state.first_sequence.max(1)).then_some(sequence);
                break;
            }
        }
        Ok(json!({"leadId": lead_id, "entries": entries, "before": next}))
    }

    async fn journal_message(&self, sequence: u64) -> Result<(u64, Vec<u8>), Problem> {
        match self.journal.direct_get(sequence).await {
            Ok(message) => Ok((sequence, message.payload.to_vec())),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok((sequence, Vec::new())),
            Err(error) => Err(Problem::unavailable(error)),
        }
    }

    /// Leads in the order in which they last changed. One that changes meanwhile may come twice.
    pub(super) async fn list(&self, request: List) -> Result<Value, Problem> {
        let List { status, sequence, step, overdue, after, limit } = request;
        if step.is_some() && sequence.is_none() {
            return Err(Problem::invalid("a `step` is one of a `sequence`: name it, too"));
        }
        let limit = page(limit)?;
        let now = self.parts.controller.clock().now();
        let (began, mut rows, mut next) = (Instant::now(), Vec::new(), None);
        let mut scan = self.scan(after.unwrap_or_default(), sequence.is_none()).await?;
        while let Some(message) = scan.next().await {
            let Scanned { sequence: place, pending, message } = scanned(message?)?;
            let headers = message.headers.as_ref();
            let marks = Marks::read(headers);
            let is_wanted = !is_removed(headers)
                && (status.is_none() || status == marks.status)
                && (!overdue || marks.next_action.is_some_and(|next| next < now));
            if is_wanted && let Some(lead) = self.document(&message).await? {
                let mut row = self.row(&lead).await?;
                if is_in(&mut row, sequence.as_deref(), step.as_deref()) {
                    rows.push(row);
                }
            }
            if rows.len() >= limit || began.elapsed() > PAGE_TIME {
                next = (pending > 0).then_some(place);
                break;
            }
        }
        Ok(json!({"leads": rows, "after": next}))
    }

    /// The documents' messages from here on, in order.
    async fn scan(
        &self,
        after: u64,
        headers_only: bool,
    ) -> Result<BoxStream<'static, Result<Message, StoreError>>, Problem> {
        let from = DeliverPolicy::ByStartSequence { start_sequence: after + 1 };
        Ok(messages(&self.leads, format!("{LEADS_BUCKET_SUBJECT}>"), headers_only, from).await?.1)
    }

    /// The lead of a message that may have headers alone; none of one that was removed, or is not ours.
    async fn document(&self, message: &Message) -> Result<Option<Lead>, Problem> {
        if !message.payload.is_empty() {
            return Ok(Lead::from_json(&message.payload).ok());
        }
        let key = message.subject.strip_prefix(LEADS_BUCKET_SUBJECT).map(LeadKey::parse);
        let Some(Ok(address)) = key.map(|key| key.and_then(|key| key.address())) else { return Ok(None) };
        match self.parts.controller.lead(&address).await {
            Ok(lead) => Ok(Some(lead)),
            Err(ControlError::Unavailable(why)) => Err(Problem::unavailable(why)),
            // Erased meanwhile, or unreadable: no row.
            Err(_) => Ok(None),
        }
    }

    async fn row(&self, lead: &Lead) -> Result<Value, Problem> {
        let mut enrolments = Vec::with_capacity(lead.enrolments.len());
        for Enrolment { sequence, step, state, .. } in &lead.enrolments {
            let id = self.step_id(&sequence.name, sequence.version, *step).await?;
            enrolments.push(json!({
                "sequence": sequence.name, "version": sequence.version, "step": id, "status": state.name(),
                "nextActionTimestamp": state.next_action(),
            }));
        }
        Ok(json!({
            "leadId": lead.lead_id, "email": lead.address, "status": lead.status().name(),
            "nextActionTimestamp": lead.next_action(), "enrollments": enrolments,
        }))
    }

    /// A part of a migration. What is on the old version when the last page comes without `after` could not be moved.
    pub(super) async fn migrate(
        &self,
        request: Migrate,
        operator: Operator,
        request_id: RequestId,
    ) -> Result<Value, Problem> {
        let Migrate { sequence, from, to, dry_run, after } = request;
        if from == to {
            return Err(Problem::invalid("`from` and `to` are one version"));
        }
        for version in [from, to] {
            if self.parts.sequences.version(&sequence, version).await?.is_none() {
                let sequence = sequence.clone();
                return Err(ControlError::NoSuchVersion { sequence, version }.into());
            }
        }
        let is_on = |enrolment: &Enrolment| {
            enrolment.sequence.name == sequence && enrolment.sequence.version == from && !enrolment.state.is_terminal()
        };
        let began = Instant::now();
        let (mut found, mut next) = (Vec::new(), None);
        let mut scan = self.scan(after.unwrap_or_default(), false).await?;
        while let Some(message) = scan.next().await {
            let Scanned { sequence: place, pending, message } = scanned(message?)?;
            let lead = Lead::from_json(&message.payload).ok();
            found.extend(lead.filter(|lead| lead.enrolments.iter().any(is_on)));
            if found.len() >= MIGRATED || began.elapsed() > PAGE_TIME {
                next = (pending > 0).then_some(place);
                break;
            }
        }
        drop(scan);
        let count = found.len();
        if dry_run {
            return Ok(json!({"found": count, "moved": 0, "refused": [], "after": next}));
        }
        let action = OrderedAction::Migrate { sequence: sequence.clone(), from, to };
        let moved = stream::iter(found).map(|lead| {
            let order = Order { action: action.clone(), operator: operator.clone(), request: request_id.clone() };
            async move {
                let obeyed = self.parts.controller.order(&lead.address, order).await;
                obeyed.err().map(|error| (lead, Problem::from(error)))
            }
        });
        let refused: Vec<_> = moved.buffer_unordered(MIGRATING).filter_map(std::future::ready).collect().await;
        let moved = count - refused.len();
        let refused: Vec<_> = refused
            .into_iter()
            .map(|(lead, Problem { code, message, .. })| json!({"leadId": lead.lead_id, "code": code, "message": message}))
            .collect();
        Ok(json!({"found": count, "moved": moved, "refused": refused, "after": next}))
    }
}

struct Scanned {
    /// Its place in the stream.
    sequence: u64,
    /// Messages after it.
    pending: u64,
    message: Message,
}

fn scanned(message: Message) -> Result<Scanned, Problem> {
    let (sequence, pending) = {
        let info = message.info().map_err(Problem::unavailable)?;
        (info.stream_sequence, info.pending)
    };
    Ok(Scanned { sequence, pending, message })
}

/// Whether it has such an enrolment that has not ended.
fn is_in(row: &mut Value, sequence: Option<&str>, step: Option<&str>) -> bool {
    let Some(sequence) = sequence else { return true };
    let enrolments = row["enrollments"].as_array().map(Vec::as_slice).unwrap_or_default();
    enrolments.iter().any(|enrolment| {
        enrolment["sequence"] == sequence
            && step.is_none_or(|step| {
                enrolment["step"] == step && enrolment["status"] != "STOPPED" && enrolment["status"] != "COMPLETED"
            })
    })
}

fn page(limit: Option<usize>) -> Result<usize, Problem> {
    match limit {
        None => Ok(PAGE),
        Some(limit) if (1..=MOST).contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::invalid(format!("`limit` must be from 1 to {MOST}"))),
    }
}

fn contains(line: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && line.windows(part.len()).any(|window| window == part)
}
