//! Answers that say why something was not done: problem documents (RFC 9457), each with a type that
//! programs can tell, and for writes with what the failure means for the data.

use hyper::StatusCode;
use hyper::header::{CONNECTION, HeaderName, HeaderValue, RETRY_AFTER};
use serde::Serialize;

use super::response::{self, Response};

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
/// When whoever was turned away for want of room may come back, in seconds.
const COME_BACK_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// What kind of problem it is: a status, and a name that never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The request breaks a rule.
    Invalid,
    /// It shows no token and no certificate that is known.
    Unauthorized,
    /// Who asks is known, and may not do it.
    Forbidden,
    /// It came unencrypted.
    HttpsRequired,
    /// It means another host.
    ForeignHost,
    /// There is nothing under that path.
    NoSuchPath,
    /// The cluster has no such table.
    UnknownTable,
    /// The key has no value.
    Absent,
    /// The path knows no such method.
    MethodNotAllowed,
    /// None of the forms that are accepted can be had.
    NotAcceptable,
    /// The request's body came too slowly.
    TooSlow,
    /// A table of that name is there with other options.
    TableDiffers,
    /// The key has as many siblings as it may have.
    TooManySiblings,
    /// What is there is not what was meant.
    PreconditionFailed,
    /// The body is over a limit.
    TooLarge,
    /// The key is over its limit.
    KeyTooLong,
    /// The body is of a type or an encoding that is not taken.
    UnsupportedMediaType,
    /// The table or the cluster cannot give what is asked for, or no one can.
    CannotBeHad,
    /// Such a request needs a context.
    ContextRequired,
    /// Too much is under way already.
    Overloaded,
    /// Too few replicas, or no node, can be had now.
    Unavailable,
    /// It was not done in time, and certainly not later.
    TimedOut,
    /// It may be done, now or later.
    UnknownOutcome,
    /// What the replicas hold cannot be read.
    Damaged,
    /// A fault of the program.
    Internal,
}

impl Kind {
    /// The status, the type's last part, and the title.
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::Invalid => (S::BAD_REQUEST, "invalid", "The request is wrong"),
            Self::Unauthorized => (S::UNAUTHORIZED, "unauthorized", "Who asks is not known"),
            Self::Forbidden => (S::FORBIDDEN, "forbidden", "That role may not do it"),
            Self::HttpsRequired => (S::FORBIDDEN, "https-required", "Only by HTTPS"),
            Self::ForeignHost => (S::MISDIRECTED_REQUEST, "foreign-host", "Another host is meant"),
            Self::NoSuchPath => (S::NOT_FOUND, "no-such-path", "There is nothing here"),
            Self::UnknownTable => (S::NOT_FOUND, "unknown-table", "No such table"),
            Self::Absent => (S::NOT_FOUND, "absent", "The key has no value"),
            Self::MethodNotAllowed => {
                (S::METHOD_NOT_ALLOWED, "method-not-allowed", "No such method here")
            }
            Self::NotAcceptable => (S::NOT_ACCEPTABLE, "not-acceptable", "No acceptable form"),
            Self::TooSlow => (S::REQUEST_TIMEOUT, "too-slow", "The body did not come"),
            Self::TableDiffers => (S::CONFLICT, "table-differs", "The table is there, but differs"),
            Self::TooManySiblings => (S::CONFLICT, "too-many-siblings", "Too many siblings"),
            Self::PreconditionFailed => {
                (S::PRECONDITION_FAILED, "precondition-failed", "Something else is there")
            }
            Self::TooLarge => (S::PAYLOAD_TOO_LARGE, "too-large", "Too large"),
            Self::KeyTooLong => (S::URI_TOO_LONG, "key-too-long", "The key is too long"),
            Self::UnsupportedMediaType => {
                (S::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Not such a body")
            }
            Self::CannotBeHad => {
                (S::UNPROCESSABLE_ENTITY, "cannot-be-had", "It cannot be had here")
            }
            Self::ContextRequired => {
                (S::PRECONDITION_REQUIRED, "context-required", "A context is needed")
            }
            Self::Overloaded => (S::SERVICE_UNAVAILABLE, "overloaded", "Too much is under way"),
            Self::Unavailable => (S::SERVICE_UNAVAILABLE, "unavailable", "Too few are there"),
            Self::TimedOut => (S::GATEWAY_TIMEOUT, "timed-out", "Not answered in time"),
            Self::UnknownOutcome => {
                (S::GATEWAY_TIMEOUT, "unknown-outcome", "It may be done, now or later")
            }
            Self::Damaged => (S::BAD_GATEWAY, "damaged", "What is stored cannot be read"),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, "internal", "A fault of this program"),
        }
    }
}

/// What a failed write means for the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// It is certainly not done, and will not be.
    NotDone,
    /// It may be done, now or later.
    Unknown,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Problem {
    pub(super) kind: Kind,
    detail: String,
    outcome: Option<Outcome>,
    answered: Option<u8>,
    required: Option<u8>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The document.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answered: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    required: Option<u8>,
}

impl Problem {
    /// A problem, and for people what happened and what to do.
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            outcome: None,
            answered: None,
            required: None,
            headers: Vec::new(),
        }
    }

    /// The request breaks a rule.
    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, detail)
    }

    /// What it means for the data.
    pub(super) fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// Whether it is not known what became of it.
    pub(super) fn is_unknown(&self) -> bool {
        self.outcome == Some(Outcome::Unknown)
    }

    /// What happened, for people.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// How many replicas answered, and how many were needed.
    pub(super) fn with_replicas(mut self, answered: Option<u8>, required: Option<u8>) -> Self {
        (self.answered, self.required) = (answered, required);
        self
    }

    /// A header that the answer bears.
    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// What is left of the connection is not worth reading.
    pub(super) fn closing(self) -> Self {
        self.with_header(CONNECTION, HeaderValue::from_static("close"))
    }

    pub(super) fn status(&self) -> StatusCode {
        self.kind.parts().0
    }

    /// As it stands in a line of a longer answer.
    pub(super) fn document(&self) -> Document {
        let (status, name, title) = self.kind.parts();
        Document {
            kind: format!("urn:quoit:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: self.detail.clone(),
            outcome: self.outcome,
            answered: self.answered,
            required: self.required,
        }
    }

    /// As an answer of its own.
    pub(super) fn into_response(self) -> Response {
        let body = response::json_text(&self.document());
        let mut response = response::with_body(self.status(), PROBLEM_JSON, body);
        let headers = response.headers_mut();
        if matches!(self.kind, Kind::Overloaded | Kind::Unavailable) {
            headers.insert(RETRY_AFTER, COME_BACK_SECONDS);
        }
        headers.extend(self.headers);
        response
    }
}
