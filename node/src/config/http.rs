//! `[http]`: what is served, to whom, and what may not go together.

use std::path::Path;

use super::document::Section;
use super::{
    HTTP_CONNECTIONS_MAX, HTTP_LISTEN, HttpSettings, HttpTlsSettings, address, count, non_empty,
};

/// Requests for data that are answered at once, when nobody says otherwise.
const IN_FLIGHT_MAX: i64 = 256;

pub(super) fn read(section: &mut Section<'_>, directory: &Path) -> HttpSettings {
    let listen = address(section, "listen").unwrap_or(HTTP_LISTEN);
    let data = section.switch("data", false);
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
        if given.is_some() && !data {
            section.wrong(key, "protects only data, which is not served: set http.data = true too");
        }
    }
    let is_guarded = certificate.is_some() && (client_authority.is_some() || token_file.is_some());
    if data && !listen.ip().is_loopback() && !is_guarded {
        section.wrong(
            "listen",
            format!(
                "{listen} is reached from other hosts, and with http.data = true whoever reaches it has \
                 the data: set http.certificate and http.key, and http.client_authority or \
                 http.token_file, or listen on 127.0.0.1"
            ),
        );
    }
    let tls = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            Some(HttpTlsSettings { certificate, key, client_authority })
        }
        _ => None,
    };
    let usual = i64::try_from(HTTP_CONNECTIONS_MAX).unwrap_or(i64::MAX);
    HttpSettings {
        listen,
        data,
        tls,
        token_file,
        connections_max: count(section, "connections_max", 8..=100_000, usual),
        in_flight_max: count(section, "in_flight_max", 1..=4_096, IN_FLIGHT_MAX),
    }
}
