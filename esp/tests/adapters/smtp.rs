use std::time::Duration;

use dripline_actors::ports::Esp;
use dripline_domain::Address;
use dripline_esp::smtp::Security;
use dripline_esp::{Smtp, smtp};
use tokio::net::TcpListener;

use crate::smtp_server::{HANG_UP, SILENCE, Script, Server};
use crate::{TIMEOUT, email, reason, told};

fn config(port: u16) -> smtp::Config {
    smtp::Config {
        host: "127.0.0.1".to_owned(),
        port: Some(port),
        security: Security::None,
        username: Some("user".to_owned()),
        password: Some("pass".into()),
    }
}

fn adapter(port: u16) -> Smtp {
    Smtp::new(&config(port), TIMEOUT, 4).unwrap()
}

#[tokio::test]
async fn emails_go_out_over_one_kept_connection() {
    let server = Server::start(&[]).await;
    let smtp = adapter(server.port);
    for _ in 0..3 {
        assert_eq!(told(&smtp.send(&email()).await), "accepted 5f2c91@acme.example");
    }
    assert_eq!(server.connections(), 1);
    assert_eq!(server.messages().len(), 3);
    assert!(server.messages()[0].contains("\r\nX-Dripline-Send-Key: 5f2c91\r\n"));
    let commands = server.commands();
    assert!(commands[1].starts_with("AUTH PLAIN"), "{commands:?}");
    assert_eq!(commands[2..5], ["MAIL FROM:<team@acme.example>", "RCPT TO:<jane@example.com>", "DATA"]);
}

#[tokio::test]
async fn a_kept_connection_that_died_is_replaced_without_a_word() {
    let closing = Server::start(&[(".", "250 queued\r\n421 that was the last one")]).await;
    let smtp = adapter(closing.port);
    for _ in 0..2 {
        assert_eq!(told(&smtp.send(&email()).await), "accepted 5f2c91@acme.example");
    }
    assert_eq!(closing.connections(), 2);
    assert_eq!(closing.messages().len(), 2);
}

#[tokio::test]
async fn one_reply_too_many_never_makes_the_next_email_look_accepted() {
    let server = Server::start(&[(".", "250 queued\r\n250 and once more")]).await;
    let smtp = adapter(server.port);
    assert_eq!(told(&smtp.send(&email()).await), "accepted 5f2c91@acme.example");
    assert_eq!(told(&smtp.send(&email()).await), "transient");
    assert_eq!(server.messages().len(), 1);
}

#[tokio::test]
async fn replies() {
    let table: &[(Script, &str)] = &[
        (&[("CONNECT", "554 5.7.1 no service for you")], "misconfigured"),
        (&[("CONNECT", "421 too many connections")], "transient"),
        (&[("CONNECT", HANG_UP)], "transient"),
        (&[("AUTH", "535 5.7.8 authentication failed")], "misconfigured"),
        (&[("AUTH", "454 4.7.0 temporary authentication failure")], "transient"),
        (&[("EHLO", "250 mail.example")], "misconfigured"),
        (&[("MAIL", "530 5.7.0 authentication required")], "misconfigured"),
        (&[("MAIL", "550 5.7.1 sender address rejected: not owned by user")], "misconfigured"),
        (&[("MAIL", "451 4.7.1 greylisted")], "transient"),
        (&[("RCPT", "550 5.1.1 <Jane@Example.com>: user unknown")], "refused"),
        (&[("RCPT", "554 5.7.1 <jane@example.com>: Relay access denied")], "misconfigured"),
        (&[("RCPT", "450 4.2.1 mailbox busy")], "transient"),
        (&[("RCPT", "452 4.2.2 mailbox full")], "transient"),
        (&[("RCPT", HANG_UP)], "transient"),
        (&[("DATA", HANG_UP)], "transient"),
        (&[("DATA", "250 2.0.0 ok")], "transient"),
        (&[(".", "554 5.7.1 looks like spam")], "refused"),
        (&[(".", "451 4.3.0 try later")], "transient"),
        (&[(".", "421 4.3.2 shutting down")], "transient"),
        (&[(".", HANG_UP)], "unknown"),
        (&[(".", "what?")], "unknown"),
    ];
    for (script, expected) in table {
        let server = Server::start(script).await;
        let outcome = adapter(server.port).send(&email()).await;
        assert_eq!(told(&outcome), *expected, "{script:?}: {outcome:?}");
        assert!(!reason(&outcome).to_lowercase().contains("jane"), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_silent_server_leaves_doubt_only_after_the_message() {
    for (script, expected) in [
        (&[("CONNECT", SILENCE)] as Script, "transient"),
        (&[("RCPT", SILENCE)], "transient"),
        (&[(".", SILENCE)], "unknown"),
    ] {
        let server = Server::start(script).await;
        let smtp = Smtp::new(&config(server.port), Duration::from_millis(300), 4).unwrap();
        let outcome = smtp.send(&email()).await;
        assert_eq!(told(&outcome), expected, "{script:?}: {outcome:?}");
        assert_eq!(told(&smtp.send(&email()).await), expected, "and is not spoken to over the same connection");
        assert_eq!(server.connections(), 2);
    }
}

#[tokio::test]
async fn nobody_there_means_surely_not_mailed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    assert_eq!(told(&adapter(port).send(&email()).await), "transient");
}

#[tokio::test]
async fn a_server_without_starttls_is_never_spoken_to_in_the_clear() {
    let server = Server::start(&[]).await;
    let config = smtp::Config { security: Security::StartTls, ..config(server.port) };
    let outcome = Smtp::new(&config, TIMEOUT, 4).unwrap().send(&email()).await;
    assert_eq!(told(&outcome), "misconfigured", "{outcome:?}");
    assert!(!server.commands().iter().any(|command| command.starts_with("AUTH")), "{:?}", server.commands());
}

#[tokio::test]
async fn an_address_outside_ascii_is_refused_where_the_server_takes_none() {
    let server = Server::start(&[]).await;
    let mut email = email();
    email.to = Address::parse("jürgen@example.com").unwrap();
    let outcome = adapter(server.port).send(&email).await;
    assert_eq!(told(&outcome), "refused", "{outcome:?}");
}

#[test]
fn half_a_login_or_no_host_is_named() {
    let without = |change: fn(&mut smtp::Config)| {
        let mut config = config(25);
        change(&mut config);
        Smtp::new(&config, TIMEOUT, 4).err().unwrap().to_string()
    };
    assert_eq!(without(|config| config.host.clear()), "esp.smtp.host is not set");
    assert_eq!(without(|config| config.username = None), "esp.smtp.username is not set");
    assert_eq!(without(|config| config.password = None), "esp.smtp.password is not set");
}
