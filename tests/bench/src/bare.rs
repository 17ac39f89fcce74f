//! The bare protocol: the writes, calls and acks that the engine's promises cost, and nothing else. No actors, no
//! decisions, no templates, no supervision: a yardstick for what those add on this machine.
//!
//! A step is two commits in atomic batches (with the journal message), one HTTP POST, one timer and its ack, with the same
//! payload sizes, subjects and headers as the engine's.
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::{self, Message};
use async_nats::{Client, HeaderMap, Request};
use bytes::Bytes;
use clap::Args;
use dripline_actors::Timer;
use dripline_actors::ports::Timers;
use dripline_domain::{LeadKey, Timestamp};
use dripline_nats::{Connections, JetStreamTimers, Login, topology};
use futures_util::StreamExt;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Puts in one batch, beside the journal message.
const BATCH: usize = 990;

/// Makes a document as long as that of a lead that has had its second email.
const HISTORY: &str = include_str!("filler.txt");
/// Makes a journal line as long as the engine's.
const LINE: &str =
    "............................................................................................................";

#[derive(Debug, Args)]
pub struct Options {
    /// The server.
    #[arg(long)]
    nats: String,
    /// The provider's stand-in.
    #[arg(long)]
    provider: String,
    /// Emails of a lead.
    #[arg(long)]
    steps: usize,
    /// Between two emails of a lead, in seconds.
    #[arg(long)]
    every: u64,
    /// Leads at work at a time.
    #[arg(long)]
    in_flight: usize,
    /// A message for each timer, in place of one for many.
    #[arg(long)]
    single_timers: bool,
}

/// What a lead's next write must expect, and the step it is at.
#[derive(Clone, Copy, Default)]
struct Place {
    revision: u64,
    step: usize,
}

struct Put {
    subject: String,
    expected: u64,
    document: Bytes,
    journal: String,
    reply: oneshot::Sender<u64>,
}

struct Bare {
    options: Options,
    client: Client,
    timers: JetStreamTimers,
    /// Where single ones go.
    timers_context: jetstream::Context,
    commits: mpsc::UnboundedSender<Put>,
    http: reqwest::Client,
    /// For leads whose timer has fired.
    slots: Semaphore,
    leads: Mutex<HashMap<String, Place>>,
}

/// Works off the leads in `LEADS` until it is killed.
pub async fn run(options: Options) -> Result<()> {
    let connections = dripline_nats::connect(&options.nats, &Login::None, "bare").await?;
    let jetstream = Connections::jetstream(&connections.general);
    let intake = consumer(&jetstream, topology::LEADS, topology::INTAKE).await?;
    let due = consumer(&jetstream, topology::TIMERS, topology::DUE).await?;
    let (commits, puts) = mpsc::unbounded_channel();
    let url = options.nats.clone();
    // On a thread of its own, as in the engine.
    std::thread::spawn(move || -> Result<()> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(commit(&url, puts))
    });
    let slots = options.in_flight;
    let timers_context = Connections::jetstream(&connections.timers);
    let timers_stream = timers_context.get_stream_no_info(topology::TIMERS).await?;
    let bare = Arc::new(Bare {
        options,
        client: connections.general.clone(),
        timers: JetStreamTimers::new(timers_context.clone(), timers_stream),
        timers_context,
        commits,
        http: reqwest::Client::builder().http1_only().tcp_nodelay(true).no_proxy().tls_certs_only([]).build()?,
        slots: Semaphore::new(slots),
        leads: Mutex::default(),
    });
    let work_intake = pump(intake, slots, Arc::clone(&bare), |bare, message| async move { bare.enrol(message).await });
    let work_due = pump(due, slots, bare, |bare, message| async move { bare.steps(message).await });
    tokio::try_join!(work_intake, work_due).map(drop)
}

async fn consumer(context: &jetstream::Context, stream: &str, name: &str) -> Result<Consumer<pull::Config>> {
    context.get_consumer_from_stream(name, stream).await.with_context(|| format!("consumer {stream}/{name}"))
}

async fn pump<F>(
    consumer: Consumer<pull::Config>,
    slots: usize,
    bare: Arc<Bare>,
    work: impl Fn(Arc<Bare>, Message) -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(slots));
    let mut messages = consumer.stream().max_messages_per_batch(2_000).messages().await?;
    while let Some(message) = messages.next().await {
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let worked = work(Arc::clone(&bare), message?);
        tokio::spawn(async move {
            if let Err(error) = worked.await {
                complain(&error);
            }
            drop(slot);
        });
    }
    Ok(())
}

impl Bare {
    async fn enrol(&self, message: Message) -> Result<()> {
        let text = std::str::from_utf8(&message.payload)?;
        let email = text.split('"').nth(3).context("no address")?;
        let key = email.replace('@', "=40");
        let revision = self.commit(&key, 0, "WAITING").await?;
        self.place(&key, Place { revision, step: 0 });
        self.set_timer(&key, Duration::ZERO).await?;
        self.ack(message).await
    }

    /// A step of each lead in a message.
    async fn steps(self: Arc<Self>, message: Message) -> Result<()> {
        let timers = Timer::split(&message.payload);
        let steps = timers.into_iter().map(|timer| {
            let bare = Arc::clone(&self);
            tokio::spawn(async move {
                let _slot = bare.slots.acquire().await?;
                bare.step(Timer::read(&timer)?.key.as_str()).await
            })
        });
        for step in steps.collect::<Vec<_>>() {
            step.await??;
        }
        self.ack(message).await
    }

    async fn step(&self, key: &str) -> Result<()> {
        let Place { revision, step } = self.leads.lock().map_or(Place::default(), |leads| leads[key]);
        let revision = self.commit(key, revision, "SENDING").await?;
        self.call(key, step).await?;
        let revision = self.commit(key, revision, "WAITING").await?;
        self.place(key, Place { revision, step: step + 1 });
        if step + 1 < self.options.steps {
            self.set_timer(key, Duration::from_secs(self.options.every)).await?;
        }
        Ok(())
    }

    async fn set_timer(&self, key: &str, after: Duration) -> Result<()> {
        let at = jiff::Timestamp::now() + after;
        let millis = Timestamp::from_millis(at.as_millisecond());
        let timer = Timer::new(LeadKey::parse(key)?, millis, 1);
        if !self.options.single_timers {
            return Ok(self.timers.set(timer).await?);
        }
        let (mut payload, mut headers) = (Vec::new(), HeaderMap::new());
        timer.write(&mut payload)?;
        let due = format!("timers.due.{key}");
        let subject = if after.is_zero() {
            due
        } else {
            headers.insert("Nats-Schedule", format!("@at {at}"));
            headers.insert("Nats-Schedule-Target", due);
            format!("timers.at.{key}")
        };
        self.timers_context.publish_with_headers(subject, headers, payload.into()).await?.await?;
        Ok(())
    }

    fn place(&self, key: &str, place: Place) {
        if let Ok(mut leads) = self.leads.lock() {
            leads.insert(key.to_owned(), place);
        }
    }

    async fn commit(&self, key: &str, expected: u64, status: &str) -> Result<u64> {
        let (reply, answer) = oneshot::channel();
        let document = format!("{{\"email\":\"{key}\",\"status\":\"{status}\",\"history\":\"{HISTORY}\"}}");
        let journal = format!("{{\"leadId\":\"{key}\",\"what\":\"{status}\",\"at\":\"{LINE}\"}}\n");
        let put = Put { subject: format!("$KV.leads.{key}"), expected, document: document.into(), journal, reply };
        self.commits.send(put).ok().context("the committer ended")?;
        Ok(answer.await?)
    }

    async fn call(&self, key: &str, step: usize) -> Result<()> {
        let to = key.replace("=40", "@");
        let send_key = format!("{}-{step}", key.replace(['=', '.'], "-"));
        let body = format!(
            "{{\"from\":\"Acme <hello@acme.example>\",\"to\":[\"{to}\"],\"subject\":\"Hello\",\
             \"html\":\"<p>Hello, this is email {step}.</p>\",\"text\":\"Hello, this is email {step}.\",\
             \"headers\":{{\"Message-ID\":\"<{send_key}@acme.example>\"}},\
             \"tags\":[{{\"name\":\"send_key\",\"value\":\"{send_key}\"}},{{\"name\":\"lead_id\",\"value\":\"{lead}\"}},\
             {{\"name\":\"sequence\",\"value\":\"bench\"}},{{\"name\":\"step\",\"value\":\"step-{step}\"}}]}}",
            lead = &send_key[..send_key.len() - 2],
        );
        let request = self
            .http
            .post(format!("{}/emails", self.options.provider))
            .header("authorization", "Bearer test-key")
            .header("content-type", "application/json")
            .header("user-agent", "bare")
            .header("idempotency-key", send_key)
            .body(body);
        request.send().await?.error_for_status()?.bytes().await?;
        Ok(())
    }

    async fn ack(&self, message: Message) -> Result<()> {
        let to = message.message.reply.context("no reply subject")?;
        Ok(self.client.publish(to, Bytes::from_static(b"+ACK")).await?)
    }
}

/// While one batch is in flight, the next one fills.
async fn commit(url: &str, mut puts: mpsc::UnboundedReceiver<Put>) -> Result<()> {
    let client = async_nats::connect(url).await?;
    let mut filled = Vec::with_capacity(BATCH);
    while puts.recv_many(&mut filled, BATCH).await > 0 {
        let id = format!("{:032x}", rand::random::<u128>());
        let (count, mut journal) = (filled.len() as u64, String::new());
        let mut replies = Vec::with_capacity(filled.len());
        for (number, put) in (1_u64..).zip(filled.drain(..)) {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Batch-Id", id.as_str());
            headers.insert("Nats-Batch-Sequence", number.to_string());
            headers.insert("Nats-Expected-Last-Subject-Sequence", put.expected.to_string());
            client.publish_with_headers(put.subject, headers, put.document).await?;
            journal.push_str(&put.journal);
            replies.push(put.reply);
        }
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Batch-Id", id.as_str());
        headers.insert("Nats-Batch-Sequence", (count + 1).to_string());
        headers.insert("Nats-Batch-Commit", "1");
        headers.insert("Nats-TTL", "48h");
        let request = Request::new().headers(headers).payload(journal.into());
        let answer = client.send_request(format!("journal.{id}"), request).await?;
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload)?;
        let last = answer["seq"].as_u64().with_context(|| answer.to_string())?;
        for (revision, reply) in (last - count..).zip(replies) {
            let _ = reply.send(revision);
        }
    }
    Ok(())
}

// A yardstick that fails must say so.
#[allow(clippy::print_stderr)]
fn complain(error: &anyhow::Error) {
    eprintln!("bare: {error:#}");
}
