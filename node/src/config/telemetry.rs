//! `[telemetry]`: where the spans of traced requests go.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;

use super::document::Section;

/// What OTLP over HTTP adds to an endpoint for traces.
const TRACES_PATH: &str = "/v1/traces";
/// A longer endpoint is none, in bytes.
const ENDPOINT_BYTES_MAX: usize = 1_024;

/// `[telemetry]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TelemetrySettings {
    /// `otlp_endpoint`: the collector that traced requests are told to; `None` (an empty text): none is,
    /// and nothing of the export exists.
    pub otlp_endpoint: Option<Endpoint>,
}

/// The URL of a collector of OpenTelemetry (OTLP over HTTP), without `/v1/traces`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    /// As it is written, without a slash at its end.
    url: String,
    /// The path of traces.
    path: String,
}

/// Text that is no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Nothing that OTLP over HTTP could be sent to.
    #[error("write the URL of a collector of OTLP over HTTP, such as \"http://127.0.0.1:4318\"")]
    NoUrl,
    /// It is for TLS, which the export does not speak.
    #[error(
        "spans are sent by plain http:// only: run a collector on this host, write its URL, such as \
         \"http://127.0.0.1:4318\", and let it send them on by https://"
    )]
    Encrypted,
}

impl Endpoint {
    /// The host, to be resolved: an address or a name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port; 80 where the URL has none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path that spans are posted to.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // What a URL has behind a "#" is dropped without a word by its parser.
        if text.len() > ENDPOINT_BYTES_MAX || text.contains('#') {
            return Err(EndpointError::NoUrl);
        }
        let uri: Uri = text.parse().map_err(|_| EndpointError::NoUrl)?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(EndpointError::Encrypted),
            _ => return Err(EndpointError::NoUrl),
        }
        let authority = uri.authority().ok_or(EndpointError::NoUrl)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16();
        // A port that is none is left out by the parser, and a password would be shown in logs.
        let whole =
            port.map_or(authority.host().to_owned(), |port| format!("{}:{port}", authority.host()));
        if host.is_empty()
            || port == Some(0)
            || authority.as_str() != whole
            || uri.query().is_some()
        {
            return Err(EndpointError::NoUrl);
        }
        let path = format!("{}{TRACES_PATH}", uri.path().trim_end_matches('/'));
        let url = text.trim_end_matches('/').to_owned();
        Ok(Self { host, port: port.unwrap_or(80), url, path })
    }
}

pub(super) fn read(section: &mut Section<'_>) -> TelemetrySettings {
    let text = section.text("otlp_endpoint").filter(|text| !text.is_empty());
    TelemetrySettings { otlp_endpoint: section.meaning("otlp_endpoint", text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_says_where_spans_are_posted() {
        for (text, host, port, path) in [
            ("http://127.0.0.1:4318", "127.0.0.1", 4_318, "/v1/traces"),
            ("http://collector/", "collector", 80, "/v1/traces"),
            ("http://[::1]:4318/otlp/", "::1", 4_318, "/otlp/v1/traces"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host(), endpoint.port(), endpoint.path()), (host, port, path));
            assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        }
    }

    #[test]
    fn what_is_no_endpoint_says_what_one_is() {
        for text in [
            "127.0.0.1:4318",
            "collector",
            "grpc://127.0.0.1:4317",
            "http://",
            "http://:4318",
            "http://collector:0",
            "http://collector:99999",
            "http://me:secret@collector:4318",
            "http://collector:4318/?key=7",
            "http://collector:4318/#traces",
            "http://two words",
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(EndpointError::NoUrl), "{text}");
        }
        let encrypted = "https://collector:4318".parse::<Endpoint>();
        assert_eq!(encrypted, Err(EndpointError::Encrypted));
    }
}
