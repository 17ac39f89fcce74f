//! The short form of `make torture`: some twenty seconds of kills, pauses and faults, always the same ones.
use std::time::Duration;

use dripline_torture::{Rules, Size, StandIn, Torture};
use tokio::net::TcpListener;

use crate::system::binary;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_promised_holds_whatever_is_killed_or_paused_meanwhile() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { dripline_stand_in::serve(listener, "test-key").await });
    let torture = Torture {
        seed: 69,
        size: Size { duration: Duration::from_secs(20), engines: 2, servers: 1, people_per_second: 10.0 },
        // The other tests share the machine.
        rules: Rules { grace_ms: 3_000, ..Rules::default() },
        binary: binary(),
        settings: &[],
        keep: false,
    };
    let outcome = torture.run(StandIn::at(&url).unwrap(), &|line| println!("{line}")).await.unwrap();
    serving.abort();
    assert!(outcome.violations.is_empty(), "{}logs: {:?}", outcome.report, outcome.folder);
    // It was no walk in the park.
    let summary = outcome.summary;
    assert!(summary.leads > 100 && summary.emails > 100, "{summary:?}");
    assert!(
        ["kill engine", "pause engine", "kill nats-server"].iter().all(|kind| summary.deeds.contains_key(*kind)),
        "{summary:?}"
    );
    // And operators and people had their say.
    assert!(["lead.pause", "lead.resume"].iter().all(|verb| summary.orders.contains_key(verb)), "{summary:?}");
    assert!(summary.suppressions.len() > 1, "{summary:?}");
}
