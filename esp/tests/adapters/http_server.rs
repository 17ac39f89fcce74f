//! A provider in twenty lines: it answers every request alike, or as it is told, and tells what was asked.
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What it does with each request, once it has read it.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Answers.
    Answer(String),
    /// Answers so much and hangs up.
    CutOff(String),
    /// Says nothing.
    Silence,
}

/// `status` is `202 Accepted`; headers are `Name: value`.
pub fn answer(status: &str, headers: &[&str], body: &str) -> Reply {
    let (line, length) = (format!("HTTP/1.1 {status}"), format!("Content-Length: {}", body.len()));
    let head = [&[line.as_str()], headers, &[length.as_str()]].concat().join("\r\n");
    Reply::Answer(format!("{head}\r\n\r\n{body}"))
}

/// A request as it came.
#[derive(Debug)]
pub struct Request {
    /// `POST /email HTTP/1.1`
    pub line: String,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
    /// The body.
    pub body: String,
}

impl Request {
    pub fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json");
        serde_json::from_str(&self.body).unwrap()
    }

    /// Method and path, and the fields of the query in order.
    pub fn query(&self) -> (&str, Vec<(String, String)>) {
        let (path, query) = self.line.trim_end_matches(" HTTP/1.1").split_once('?').unwrap();
        let url = reqwest::Url::parse(&format!("http://query/?{query}")).unwrap();
        (path, url.query_pairs().into_owned().collect())
    }

    /// The fields of a form, in order.
    pub fn form(&self) -> Vec<(String, String)> {
        assert_eq!(self.headers["content-type"], "application/x-www-form-urlencoded");
        let url = reqwest::Url::parse(&format!("http://form/?{}", self.body)).unwrap();
        url.query_pairs().into_owned().collect()
    }
}

pub struct Server {
    pub url: String,
    requests: mpsc::UnboundedReceiver<Request>,
}

impl Server {
    pub async fn start(reply: Reply) -> Self {
        Self::with(|_| vec![reply]).await
    }

    /// Replies in this order, and with the last one ever after. `replies` gets the server's URL.
    pub async fn with(replies: impl FnOnce(&str) -> Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, requests) = mpsc::unbounded_channel();
        let replies = Replies(Arc::new(Mutex::new(replies(&url).into())));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, replies.clone(), asked.clone()));
            }
        });
        Self { url, requests }
    }

    /// The next request.
    pub async fn request(&mut self) -> Request {
        self.requests.recv().await.unwrap()
    }

    /// Whether every request was looked at.
    pub fn is_done(&mut self) -> bool {
        self.requests.try_recv().is_err()
    }
}

#[derive(Clone)]
struct Replies(Arc<Mutex<VecDeque<Reply>>>);

impl Replies {
    fn next(&self) -> Reply {
        let mut replies = self.0.lock().unwrap();
        if replies.len() > 1 { replies.pop_front().unwrap() } else { replies[0].clone() }
    }
}

async fn serve(mut stream: TcpStream, replies: Replies, asked: mpsc::UnboundedSender<Request>) {
    while let Some(request) = read(&mut stream).await {
        let _ = asked.send(request);
        match replies.next() {
            Reply::Answer(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
            Reply::CutOff(part) => return stream.write_all(part.as_bytes()).await.unwrap(),
            Reply::Silence => std::future::pending().await,
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let (line, headers) = text.split_once("\r\n").unwrap();
    let headers = headers.lines().filter_map(|header| header.split_once(": "));
    let headers: HashMap<_, _> = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let length: usize = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    while bytes.len() < head + length {
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0);
    }
    let body = String::from_utf8(bytes[head..].to_vec()).unwrap();
    Some(Request { line: line.to_owned(), headers, body })
}
