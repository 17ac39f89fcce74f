//! Batches and look-ups as a whole, against the stand-in: it refuses what the documentation does not describe, and
//! knows what it accepted.
use std::time::Duration;

use dripline_actors::ports::Esp;
use dripline_domain::Email;
use dripline_esp::{Mailgun, Postmark, Resend, mailgun, postmark, resend};
use dripline_stand_in::{Fault, FaultKind, Summary};
use tokio::net::TcpListener;

use crate::{TIMEOUT, ago, emails, found, tell_all, told};

const KEY: &str = "test-key";

struct StandIn {
    url: String,
    http: reqwest::Client,
}

impl StandIn {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { dripline_stand_in::serve(listener, KEY).await });
        // An adapter has chosen the cryptography for the process; this client needs no certificates.
        drop(resend(&url));
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        Self { url, http }
    }

    async fn fault(&self, fault: Fault) {
        let answer = self.http.post(format!("{}/_/faults", self.url)).json(&fault).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }

    async fn summary(&self) -> Summary {
        self.http.get(format!("{}/_/summary", self.url)).send().await.unwrap().json().await.unwrap()
    }

    /// Emails accepted, emails that somebody got twice, requests that were not as documented.
    async fn counts(&self) -> (usize, usize, usize) {
        let summary = self.summary().await;
        (summary.accepted, summary.duplicates, summary.refused)
    }
}

fn postmark(url: &str) -> Postmark {
    let (base_url, message_stream) = (url.to_owned(), "broadcast".to_owned());
    let config = postmark::Config { base_url, server_token: KEY.into(), message_stream };
    Postmark::new(&config, TIMEOUT, 4).unwrap()
}

fn resend(url: &str) -> Resend {
    Resend::new(&resend::Config { base_url: url.to_owned(), api_key: KEY.into() }, TIMEOUT, 4).unwrap()
}

fn mailgun(url: &str) -> Mailgun {
    let (base_url, domain) = (url.to_owned(), "mg.acme.example".to_owned());
    Mailgun::new(&mailgun::Config { base_url, domain, api_key: KEY.into() }, TIMEOUT, 4).unwrap()
}

/// The third of ten is refused, and nobody else.
async fn one_of_ten_is_refused(stand_in: &StandIn, esp: &dyn Esp) {
    let emails = emails(10);
    let fault = Fault { status: Some(422), match_to: Some("jane2@".to_owned()), ..Fault::new(FaultKind::Status) };
    stand_in.fault(fault).await;
    let outcomes = esp.send_batch(&emails).await;
    for (at, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.name(), if at == 2 { "refused" } else { "accepted" }, "{}: {outcome:?}", esp.name());
    }
    assert_eq!(stand_in.counts().await, (9, 0, 0), "{}", esp.name());
}

/// The whole call is refused, and then each email goes alone.
async fn a_refused_batch_goes_one_by_one(stand_in: &StandIn, esp: &dyn Esp, emails: &[Email]) {
    let before = stand_in.summary().await.accepted;
    let fault = Fault { status: Some(422), count: Some(1), ..Fault::new(FaultKind::Status) };
    stand_in.fault(fault).await;
    let outcomes = esp.send_batch(emails).await;
    assert!(outcomes.iter().all(|outcome| outcome.name() == "accepted"), "{outcomes:?}");
    assert_eq!(stand_in.summary().await.accepted, before + emails.len());
}

/// The answer is lost, and nobody knows what of.
async fn a_lost_answer_leaves_all_in_doubt(stand_in: &StandIn, esp: &dyn Esp, emails: &[Email]) {
    stand_in.fault(Fault { count: Some(1), ..Fault::new(FaultKind::DropAfterAccept) }).await;
    let outcomes = esp.send_batch(emails).await;
    assert!(outcomes.iter().all(|outcome| outcome.name() == "unknown"), "{outcomes:?}");
}

/// Emails unlike those of earlier batches.
fn more(emails: Vec<Email>, mark: &str) -> Vec<Email> {
    emails.into_iter().map(|email| Email { send_key: format!("{}-{mark}", email.send_key).into(), ..email }).collect()
}

/// All of the above, one after the other; gives the emails whose answer was lost.
async fn takes_batches(stand_in: &StandIn, esp: &dyn Esp) -> Vec<Email> {
    one_of_ten_is_refused(stand_in, esp).await;
    a_refused_batch_goes_one_by_one(stand_in, esp, &more(emails(5), "b")).await;
    let lost = more(emails(3), "c");
    a_lost_answer_leaves_all_in_doubt(stand_in, esp, &lost).await;
    assert_eq!(stand_in.counts().await, (9 + 5 + 3, 0, 0), "{}", esp.name());
    lost
}

/// These, and no others.
async fn finds_what_it_took(esp: &dyn Esp, emails_taken: &[Email]) {
    for email in emails_taken {
        assert!(found(&esp.look_up(email, ago(Duration::ZERO)).await).starts_with("found "), "{}", esp.name());
    }
    for email in more(emails(2), "never") {
        assert_eq!(found(&esp.look_up(&email, ago(Duration::ZERO)).await), "not found", "{}", esp.name());
    }
}

#[tokio::test]
async fn postmark_takes_batches_and_finds_what_it_took() {
    let stand_in = StandIn::start().await;
    let postmark = postmark(&stand_in.url).batching();
    let lost = takes_batches(&stand_in, &postmark).await;

    finds_what_it_took(&postmark, &lost).await;
    stand_in.fault(Fault { delay_ms: Some(600_000), ..Fault::new(FaultKind::LookUpLag) }).await;
    assert_eq!(found(&postmark.look_up(&lost[0], ago(Duration::ZERO)).await), "not found", "not yet");
    stand_in.fault(Fault { status: Some(503), ..Fault::new(FaultKind::LookUpStatus) }).await;
    assert_eq!(found(&postmark.look_up(&lost[0], ago(Duration::ZERO)).await), "unclear");
    assert_eq!(stand_in.summary().await.accepted, 9 + 5 + 3, "to look is not to send");
}

#[tokio::test]
async fn resend_takes_batches() {
    let stand_in = StandIn::start().await;
    let resend = resend(&stand_in.url).batching();
    let lost = takes_batches(&stand_in, &resend).await;
    assert!(tell_all(&resend.send_batch(&lost).await).iter().all(|told| told.starts_with("accepted ")));
    assert_eq!(stand_in.counts().await, (9 + 5 + 3, 0, 0), "the batch's key has it taken once");
}

#[tokio::test]
async fn mailgun_takes_batches_and_finds_what_it_took() {
    let stand_in = StandIn::start().await;
    let mailgun = mailgun(&stand_in.url).batching();
    let lost = takes_batches(&stand_in, &mailgun).await;
    finds_what_it_took(&mailgun, &lost).await;
}

#[tokio::test]
async fn mailgun_takes_emails_that_cannot_share_a_call_in_several() {
    let stand_in = StandIn::start().await;
    let mailgun = mailgun(&stand_in.url).batching();
    let mut emails = more(emails(12), "mixed");
    emails[1].sequence = "tips".into();
    emails[2].html = None;
    emails[3].to = emails[0].to.clone();
    emails[4].subject = "%recipient_name%, 100 % off".to_owned();
    emails[5].headers.pop();
    emails[6].text = "20%recipient".to_owned();
    emails[7].text = String::new();
    emails[8].reply_to = None;
    let outcomes = mailgun.send_batch(&emails).await;
    assert!(outcomes.iter().all(|outcome| outcome.name() == "accepted"), "{outcomes:?}");
    assert_eq!(stand_in.counts().await, (12, 0, 0));
}

#[tokio::test]
async fn mailgun_finds_what_it_took() {
    let stand_in = StandIn::start().await;
    let mailgun = mailgun(&stand_in.url);
    let emails = emails(2);
    stand_in.fault(Fault { count: Some(1), ..Fault::new(FaultKind::DropAfterAccept) }).await;
    assert_eq!(told(&mailgun.send(&emails[0]).await), "unknown");
    stand_in.fault(Fault::new(FaultKind::None)).await;
    assert_eq!(found(&mailgun.look_up(&emails[0], ago(Duration::ZERO)).await), "found 5f2c91@acme.example");
    assert_eq!(found(&mailgun.look_up(&emails[1], ago(Duration::ZERO)).await), "not found");
    // Another step's email to the same address has events, too.
    let another = Email { send_key: "another".into(), ..emails[0].clone() };
    assert_eq!(found(&mailgun.look_up(&another, ago(Duration::ZERO)).await), "not found");
    assert_eq!(stand_in.counts().await, (1, 0, 0));
}
