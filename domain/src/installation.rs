use crate::Timestamp;

/// What can be seen of the whole installation from anywhere in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installation {
    /// Engine processes that are alive, or were within the last ten seconds.
    pub engines: u64,
    /// The queue of raw leads.
    pub leads: QueueState,
    /// The queue of what providers tell.
    pub feedback: QueueState,
    /// The queue of what is due.
    pub timers: QueueState,
    /// Messages that were ever put into `REJECTED`.
    pub rejected: u64,
    /// Attempts whose answer was ever lost.
    pub in_doubt: u64,
}

/// A queue, and what waits in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Its stream.
    pub stream: String,
    /// Messages that are not settled.
    pub waiting: u64,
    /// When the stream took the oldest of them.
    pub oldest: Option<Timestamp>,
    /// When the stream last took a message.
    pub newest: Option<Timestamp>,
    /// Whether an operator has paused its consumer.
    pub paused: bool,
    /// Whether it takes no more.
    pub full: bool,
}

impl QueueState {
    /// What waits, in words.
    pub fn waits(&self) -> String {
        let Self { stream, waiting, oldest, paused, .. } = self;
        let since = oldest.map_or_else(String::new, |oldest| format!(", the oldest since {oldest}"));
        let paused = if *paused { "; its consumer is paused (`nats consumer resume`)" } else { "" };
        format!("waiting in {stream}: {waiting}{since}{paused}")
    }
}
