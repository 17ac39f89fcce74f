//! Mailpit: a real mail server with an API.
use std::process::Stdio;

use dripline_test_support::{free_port, until};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::system::{System, tool};

/// Ends with the value.
pub struct Mailpit {
    pub url: String,
    pub smtp: u16,
    http: reqwest::Client,
    _child: Child,
    /// Its database: one of its own choosing would stay when it is killed.
    _dir: TempDir,
}

impl Mailpit {
    pub async fn start(http: &reqwest::Client) -> Self {
        let (smtp, api) = (free_port().unwrap(), free_port().unwrap());
        let dir = TempDir::new().unwrap();
        let child = Command::new(tool("mailpit"))
            .arg("--database")
            .arg(dir.path().join("mailpit.db"))
            .args(["--smtp", &format!("127.0.0.1:{smtp}"), "--listen", &format!("127.0.0.1:{api}")])
            .arg("--disable-version-check")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("mailpit: `make test` gets it");
        let mailpit =
            Self { url: format!("http://127.0.0.1:{api}"), smtp, http: http.clone(), _child: child, _dir: dir };
        let info = format!("{}/api/v1/info", mailpit.url);
        until("mailpit is ready", async || http.get(&info).send().await.is_ok()).await.unwrap();
        mailpit
    }

    /// Every dripline started from now on sends through it.
    pub fn is_the_provider_of(&self, system: &mut System) {
        system.set("DRIPLINE_ESP__PROVIDER", "smtp");
        self.is_server_of(system, "ESP");
    }

    /// As the mail server of this part.
    pub fn is_server_of(&self, system: &mut System, part: &str) {
        system.set(&format!("DRIPLINE_{part}__SMTP__HOST"), "127.0.0.1");
        system.set(&format!("DRIPLINE_{part}__SMTP__PORT"), &self.smtp.to_string());
        system.set(&format!("DRIPLINE_{part}__SMTP__SECURITY"), "none");
    }

    pub async fn get(&self, path: &str) -> Value {
        let url = format!("{}/api/v1/{path}", self.url);
        self.http.get(url).send().await.unwrap().json().await.unwrap()
    }

    /// The subjects of the emails to this address, the oldest first.
    pub async fn subjects_to(&self, address: &str) -> Vec<String> {
        let found = self.get(&format!("search?query=to:{address}")).await;
        let mut subjects: Vec<_> =
            found["messages"].as_array().unwrap().iter().map(|it| it["Subject"].as_str().unwrap().to_owned()).collect();
        subjects.reverse();
        subjects
    }
}
