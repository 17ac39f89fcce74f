//! A mail server in a page: it takes everything, except where its script says otherwise.
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};

/// Hang up instead of replying.
pub const HANG_UP: &str = "hang up";
/// Never reply.
pub const SILENCE: &str = "silence";

/// (command, reply): `CONNECT`, `EHLO`, `AUTH`, `MAIL`, `RCPT`, `DATA`, or `.` for the message's end.
pub type Script = &'static [(&'static str, &'static str)];

#[derive(Default)]
struct Seen {
    connections: usize,
    messages: Vec<String>,
    commands: Vec<String>,
}

pub struct Server {
    pub port: u16,
    seen: Arc<Mutex<Seen>>,
}

impl Server {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let log = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                log.lock().unwrap().connections += 1;
                tokio::spawn(serve(stream, script, log.clone()));
            }
        });
        Self { port, seen }
    }

    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    pub fn messages(&self) -> Vec<String> {
        self.seen.lock().unwrap().messages.clone()
    }

    pub fn commands(&self) -> Vec<String> {
        self.seen.lock().unwrap().commands.clone()
    }
}

async fn serve(stream: TcpStream, script: Script, seen: Arc<Mutex<Seen>>) -> Option<()> {
    let mut stream = BufStream::new(stream);
    reply(&mut stream, script, "CONNECT", "220 mail.example ESMTP").await?;
    loop {
        let line = line(&mut stream).await?;
        seen.lock().unwrap().commands.push(line.trim_end().to_owned());
        let command = line.get(..4)?.to_uppercase();
        match command.as_str() {
            "EHLO" => reply(&mut stream, script, "EHLO", "250-mail.example\r\n250 AUTH PLAIN LOGIN").await?,
            "AUTH" => reply(&mut stream, script, "AUTH", "235 2.7.0 welcome").await?,
            "DATA" => {
                reply(&mut stream, script, "DATA", "354 go on").await?;
                let mut message = String::new();
                while !message.ends_with("\r\n.\r\n") {
                    message.push_str(&self::line(&mut stream).await?);
                }
                seen.lock().unwrap().messages.push(message);
                reply(&mut stream, script, ".", "250 2.0.0 queued as 4711").await?;
            }
            command => reply(&mut stream, script, command, "250 2.0.0 ok").await?,
        }
    }
}

async fn line(stream: &mut BufStream<TcpStream>) -> Option<String> {
    let mut line = String::new();
    (stream.read_line(&mut line).await.ok()? > 0).then_some(line)
}

async fn reply(stream: &mut BufStream<TcpStream>, script: Script, at: &str, usual: &str) -> Option<()> {
    let reply = script.iter().find(|(command, _)| *command == at).map_or(usual, |(_, reply)| reply);
    match reply {
        HANG_UP => return None,
        SILENCE => std::future::pending().await,
        reply => stream.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?,
    }
    stream.flush().await.ok()
}
