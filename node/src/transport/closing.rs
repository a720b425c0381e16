//! Why connections end: the codes that go over the wire, and words for what QUIC and TLS say.

use quinn::{Connection, ConnectionError, VarInt};

/// The code with which a connection is closed; a reason in words goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Close {
    /// The node stops.
    Stopping = 0,
    /// What came was no frame, no message, or not to be said now.
    Garbage = 1,
    /// The handshake failed: certificate, cluster, version, record.
    Refused = 2,
    /// Too much waits for a receiver that does not read.
    NotReading = 3,
    /// A newer connection of the same node took its place.
    Replaced = 4,
    /// The receiver is no member any more, or its address changed.
    NotMember = 5,
    /// The node has as many clients as it takes.
    TooMany = 6,
    /// Something that has to come soon did not come.
    TooSlow = 7,
    /// The client was idle, and another takes its place.
    Idle = 8,
}

impl Close {
    pub(super) fn close(self, connection: &Connection, reason: &str) {
        connection.close(VarInt::from_u32(self as u32), reason.as_bytes());
    }

    /// Whether the other side closed with this code.
    pub(super) fn is(self, error: &ConnectionError) -> bool {
        matches!(error, ConnectionError::ApplicationClosed(close)
            if close.error_code == VarInt::from_u32(self as u32))
    }
}

/// What a client hears that is cut off with [`Close::NotReading`].
pub(super) const NOT_READING: &str = "this client does not read its answers";

/// Why a task of a connection ends it.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection is lost already; it knows why.
    Lost,
    /// It is to be closed.
    Close(Close, String),
}

impl Fault {
    pub(super) fn garbage(reason: impl ToString) -> Self {
        Self::Close(Close::Garbage, reason.to_string())
    }
}

/// TLS alerts that operators meet, and what to do.
const ALERTS: &[(u8, &str)] = &[
    (42, "is not valid here (made for another node, or damaged)"),
    (43, "is not meant for this use"),
    (44, "was revoked"),
    (45, "has expired: have the authority issue a new one (or see whether a clock is wrong)"),
    (46, "was not accepted"),
    (48, "was issued by another authority than this cluster's"),
    // A wrong signature: that other authority has the same name.
    (51, "was issued by another authority than this cluster's"),
    (116, "is missing"),
];
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

/// A lost connection in words.
pub(super) fn explain(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TransportError(error) => match alert(error.code.into()) {
            Some(alert) => tls("its certificate", alert, &error.reason),
            None => format!("QUIC failed: {error}"),
        },
        ConnectionError::ConnectionClosed(close) => match alert(close.error_code.into()) {
            Some(alert) => {
                let reason = String::from_utf8_lossy(&close.reason);
                tls("the other side refuses: our certificate", alert, &reason)
            }
            None => format!("the other side's QUIC closed it: {close}"),
        },
        ConnectionError::ApplicationClosed(close) => {
            format!("the other side closed it: {}", String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::TimedOut => "no answer, for too long".into(),
        ConnectionError::Reset => "the other side has started anew".into(),
        ConnectionError::LocallyClosed => "closed here".into(),
        ConnectionError::VersionMismatch => "the other side speaks another version of QUIC".into(),
        ConnectionError::CidsExhausted => "QUIC ran out of connection ids".into(),
    }
}

/// QUIC carries TLS alerts as error codes from 0x100.
fn alert(code: u64) -> Option<u8> {
    code.checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())
}

fn tls(whose: &str, alert: u8, reason: &str) -> String {
    if alert == ALERT_NO_APPLICATION_PROTOCOL {
        return "it speaks neither Quoit's protocol for peers nor that for clients".into();
    }
    let words = ALERTS.iter().find(|(code, _)| *code == alert).map(|(_, words)| *words);
    match words {
        Some(words) => format!("{whose} {words} (TLS says: {reason})"),
        None => format!("TLS failed with alert {alert}: {reason}"),
    }
}
