use crate::AddressError;

/// Why a lead was not taken. A `field` is named as the source named it, such as `utm.source` or `tags[2]`, fit for a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArrivalError {
    /// Not JSON at all.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// Said to be `MessagePack`, and is not, or ends early.
    #[error("not MessagePack: {0}")]
    NotMessagePack(String),
    /// JSON, but a list, a text, a number.
    #[error("not a JSON object, such as {{\"email\": \"jane@example.com\"}}")]
    NotAnObject,
    /// No `email`, or an empty one.
    #[error("no email")]
    MissingEmail,
    /// An `email` that cannot be mailed.
    #[error("email: {0}")]
    InvalidEmail(#[from] AddressError),
    /// A `sequence` that cannot be the name of one.
    #[error("sequence: a name has 1 to 64 of the characters a-z, 0-9, _ and -")]
    InvalidSequence,
    /// A number where a text belongs, and the like.
    #[error("{field}: not {expected}")]
    WrongType {
        /// Which.
        field: String,
        /// What it should be: `a text`.
        expected: &'static str,
    },
    /// A character that starts a new header line, or that no text has. Refused rather than dropped: such a lead was
    /// not written by a person.
    #[error("{field}: holds control characters")]
    ControlCharacters {
        /// Which.
        field: String,
    },
    /// A key or a text that is too long.
    #[error("{field}: longer than {limit} characters")]
    TooLong {
        /// Which.
        field: String,
        /// The most characters.
        limit: usize,
    },
    /// Too many fields.
    #[error("more than {limit} fields")]
    TooManyFields {
        /// The most fields.
        limit: usize,
    },
    /// An attribute with too much inside one another.
    #[error("{field}: nested deeper than {limit}")]
    TooDeep {
        /// Which.
        field: String,
        /// The most arrays and objects within one another.
        limit: usize,
    },
    /// Attributes that are too large together.
    #[error("the attributes are larger than {limit} bytes")]
    TooLarge {
        /// The most bytes, as JSON.
        limit: usize,
    },
}

impl ArrivalError {
    /// A word for programs, in snake case; it never changes for a kind of fault.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotJson(_) => "not_json",
            Self::NotMessagePack(_) => "not_msgpack",
            Self::NotAnObject => "not_an_object",
            Self::MissingEmail => "missing_email",
            Self::InvalidEmail(_) => "invalid_email",
            Self::InvalidSequence => "invalid_sequence",
            Self::WrongType { .. } => "wrong_type",
            Self::ControlCharacters { .. } => "control_characters",
            Self::TooLong { .. } => "too_long",
            Self::TooManyFields { .. } => "too_many_fields",
            Self::TooDeep { .. } => "too_deep",
            Self::TooLarge { .. } => "too_large",
        }
    }
}
