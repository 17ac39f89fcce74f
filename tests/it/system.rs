//! A whole system for one test; ends with it.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dripline_actors::Timer;
use dripline_stand_in::{Accepted, Fault, Summary};
use dripline_test_support::{Dripline, NatsServer, free_port, until};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub struct System {
    pub server: NatsServer,
    pub provider: StandIn,
    pub http: reqwest::Client,
    dir: TempDir,
    gateway_port: u16,
    variables: Vec<(String, String)>,
}

/// The provider's stand-in, serving within the test.
pub struct StandIn {
    pub url: String,
    serving: JoinHandle<()>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What the links to unsubscribe are sealed with.
pub const UNSUBSCRIBE_KEY: &str = "a secret of the tests with 32 letters";

/// What each body of a sequence ends with.
const UNSUBSCRIBE_LINK: &str = "<p><a href=\"{{ unsubscribe_url }}\">Unsubscribe</a></p>";

pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_dripline"))
}

impl System {
    /// A server, a stand-in, and settings that make them used; nothing of dripline runs yet.
    pub async fn new(vendor: &str) -> Self {
        // Fails only when another test was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { dripline_stand_in::serve(listener, "test-key").await });
        let provider = StandIn { url, serving };
        let server = NatsServer::start().await.unwrap();
        let gateway_port = free_port().unwrap();
        let mut system = Self {
            server,
            provider,
            http: reqwest::Client::new(),
            dir: tempfile::tempdir().unwrap(),
            gateway_port,
            variables: Vec::new(),
        };
        system.set("DRIPLINE_NATS__URL", &system.server.url());
        system.set("DRIPLINE_GATEWAY__LISTEN", &format!("127.0.0.1:{gateway_port}"));
        system.set("DRIPLINE_UNSUBSCRIBE__BASE_URL", &system.gateway(""));
        system.set("DRIPLINE_UNSUBSCRIBE__KEYS", UNSUBSCRIBE_KEY);
        system.set("DRIPLINE_ENGINE__ACK_WAIT", "4s");
        system.set("DRIPLINE_ESP__TIMEOUT", "1s");
        system.set("DRIPLINE_RETRY__FIRST", "200ms");
        system.set("DRIPLINE_SEQUENCES__DEFAULT", "welcome");
        system.set("DRIPLINE_LOG__FORMAT", "json");
        system.vendor(vendor);
        system.sequence("welcome", &[("first", "0s"), ("second", "1s"), ("third", "1s")]);
        system
    }

    fn vendor(&mut self, vendor: &str) {
        let name = vendor.to_uppercase();
        let key = if vendor == "postmark" { "SERVER_TOKEN" } else { "API_KEY" };
        self.set("DRIPLINE_ESP__PROVIDER", vendor);
        self.set(&format!("DRIPLINE_ESP__{name}__BASE_URL"), &self.provider.url.clone());
        self.set(&format!("DRIPLINE_ESP__{name}__{key}"), "test-key");
        if vendor == "mailgun" {
            self.set("DRIPLINE_ESP__MAILGUN__DOMAIN", "acme.example");
        }
    }

    /// Sets a variable for every dripline started from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(set, _)| set != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A sequence of these steps: id and delay.
    pub fn sequence(&self, name: &str, steps: &[(&str, &str)]) {
        let subject = "Hello {{ firstName | default('there') }}";
        self.sequence_saying(name, steps, subject, "<p>Hello {{ firstName | default('there') }}</p>");
    }

    pub fn sequence_saying(&self, name: &str, steps: &[(&str, &str)], subject: &str, html: &str) {
        let folder = self.dir().join("sequences").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let mut toml = format!("name = \"{name}\"\nversion = 1\nfrom = \"Acme <hello@acme.example>\"\n");
        for (id, after) in steps {
            toml.push_str(&format!(
                "[[steps]]\nid = \"{id}\"\nafter = \"{after}\"\nsend = {{ subject = \"{subject}\", template = \"body\" }}\n"
            ));
        }
        std::fs::write(folder.join("sequence.toml"), toml).unwrap();
        std::fs::write(folder.join("body.html"), format!("{html}\n{UNSUBSCRIBE_LINK}\n")).unwrap();
    }

    /// Starts dripline; waits until it is ready to take leads, where it has a gateway.
    pub async fn start(&self, command: &str) -> Dripline {
        let mut dripline = Dripline::start(binary(), self.dir(), &[command], &self.variables).unwrap();
        if command != "engine" {
            let ready = until("the gateway is ready", async || {
                assert!(dripline.runs().unwrap(), "dripline ended:\n{}", self.log());
                self.get("/readyz").await.is_some_and(|response| response.status().is_success())
            });
            ready.await.unwrap();
        }
        dripline
    }

    /// Runs a dripline command to its end; gives exit code, standard output and standard error.
    pub async fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = dripline_test_support::command(binary(), self.dir(), arguments, &self.variables);
        let output = command.output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("dripline.log")).unwrap_or_default()
    }

    pub fn gateway(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.gateway_port)
    }

    async fn get(&self, path: &str) -> Option<reqwest::Response> {
        self.http.get(self.gateway(path)).timeout(Duration::from_secs(2)).send().await.ok()
    }

    /// Publishes a lead as a lead source does: with the real CLI, waiting for the ack.
    pub async fn publish(&self, subject: &str, lead: &str) {
        self.server.cli(["pub", "-J", subject, lead]).await.unwrap();
    }

    /// The lead's document, by the real CLI; none where there is none.
    pub async fn document(&self, key: &str) -> Option<Value> {
        let text = self.server.cli(["kv", "get", "leads", key, "--raw"]).await.ok()?;
        Some(serde_json::from_str(&text).unwrap())
    }

    /// Every document in the bucket `leads`.
    pub async fn documents(&self) -> Vec<Value> {
        use async_nats::jetstream;
        use async_nats::jetstream::consumer::DeliverPolicy;
        use async_nats::jetstream::consumer::pull::OrderedConfig;
        use futures_util::StreamExt;

        let client = async_nats::connect(self.server.url()).await.unwrap();
        let stream = jetstream::new(client).get_stream("KV_leads").await.unwrap();
        let consumer = stream
            .create_consumer(OrderedConfig {
                filter_subject: "$KV.leads.>".to_owned(),
                deliver_policy: DeliverPolicy::LastPerSubject,
                ..OrderedConfig::default()
            })
            .await
            .unwrap();
        let count = usize::try_from(consumer.cached_info().num_pending).unwrap();
        if count == 0 {
            return Vec::new();
        }
        let messages = consumer.messages().await.unwrap().take(count);
        messages.map(|message| serde_json::from_slice(&message.unwrap().payload).unwrap()).collect().await
    }

    /// Waits until so many leads have this status; gives all documents.
    pub async fn until_all(&self, count: usize, status: &str) -> Vec<Value> {
        let mut documents = Vec::new();
        let reached = until(format!("{count} leads are {status}"), async || {
            documents = self.documents().await;
            documents.iter().filter(|lead| lead["status"] == status).count() >= count
        });
        if let Err(error) = reached.await {
            let statuses: Vec<_> = documents.iter().map(|lead| lead["status"].to_string()).collect();
            panic!("{error}; they are {statuses:?}\n{}", self.log());
        }
        documents
    }

    pub async fn until_status(&self, key: &str, status: &str) -> Value {
        let mut document = Value::Null;
        let reached = until(format!("{key} is {status}"), async || {
            document = self.document(key).await.unwrap_or_default();
            document["status"] == status
        });
        if let Err(error) = reached.await {
            panic!("{error}; it is {document:#}\n{}", self.log());
        }
        document
    }

    pub async fn accepted(&self) -> Vec<Accepted> {
        let text =
            self.http.get(format!("{}/_/accepted", self.provider.url)).send().await.unwrap().text().await.unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub async fn summary(&self) -> Summary {
        self.http.get(format!("{}/_/summary", self.provider.url)).send().await.unwrap().json().await.unwrap()
    }

    /// The steps accepted for this address, in order.
    pub async fn steps_of(&self, address: &str) -> Vec<String> {
        let accepted = self.accepted().await;
        accepted.iter().filter(|email| &*email.to == address).map(|email| email.step.to_string()).collect()
    }

    pub async fn until_accepted(&self, count: usize) {
        let reached = until(format!("{count} emails are accepted"), async || self.summary().await.accepted >= count);
        if let Err(error) = reached.await {
            let refusals = self.http.get(format!("{}/_/refusals", self.provider.url)).send().await.unwrap();
            panic!("{error}; {:?}; {}\n{}", self.summary().await, refusals.text().await.unwrap(), self.log());
        }
    }

    pub async fn fault(&self, fault: &Fault) {
        let url = format!("{}/_/faults", self.provider.url);
        let response = self.http.post(url).json(fault).send().await.unwrap();
        assert!(response.status().is_success(), "{}", response.text().await.unwrap());
    }

    /// The messages in `REJECTED` under this code: headers and bytes.
    pub async fn rejected(&self, code: &str) -> Vec<(String, Vec<u8>)> {
        use async_nats::jetstream;

        let client = async_nats::connect(self.server.url()).await.unwrap();
        let Ok(stream) = jetstream::new(client).get_stream("REJECTED").await else { return Vec::new() };
        let last = stream.cached_info().state.last_sequence;
        let mut found = Vec::new();
        for sequence in 1..=last {
            let Ok(message) = stream.get_raw_message(sequence).await else { continue };
            if message.subject.as_str() == format!("rejected.{code}") {
                let reason = message.headers.get("Dripline-Reason").map_or("", |reason| reason.as_str()).to_owned();
                found.push((reason, message.payload.to_vec()));
            }
        }
        found
    }

    /// The journal as it stands: for each message its subject on a line, then its lines.
    pub async fn journal(&self) -> String {
        let context = async_nats::jetstream::new(async_nats::connect(self.server.url()).await.unwrap());
        let journal = context.get_stream("JOURNAL").await.unwrap();
        let mut text = String::new();
        for sequence in 1..=journal.cached_info().state.last_sequence {
            let message = journal.get_raw_message(sequence).await.unwrap();
            text.push_str(&message.subject);
            text.push('\n');
            text.push_str(std::str::from_utf8(&message.payload).unwrap());
        }
        text
    }

    /// Leads in the queue that no engine has settled. What is settled stays in the stream for a moment.
    pub async fn waiting_leads(&self) -> u64 {
        self.waiting("LEADS", "intake").await
    }

    /// Messages of a consumer that no engine has settled.
    pub async fn waiting(&self, stream: &str, consumer: &str) -> u64 {
        let client = async_nats::connect(self.server.url()).await.unwrap();
        let context = async_nats::jetstream::new(client);
        let consumer: async_nats::jetstream::consumer::PullConsumer =
            context.get_consumer_from_stream(consumer, stream).await.unwrap();
        let info = consumer.cached_info();
        info.num_pending + u64::try_from(info.num_ack_pending).unwrap()
    }

    /// What goes into `FEEDBACK` from now on.
    pub async fn feedback(&self) -> async_nats::Subscriber {
        let client = async_nats::connect(self.server.url()).await.unwrap();
        let feedback = client.subscribe("feedback.>").await.unwrap();
        client.flush().await.unwrap();
        feedback
    }

    /// The timers that are still to fire, or have fired and wait.
    pub async fn timers(&self) -> Vec<Timer> {
        let client = async_nats::connect(self.server.url()).await.unwrap();
        let stream = async_nats::jetstream::new(client).get_stream("TIMERS").await.unwrap();
        let state = stream.cached_info().state.clone();
        let mut timers = Vec::new();
        for sequence in state.first_sequence..=state.last_sequence {
            // Some are gone.
            let Ok(group) = stream.direct_get(sequence).await else { continue };
            let read = Timer::split(&group.payload).into_iter().map(|timer| Timer::read(&timer).unwrap());
            timers.extend(read);
        }
        timers
    }

    /// The leads that have a timer.
    pub async fn with_timer(&self) -> BTreeSet<String> {
        self.timers().await.into_iter().map(|timer| timer.key.to_string()).collect()
    }

    /// Messages in a stream.
    pub async fn depth(&self, stream: &str) -> u64 {
        let client = async_nats::connect(self.server.url()).await.unwrap();
        let stream = async_nats::jetstream::new(client).get_stream(stream).await.unwrap();
        stream.cached_info().state.messages
    }
}

/// A tool that `make test` gets.
pub fn tool(name: &str) -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin").join(name);
    if ours.is_file() { ours } else { PathBuf::from(name) }
}
