//! What is measured: as Prometheus reads it, and as the dashboard and the alerts of `ops/` ask for it.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use dripline_actors::metrics::ENGINE;
use dripline_test_support::{free_port, until};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::system::{System, tool};

fn ours(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn read(file: &str) -> String {
    std::fs::read_to_string(ours(file)).unwrap()
}

/// The queries of the dashboard, with the variable that Grafana fills in.
fn dashboard_queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("ops/grafana/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "30s")).collect()
}

/// Every name of ours in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("dripline_")).collect()
}

/// The names of all metrics on a page of them.
fn measured(page: &str) -> BTreeSet<&str> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split(' ').next()).collect()
}

/// The metric that a series of it belongs to.
fn metric<'a>(series: &'a str, known: &BTreeSet<&str>) -> Option<&'a str> {
    let of_histogram = ["_bucket", "_sum", "_count"].iter().filter_map(|end| series.strip_suffix(end));
    std::iter::once(series).chain(of_histogram).find(|name| known.contains(name))
}

/// Two engines, one of them with a gateway, that have sent and refused something; and where each is measured.
async fn two_engines() -> (System, [dripline_test_support::Dripline; 2], [u16; 2]) {
    let mut system = System::new("resend").await;
    let ports = [free_port().unwrap(), free_port().unwrap()];
    system.set("DRIPLINE_ENGINE__SWEEP_EVERY", "1s");
    system.set("DRIPLINE_METRICS__LISTEN", &format!("127.0.0.1:{}", ports[0]));
    let with_gateway = system.start("run").await;
    system.set("DRIPLINE_METRICS__LISTEN", &format!("127.0.0.1:{}", ports[1]));
    let alone = system.start("engine").await;
    until("the engine without a gateway is ready", async || page(&system, ports[1], "/readyz").await.is_some())
        .await
        .unwrap();
    system.publish("leads.new", r#"{"email": "jane@example.com"}"#).await;
    system.publish("leads.new", "no lead").await;
    let posted = system.http.post(system.gateway("/v1/leads")).body(r#"{"email": "joe@example.com"}"#);
    let posted = posted.header("Content-Type", "application/json").send().await.unwrap();
    assert_eq!(posted.status(), 202);
    system.until_all(2, "COMPLETED").await;
    (system, [with_gateway, alone], ports)
}

/// What a process serves for its operator; none where it is not there or does not answer well.
async fn page(system: &System, port: u16, path: &str) -> Option<String> {
    let response = system.http.get(format!("http://127.0.0.1:{port}{path}")).send().await.ok()?;
    response.error_for_status().ok()?.text().await.ok()
}

async fn promtool(arguments: &[&str], input: &str) {
    let mut promtool = Command::new(tool("promtool"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = promtool.wait_with_output().await.unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}: {said}\n{input}");
}

/// A real Prometheus with the configuration of `ops/`, but for where it scrapes and how often.
struct Prometheus {
    url: String,
    _child: Child,
}

impl Prometheus {
    fn start(system: &System, scraped: [u16; 2]) -> Self {
        let dir = system.dir().join("prometheus");
        std::fs::create_dir_all(&dir).unwrap();
        let targets = scraped.map(|port| format!("\"127.0.0.1:{port}\"")).join(", ");
        let config = read("ops/prometheus.yml");
        assert!(config.contains("\"dripline:9464\"") && config.contains("15s"), "{config}");
        let config = config.replace("\"dripline:9464\"", &targets).replace("15s", "1s");
        std::fs::write(dir.join("prometheus.yml"), config).unwrap();
        std::fs::copy(ours("ops/alerts.yml"), dir.join("alerts.yml")).unwrap();
        let address = format!("127.0.0.1:{}", free_port().unwrap());
        let child = Command::new(tool("prometheus"))
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.join("log")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { url: format!("http://{address}"), _child: child }
    }

    /// The series that a query gives now.
    async fn query(&self, system: &System, query: &str) -> Result<Vec<Value>, String> {
        let asked = system.http.post(format!("{}/api/v1/query", self.url)).form(&[("query", query)]);
        let answer = asked.send().await.map_err(|error| error.to_string())?;
        let answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        if answer["status"] != "success" {
            return Err(answer.to_string());
        }
        Ok(answer["data"]["result"].as_array().unwrap().clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_two_engines_and_answers_the_dashboard() {
    let (system, _engines, ports) = two_engines().await;
    let prometheus = Prometheus::start(&system, ports);
    for query in dashboard_queries() {
        let mut answer = Ok(Vec::new());
        let answered = until(&query, async || {
            answer = prometheus.query(&system, &query).await;
            answer.as_ref().is_ok_and(|series| !series.is_empty())
        });
        assert!(answered.await.is_ok(), "{query}: {answer:?}");
    }
    let number = async |query: &str| {
        let series = prometheus.query(&system, query).await.unwrap_or_default();
        series.first().and_then(|series| series["value"][1].as_str()?.parse::<f64>().ok())
    };
    for (query, wanted) in [
        (r#"sum(up{job="dripline"})"#, 2.0),
        ("min(dripline_engines)", 2.0),
        (r#"sum(dripline_sends_total{provider="resend",outcome="accepted"})"#, 6.0),
        (r#"sum(dripline_lead_events_total{event="completed"})"#, 2.0),
        ("sum(dripline_scheduler_lag_seconds_count)", 6.0),
        (r#"min(dripline_leads{status="COMPLETED"})"#, 2.0),
        (r#"max(dripline_stream_messages{stream="REJECTED"})"#, 1.0),
        (r#"sum(dripline_http_requests_total{route="/v1/leads",status="202"})"#, 1.0),
    ] {
        let reached = until(query, async || number(query).await == Some(wanted));
        assert!(reached.await.is_ok(), "{query} is {:?}, not {wanted}", number(query).await);
    }

    // Of all alerts, only the one for the lead that was none.
    let mut rules = Vec::new();
    let quiet = until("only what could not be processed is alarming", async || {
        let answer = system.http.get(format!("{}/api/v1/rules", prometheus.url)).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        rules = answer["data"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        let state = |rule: &Value| if rule["name"] == "DriplineRejected" { "firing" } else { "inactive" };
        !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok" && rule["state"] == state(rule))
    });
    assert!(quiet.await.is_ok(), "{rules:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_measured_passes_promtool_and_has_what_the_dashboard_and_the_alerts_name() {
    let (system, _engines, [with_gateway, alone]) = two_engines().await;
    let mut both = String::new();
    let complete = until("everything is measured", async || {
        both.clear();
        for port in [with_gateway, alone] {
            let page = page(&system, port, "/metrics").await.unwrap();
            both.push_str(&page);
        }
        let measured = measured(&both);
        ENGINE.iter().all(|metric| measured.contains(metric.name)) && both.contains("dripline_server_read")
    });
    assert!(complete.await.is_ok(), "{both}");
    promtool(&["check", "metrics"], &page(&system, with_gateway, "/metrics").await.unwrap()).await;
    promtool(&["check", "metrics"], &page(&system, alone, "/metrics").await.unwrap()).await;
    promtool(&["check", "config", ours("ops/prometheus.yml").to_str().unwrap()], "").await;
    promtool(&["check", "rules", ours("ops/alerts.yml").to_str().unwrap()], "").await;

    let known = measured(&both);
    let (alerts, queries) = (read("ops/alerts.yml"), dashboard_queries().join("\n"));
    assert!(names(&alerts).len() > 10 && names(&queries).len() > 20);
    for series in names(&alerts).into_iter().chain(names(&queries)) {
        assert!(metric(series, &known).is_some(), "`{series}` is not measured");
    }
    let table = read("docs/metrics.md");
    for name in &known {
        assert!(table.contains(&format!("`{name}`")), "docs/metrics.md says nothing of {name}");
    }
    for series in names(&table) {
        assert!(metric(series, &known).is_some(), "docs/metrics.md names `{series}`, which is not measured");
    }
    let no_figures = system.http.get(system.gateway("/metrics")).send().await.unwrap();
    assert_eq!(no_figures.status(), 404, "the gateway is for the internet");
}

#[test]
fn each_alert_is_explained_where_it_says() {
    let operations = read("docs/operations.md");
    let alerts = read("ops/alerts.yml");
    let value = |line: &str, key: &str| Some(line.trim().strip_prefix(key)?.trim().to_owned());
    let alert_names: Vec<_> = alerts.lines().filter_map(|line| value(line, "- alert:")).collect();
    let anchors: Vec<_> = alerts.lines().filter_map(|line| value(line, "runbook: docs/operations.md#")).collect();
    assert_eq!(anchors, alert_names.iter().map(|name| name.to_lowercase()).collect::<Vec<_>>());
    for name in alert_names {
        assert!(operations.contains(&format!("\n### {name}\n")), "docs/operations.md does not explain {name}");
    }
}
