//! The control service: a NATS micro service (ADR-32), an instance in every engine. One of them takes each request,
//! whichever process holds the lead.
mod leads;
mod request;
mod sequences;
mod status;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Stream;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::error::Error as ServiceError;
use async_nats::service::{NATS_SERVICE_ERROR, NATS_SERVICE_ERROR_CODE, Request, Service, ServiceExt};
use async_nats::{Client, HeaderMap, Subject};
use bytes::Bytes;
use dripline_actors::ports::{Controlled, Controls, Sequences, Source};
use dripline_actors::{Controller, Obeyed, Order, OrderedAction};
use dripline_domain::{Address, Sanitiser, Sequence, SmolStr};
use futures_util::stream::{self, StreamExt};
use request::{Fields, Move, Nothing, OfProvider, OfSequence, OfWebhook, Problem, Resolve, Stop};
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use crate::connect::Connections;
use crate::sequences::SequenceBook;
use crate::topology::{JOURNAL, LEADS_BUCKET, SEQUENCES_BUCKET};

/// The service's name, and the first part of each subject.
pub const SERVICE: &str = "dripline";
/// Requests at work at a time, in each engine.
const IN_FLIGHT: usize = 16;
/// A request that reads much answers after this with what it has, and says where to go on.
const PAGE_TIME: Duration = Duration::from_secs(2);

/// Reads the sequences of this process's folder again; every problem there is where they cannot be used.
pub type ReadFolder = Arc<dyn Fn() -> Result<Vec<Sequence>, Vec<String>> + Send + Sync>;

/// What the service needs.
pub struct ControlParts {
    /// The running engine.
    pub controller: Controller,
    /// What is held back.
    pub controls: Arc<dyn Controls>,
    /// The sequences.
    pub sequences: Arc<SequenceBook>,
    /// The folder that they come from.
    pub folder: ReadFolder,
    /// The outgoing webhooks of the configuration, by name.
    pub webhooks: Vec<String>,
    /// How leads are cleaned that an operator enrols.
    pub sanitiser: Sanitiser,
}

/// The service, answering until it is dropped.
pub struct ControlService {
    // Its own subscriptions end with it.
    _service: Service,
    answering: AbortHandle,
    following: AbortHandle,
}

/// The service did not start.
#[derive(Debug, thiserror::Error)]
#[error("the control service did not start")]
pub struct ControlStartError(#[source] Source);

/// What can be asked, each once: the end of the subject, what it does, and its fields.
const VERBS: [(Verb, &str, &str, &str); 23] = [
    (Verb::LeadGet, "lead.get", "A lead's document.", "address"),
    (
        Verb::LeadHistory,
        "lead.history",
        "A lead's lines of the journal, the newest first, in pages.",
        "address | leadId, before?, limit?",
    ),
    (Verb::LeadList, "lead.list", "Leads, in pages.", "status?, sequence?, step?, overdue?, after?, limit?"),
    (Verb::LeadPause, "lead.pause", "Sends nothing of a lead until it is resumed.", "address, by, reason, requestId?"),
    (
        Verb::LeadResume,
        "lead.resume",
        "Lets a lead go on, and tries again what was parked.",
        "address, by, reason, requestId?",
    ),
    (
        Verb::LeadMove,
        "lead.move",
        "Puts a lead at another step, or on another version.",
        "address, sequence, step, version?, at?, by, reason, requestId?",
    ),
    (
        Verb::LeadRestart,
        "lead.restart",
        "Begins a sequence anew, at its current version.",
        "address, sequence, by, reason, requestId?",
    ),
    (
        Verb::LeadStop,
        "lead.stop",
        "Ends what is under way, in one sequence or in all.",
        "address, sequence?, by, reason, requestId?",
    ),
    (
        Verb::LeadEnroll,
        "lead.enroll",
        "Enters a lead into a sequence, as if it had arrived.",
        "address, sequence?, lead?, by, reason, requestId?",
    ),
    (
        Verb::LeadResolve,
        "lead.resolve",
        "Says what became of an attempt in doubt.",
        "address, sequence, sent, by, reason, requestId?",
    ),
    (
        Verb::LeadDelete,
        "lead.delete",
        "Erases all that is known of a person but that they must not be mailed.",
        "address, by, reason, requestId?",
    ),
    (Verb::SequenceList, "sequence.list", "Every sequence: its newest version, its current one, its pause.", ""),
    (Verb::SequenceShow, "sequence.show", "One version of a sequence, whole.", "sequence, version?"),
    (
        Verb::SequencePause,
        "sequence.pause",
        "Sends nothing of a sequence until it is resumed.",
        "sequence, by, reason, requestId?",
    ),
    (
        Verb::SequenceResume,
        "sequence.resume",
        "Sends the steps of a sequence again.",
        "sequence, by, reason, requestId?",
    ),
    (
        Verb::SequenceReload,
        "sequence.reload",
        "Reads the folder again; every engine goes on with what is new.",
        "by, reason",
    ),
    (
        Verb::SequenceMigrate,
        "sequence.migrate",
        "Puts the leads of one version on another, by step id, in pages.",
        "sequence, from, to, dryRun?, after?, by, reason, requestId?",
    ),
    (Verb::ProviderStatus, "provider.status", "The providers of the engine that answers.", ""),
    (
        Verb::ProviderPause,
        "provider.pause",
        "Makes no call to a provider until it is resumed.",
        "provider, by, reason, requestId?",
    ),
    (Verb::ProviderResume, "provider.resume", "Calls a provider again.", "provider, by, reason, requestId?"),
    (
        Verb::OutgoingPause,
        "outgoing.pause",
        "Posts nothing to an outgoing webhook until it is resumed.",
        "webhook, by, reason, requestId?",
    ),
    (
        Verb::OutgoingResume,
        "outgoing.resume",
        "Tells an outgoing webhook again what happens, from where it was.",
        "webhook, by, reason, requestId?",
    ),
    (Verb::Status, "status", "The engines, the queues, the providers, and what is held back.", ""),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    LeadGet,
    LeadHistory,
    LeadList,
    LeadPause,
    LeadResume,
    LeadMove,
    LeadRestart,
    LeadStop,
    LeadEnroll,
    LeadResolve,
    LeadDelete,
    SequenceList,
    SequenceShow,
    SequencePause,
    SequenceResume,
    SequenceReload,
    SequenceMigrate,
    ProviderStatus,
    ProviderPause,
    ProviderResume,
    OutgoingPause,
    OutgoingResume,
    Status,
}

impl ControlService {
    /// Starts an instance. Several share the requests.
    ///
    /// # Errors
    /// The server is away, or does not let us in.
    pub async fn start(connections: &Connections, parts: ControlParts) -> Result<Self, ControlStartError> {
        let context = Connections::jetstream(&connections.general);
        let client = connections.general.clone();
        let stream =
            async |name| context.get_stream_no_info(name).await.map_err(|error| ControlStartError(error.into()));
        let following = parts.sequences.follow().await.map_err(|error| ControlStartError(error.into()))?;
        let desk = Arc::new(Desk {
            leads: stream(LEADS_BUCKET).await?,
            journal: stream(JOURNAL).await?,
            published: stream(SEQUENCES_BUCKET).await?,
            client: client.clone(),
            context: context.clone(),
            started: Instant::now(),
            parts,
        });
        let service = client
            .service_builder()
            .description("Control of Dripline, a durable drip-email engine.")
            .metadata([("engine".to_owned(), desk.parts.controller.owner().to_owned())].into())
            .queue_group(SERVICE)
            .start(SERVICE, env!("CARGO_PKG_VERSION"))
            .await
            .map_err(ControlStartError)?;
        let group = service.group(SERVICE);
        let mut endpoints = Vec::with_capacity(VERBS.len());
        for (verb, subject, what, fields) in VERBS {
            let metadata: HashMap<_, _> =
                [("description".to_owned(), what.to_owned()), ("request".to_owned(), fields.to_owned())].into();
            let name = subject.replace('.', "-");
            let endpoint = group.endpoint_builder().name(name).metadata(metadata).add(subject).await;
            let endpoint: Endpoint = endpoint.map_err(ControlStartError)?;
            endpoints.push(endpoint.map(move |request| (verb, request)));
        }
        let answering = stream::select_all(endpoints).for_each_concurrent(IN_FLIGHT, move |(verb, request)| {
            let desk = Arc::clone(&desk);
            async move { desk.take(verb, request).await }
        });
        Ok(Self { _service: service, answering: tokio::spawn(answering).abort_handle(), following })
    }
}

impl Drop for ControlService {
    fn drop(&mut self) {
        self.answering.abort();
        self.following.abort();
    }
}

/// Where requests are answered.
struct Desk {
    parts: ControlParts,
    client: Client,
    context: Context,
    /// The streams behind the buckets `leads` and `sequences`, and `JOURNAL`.
    leads: Stream<()>,
    published: Stream<()>,
    journal: Stream<()>,
    started: Instant,
}

impl Desk {
    async fn take(&self, verb: Verb, request: Request) {
        let answered = match self.answer(verb, &request.message.payload).await {
            Ok(answer) => self.fits(&answer),
            Err(problem) => Err(problem),
        };
        let sent = match answered {
            Ok(answer) => request.respond(Ok(answer)).await,
            Err(problem) => self.refuse(request, &problem).await,
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "an answer could not be sent");
        }
    }

    fn fits(&self, answer: &Value) -> Result<Bytes, Problem> {
        let (answer, most) = (Bytes::from(answer.to_string()), self.client.server_info().max_payload);
        if answer.len() > most {
            let message = format!("the answer has {} bytes, and a message {most}: ask for less", answer.len());
            return Err(Problem { status: 500, code: "answer_too_large", message });
        }
        Ok(answer)
    }

    /// The client's own answer to a refused request has no body. It is sent where nobody listens, so that the service's
    /// statistics have the error, and ours goes to whoever asked.
    async fn refuse(&self, mut request: Request, problem: &Problem) -> Result<(), async_nats::PublishError> {
        let Problem { status, code, message } = problem;
        let nowhere = Subject::from(self.client.new_inbox());
        let Some(reply) = request.message.reply.replace(nowhere) else { return Ok(()) };
        let mut headers = HeaderMap::new();
        headers.insert(NATS_SERVICE_ERROR, *code);
        headers.insert(NATS_SERVICE_ERROR_CODE, status.to_string());
        let body = json!({"code": code, "message": message}).to_string();
        self.client.publish_with_headers(reply, headers, body.into()).await?;
        request.respond(Err(ServiceError { status: (*code).to_owned(), code: (*status).into() })).await
    }

    async fn answer(&self, verb: Verb, payload: &[u8]) -> Result<Value, Problem> {
        let mut fields = Fields::read(payload)?;
        match verb {
            Verb::LeadGet => {
                let address = fields.address()?;
                let Nothing {} = fields.rest()?;
                Ok(json!(self.parts.controller.lead(&address).await?))
            }
            Verb::LeadHistory => self.history(fields.rest()?).await,
            Verb::LeadList => self.list(fields.rest()?).await,
            Verb::LeadPause => {
                self.order(fields, |fields, _| fields.rest().map(|Nothing {}| OrderedAction::Pause)).await
            }
            Verb::LeadResume => {
                self.order(fields, |fields, _| fields.rest().map(|Nothing {}| OrderedAction::Resume)).await
            }
            Verb::LeadMove => {
                let action = |fields: Fields, _: &Address| {
                    let Move { sequence, step, version, at } = fields.rest()?;
                    Ok(OrderedAction::Move { sequence, step, version, at })
                };
                self.order(fields, action).await
            }
            Verb::LeadRestart => {
                let action = |fields: Fields, _: &Address| {
                    fields.rest().map(|OfSequence { sequence }| OrderedAction::Restart { sequence })
                };
                self.order(fields, action).await
            }
            Verb::LeadStop => {
                let action = |fields: Fields, _: &Address| {
                    fields.rest().map(|Stop { sequence }| OrderedAction::Stop { sequence })
                };
                self.order(fields, action).await
            }
            Verb::LeadEnroll => {
                self.order(fields, |fields, address| fields.enrolment(address, &self.parts.sanitiser)).await
            }
            Verb::LeadResolve => {
                let action = |fields: Fields, _: &Address| {
                    fields.rest().map(|Resolve { sequence, sent }| OrderedAction::Resolve { sequence, sent })
                };
                self.order(fields, action).await
            }
            Verb::LeadDelete => {
                self.order(fields, |fields, _| fields.rest().map(|Nothing {}| OrderedAction::Erase)).await
            }
            Verb::SequenceList => {
                let Nothing {} = fields.rest()?;
                self.list_sequences().await
            }
            Verb::SequenceShow => self.show_sequence(fields.rest()?).await,
            Verb::SequencePause | Verb::SequenceResume => {
                let (operator, request) = fields.operator()?;
                let OfSequence { sequence } = fields.rest()?;
                let what = Controlled::Sequence(&sequence);
                self.hold(what, verb == Verb::SequencePause, &operator, &request).await
            }
            Verb::SequenceReload => {
                let (operator, _) = fields.operator()?;
                let Nothing {} = fields.rest()?;
                self.reload(&operator).await
            }
            Verb::SequenceMigrate => {
                let (operator, request) = fields.operator()?;
                self.migrate(fields.rest()?, operator, request).await
            }
            Verb::ProviderStatus => {
                let Nothing {} = fields.rest()?;
                Ok(json!({"engine": self.parts.controller.owner(), "providers": self.parts.controller.providers()}))
            }
            Verb::ProviderPause | Verb::ProviderResume => {
                let (operator, request) = fields.operator()?;
                let OfProvider { provider } = fields.rest()?;
                let what = Controlled::Provider(&provider);
                self.hold(what, verb == Verb::ProviderPause, &operator, &request).await
            }
            Verb::OutgoingPause | Verb::OutgoingResume => {
                let (operator, request) = fields.operator()?;
                let OfWebhook { webhook } = fields.rest()?;
                let what = Controlled::OutgoingWebhook(&webhook);
                self.hold(what, verb == Verb::OutgoingPause, &operator, &request).await
            }
            Verb::Status => {
                let Nothing {} = fields.rest()?;
                self.status().await
            }
        }
    }

    /// Hands an order to the lead's actor; answers with the document as it then is.
    async fn order(
        &self,
        mut fields: Fields,
        action: impl FnOnce(Fields, &Address) -> Result<OrderedAction, Problem>,
    ) -> Result<Value, Problem> {
        let address = fields.address()?;
        let (operator, request) = fields.operator()?;
        let action = action(fields, &address)?;
        Ok(match self.parts.controller.order(&address, Order { action, operator, request }).await? {
            Obeyed::Lead(lead) => json!(lead),
            Obeyed::Erased { lead_id, erased } => json!({"leadId": lead_id, "erased": erased}),
        })
    }

    /// The id of a step, for people; its number where its sequence is gone.
    async fn step_id(&self, sequence: &str, version: u32, step: usize) -> Result<Option<SmolStr>, Problem> {
        let sequence = self.parts.sequences.version(sequence, version).await?;
        Ok(sequence.and_then(|sequence| Some(sequence.steps.get(step)?.id.clone())))
    }
}
