//! How commands fail, and with which exit code. An error is one line: what happened, what it means
//! for the data, and, where it is not obvious, what to do.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use quoit_client::{
    ConnectError, FailureCode, ReadError, TableChangeError, TableError, WriteError, with_sources,
};

/// A command that did not end well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Exit code 1: the key is absent. Nothing changed.
    #[error("{0}")]
    NotFound(String),
    /// Exit code 2: the input is wrong and will be refused always. What was asked is not done.
    #[error("{0}")]
    BadInput(String),
    /// Exit code 3: what was asked is certainly not done; it may succeed later.
    #[error("{0}")]
    NotDone(String),
    /// Exit code 4: it is not known whether what was asked is done.
    #[error("{0}")]
    Unknown(String),
    /// Exit code 5: this client's role does not allow it. What was asked is not done.
    #[error("{0}")]
    Forbidden(String),
    /// Exit code 0: whoever read the output wants no more of it (`quoit export | head`).
    #[error("standard output was closed")]
    OutputClosed,
}

impl CommandError {
    /// The program's exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::OutputClosed => 0,
            Self::NotFound(_) => 1,
            Self::BadInput(_) => 2,
            Self::NotDone(_) => 3,
            Self::Unknown(_) => 4,
            Self::Forbidden(_) => 5,
        })
    }

    /// The same, with words before it.
    pub fn prefixed(self, prefix: &str) -> Self {
        self.map(|text| format!("{prefix}: {text}"))
    }

    /// The same, with words behind it.
    pub fn advised(self, advice: &str) -> Self {
        self.map(|text| format!("{text}; {advice}"))
    }

    fn map(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::NotFound(text) => Self::NotFound(change(text)),
            Self::BadInput(text) => Self::BadInput(change(text)),
            Self::NotDone(text) => Self::NotDone(change(text)),
            Self::Unknown(text) => Self::Unknown(change(text)),
            Self::Forbidden(text) => Self::Forbidden(change(text)),
            Self::OutputClosed => Self::OutputClosed,
        }
    }

    /// Standard output does not take what is written.
    pub(crate) fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::OutputClosed;
        }
        Self::NotDone(format!("the output cannot be written: {error}"))
    }
}

/// An error and its sources on one line.
pub(crate) fn one_line(error: &dyn Error) -> String {
    with_sources(error).split_whitespace().collect::<Vec<_>>().join(" ")
}

impl From<ConnectError> for CommandError {
    fn from(error: ConnectError) -> Self {
        let text = one_line(&error);
        match error {
            ConnectError::File { .. } => Self::BadInput(format!(
                "{text}; name the directory of client.toml with --client or QUOIT_CLIENT (a \
                 cluster that `quoit up` started has it in its own directory)"
            )),
            ConnectError::Unreachable(_) => {
                Self::NotDone(format!("{text}; nothing was done; check that the nodes are running"))
            }
            ConnectError::Forbidden { .. } => Self::Forbidden(text),
            ConnectError::Socket(_) | ConnectError::Randomness(_) => Self::NotDone(text),
            _ => Self::BadInput(text),
        }
    }
}

impl From<ReadError> for CommandError {
    fn from(error: ReadError) -> Self {
        let text = one_line(&error);
        match error {
            ReadError::Forbidden { .. } => Self::Forbidden(text),
            ReadError::TooLarge { .. } | ReadError::Level(_) | ReadError::UnknownTable { .. } => {
                Self::BadInput(text)
            }
            ReadError::Refused { code, .. } if is_permanent(code) => Self::BadInput(text),
            _ => Self::NotDone(text),
        }
    }
}

impl From<WriteError> for CommandError {
    fn from(error: WriteError) -> Self {
        let text = one_line(&error);
        match error {
            WriteError::Forbidden { .. } | WriteError::Read(ReadError::Forbidden { .. }) => {
                Self::Forbidden(text)
            }
            WriteError::TooLarge { .. }
            | WriteError::Level(_)
            | WriteError::UnknownTable { .. }
            | WriteError::TooManySiblings { .. } => Self::BadInput(text),
            WriteError::Refused { code, .. } if is_permanent(code) => Self::BadInput(text),
            WriteError::Unknown { .. } | WriteError::Closed => Self::Unknown(text),
            _ => Self::NotDone(text),
        }
    }
}

impl From<TableError> for CommandError {
    fn from(error: TableError) -> Self {
        let text = one_line(&error);
        match error {
            TableError::Record(ReadError::Forbidden { .. }) => Self::Forbidden(text),
            TableError::Unknown { name, .. } => {
                Self::BadInput(format!("{text}; make it with `quoit tables create {name}`"))
            }
            _ => Self::NotDone(text),
        }
    }
}

impl From<TableChangeError> for CommandError {
    fn from(error: TableChangeError) -> Self {
        let text = one_line(&error);
        match error {
            TableChangeError::Forbidden { .. } => Self::Forbidden(text),
            TableChangeError::Options(_) | TableChangeError::UnknownTable { .. } => {
                Self::BadInput(text)
            }
            TableChangeError::Refused { code, .. } if is_permanent(code) => Self::BadInput(text),
            TableChangeError::Unknown { .. } | TableChangeError::Closed => Self::Unknown(text),
            _ => Self::NotDone(text),
        }
    }
}

/// Whether a refusal will be repeated everywhere and always.
pub(crate) fn is_permanent(code: FailureCode) -> bool {
    match code {
        FailureCode::UnknownTable
        | FailureCode::Invalid
        | FailureCode::TooManySiblings
        | FailureCode::Protocol
        | FailureCode::Forbidden => true,
        FailureCode::WrongConfiguration
        | FailureCode::Overloaded
        | FailureCode::NotServing
        | FailureCode::Unavailable
        | FailureCode::TimeAhead
        | FailureCode::Conflict => false,
    }
}

/// The kind of a failed read, for counts.
pub(crate) fn read_kind(error: &ReadError) -> &'static str {
    match error {
        ReadError::Overloaded { .. } => "overloaded",
        ReadError::TooLarge { .. } => "too large",
        ReadError::Level(_) => "level",
        ReadError::UnknownTable { .. } => "unknown table",
        ReadError::Timeout { .. } => "timeout",
        ReadError::Unreachable { .. } => "unreachable",
        ReadError::Unavailable { .. } => "unavailable",
        ReadError::Forbidden { .. } => refusal_kind(FailureCode::Forbidden),
        ReadError::Refused { code, .. } => refusal_kind(*code),
        ReadError::Damaged { .. } => "damaged",
        ReadError::Closed => "closed",
        _ => "other",
    }
}

/// The kind of a failed write, for counts.
pub(crate) fn write_kind(error: &WriteError) -> &'static str {
    match error {
        WriteError::Overloaded { .. } => "overloaded",
        WriteError::TooLarge { .. } => "too large",
        WriteError::Level(_) => "level",
        WriteError::UnknownTable { .. } => "unknown table",
        WriteError::Timeout { .. } => "timeout",
        WriteError::Unreachable { .. } => "unreachable",
        WriteError::Unavailable { .. } => "unavailable",
        WriteError::TooManySiblings { .. } => "too many siblings",
        WriteError::Forbidden { .. } => refusal_kind(FailureCode::Forbidden),
        WriteError::Refused { code, .. } => refusal_kind(*code),
        WriteError::Unknown { .. } => "unknown outcome",
        WriteError::Closed => "closed",
        WriteError::Read(error) => read_kind(error),
        _ => "other",
    }
}

fn refusal_kind(code: FailureCode) -> &'static str {
    match code {
        FailureCode::WrongConfiguration => "wrong configuration",
        FailureCode::Overloaded => "overloaded",
        FailureCode::UnknownTable => "unknown table",
        FailureCode::Invalid => "invalid",
        FailureCode::NotServing => "not serving",
        FailureCode::Unavailable => "unavailable",
        FailureCode::TooManySiblings => "too many siblings",
        FailureCode::Protocol => "protocol",
        FailureCode::Conflict => "conflict",
        FailureCode::TimeAhead => "time ahead",
        FailureCode::Forbidden => "forbidden",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_have_exit_codes_of_their_own() {
        let unknown =
            WriteError::Unknown { acknowledged: 1, required: 2, trail: Default::default() };
        assert!(matches!(CommandError::from(unknown), CommandError::Unknown(_)));
        let absent = TableError::Unknown { name: "t".into(), known: Vec::new() };
        let error = CommandError::from(absent);
        assert!(error.to_string().ends_with("make it with `quoit tables create t`"), "{error}");
        assert_eq!(error.exit_code(), ExitCode::from(2));
        let refused = ReadError::Refused {
            code: FailureCode::NotServing,
            message: "starting".into(),
            trail: Default::default(),
        };
        assert!(matches!(CommandError::from(refused), CommandError::NotDone(_)));
    }

    #[test]
    fn an_error_is_one_line_with_its_sources() {
        let error = WriteError::Read(ReadError::Closed);
        assert_eq!(
            one_line(&error),
            "not written: what is to be replaced could not be read: the client was closed before \
             the read was answered"
        );
    }

    #[test]
    fn a_write_that_was_not_begun_does_not_count_who_acknowledged_it() {
        let trail = Default::default();
        let error = WriteError::Unavailable { acknowledged: 0, required: 3, trail };
        let text = CommandError::from(error).to_string();
        let begins = "not written: the 3 replicas that the write level asks for cannot be had (";
        assert!(text.starts_with(begins), "{text}");
    }
}
