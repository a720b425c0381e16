//! `[http]`: what is served, to whom, and what may not go together.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::document::Section;
use super::{address, count, non_empty};

/// Connections of HTTP when nobody says otherwise.
pub const HTTP_CONNECTIONS_MAX: usize = 1_024;
/// Requests for data that are answered at once, when nobody says otherwise.
const IN_FLIGHT_MAX: i64 = 256;

/// `[http]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// `listen`: the TCP address of `/healthz`, `/readyz`, `/metrics` and `/v1`; on loopback,
    /// [`HTTP_PORT_OFFSET`](super::HTTP_PORT_OFFSET) above the node's port, unless told otherwise.
    pub listen: SocketAddr,
    /// `data`: whether `/v1` gives the cluster's data.
    pub data: bool,
    /// `page`: whether the page is served that shows what the cluster does.
    pub page: bool,
    /// `certificate`, `key`, `client_authority`: data is served encrypted only, where they are set.
    pub tls: Option<HttpTlsSettings>,
    /// `token_file`: a token a line, one of which must be shown for data.
    pub token_file: Option<PathBuf>,
    /// `connections_max`: open connections.
    pub connections_max: usize,
    /// `connections_per_source_max`: and so many of them from one address.
    pub connections_per_source_max: usize,
    /// `in_flight_max`: requests for data that are answered at once.
    pub in_flight_max: usize,
}

impl HttpSettings {
    /// Whether data may be given beyond this host: encrypted, and to those who are known.
    pub fn is_guarded(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.client_authority.is_some() || self.token_file.is_some())
    }
}

/// The certificates of `[http]`: paths of PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTlsSettings {
    /// `certificate`: the server's certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// `key`: the certificate's private key.
    pub key: PathBuf,
    /// `client_authority`: whoever bears a certificate of this authority may have the data.
    pub client_authority: Option<PathBuf>,
}

pub(super) fn read(section: &mut Section<'_>, directory: &Path, usual: SocketAddr) -> HttpSettings {
    let listen = address(section, "listen").unwrap_or(usual);
    let data = section.switch("data", false);
    // A page that names keys is for whoever may see them: beyond this host somebody must say so.
    let page = section.switch("page", data || listen.ip().is_loopback());
    let mut path = |key| {
        let text = section.text(key);
        non_empty(section, key, text).map(|text| directory.join(text))
    };
    let (certificate, key) = (path("certificate"), path("key"));
    let (client_authority, token_file) = (path("client_authority"), path("token_file"));
    match (&certificate, &key) {
        (Some(_), None) => section.wrong("certificate", "needs http.key beside it"),
        (None, Some(_)) => section.wrong("key", "needs http.certificate beside it"),
        (None, None) if client_authority.is_some() => section.wrong(
            "client_authority",
            "clients show certificates by HTTPS only: set http.certificate and http.key too",
        ),
        (Some(_), Some(_)) | (None, None) => {}
    }
    for (key, given) in [("client_authority", &client_authority), ("token_file", &token_file)] {
        if given.is_some() && !data && !page {
            section.wrong(key, "protects only data and the page, which are not served: set http.data or http.page = true too");
        }
    }
    let tls = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            Some(HttpTlsSettings { certificate, key, client_authority })
        }
        _ => None,
    };
    let usual = i64::try_from(HTTP_CONNECTIONS_MAX).unwrap_or(i64::MAX);
    let settings = HttpSettings {
        listen,
        data,
        page,
        tls,
        token_file,
        connections_max: count(section, "connections_max", 8..=100_000, usual),
        connections_per_source_max: count(
            section,
            "connections_per_source_max",
            1..=100_000,
            usual,
        ),
        in_flight_max: count(section, "in_flight_max", 1..=4_096, IN_FLIGHT_MAX),
    };
    if (data || page) && !listen.ip().is_loopback() && !settings.is_guarded() {
        let (served, what) = match data {
            true => ("http.data", "has the data"),
            false => ("http.page", "sees the cluster, and some of its keys"),
        };
        section.wrong(
            "listen",
            format!(
                "{listen} is reached from other hosts, and with {served} = true whoever reaches it \
                 {what}: set http.certificate and http.key, and http.client_authority or \
                 http.token_file, or listen on 127.0.0.1"
            ),
        );
    }
    settings
}
