//! Who may have the data: bearers of a token, bearers of a client's certificate, or, where neither is
//! configured, whoever is on this host.
//!
//! "On this host" must not mean "any page in a browser on this host". A page can make a browser send
//! some requests to loopback, but none with a method or content type that asks for leave first, which
//! writes here all do; and a page whose name was made to point to loopback is told by that name, which
//! the browser sends as `Host`.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, WWW_AUTHENTICATE};
use hyper::{HeaderMap, Uri};

use super::problem::{Kind, Problem};

/// A file of tokens is never longer, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// So many characters has a token at least: fewer can be guessed.
const TOKEN_CHARACTERS_MIN: usize = 16;
/// And at most.
const TOKEN_CHARACTERS_MAX: usize = 512;

/// A token's SHA-256: the tokens themselves are not kept.
type Fingerprint = [u8; 32];

/// Who may have the data.
#[derive(Debug, Default)]
pub struct Access {
    tokens: Vec<Fingerprint>,
    by_certificate: bool,
    only_encrypted: bool,
}

/// What is known of who asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Peer {
    /// The connection is encrypted.
    pub(super) encrypted: bool,
    /// And a certificate of the clients' authority was shown.
    pub(super) certified: bool,
}

/// A file of tokens that cannot be used. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read. Check the path and its permissions.
    #[error("the tokens in {} cannot be read (http.token_file)", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds no token, or something that is none.
    #[error("{}: {message} (http.token_file)", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        message: String,
    },
}

impl Access {
    /// Whoever bears one of these tokens, or a certificate where those are taken.
    pub(super) fn new(
        token_file: Option<&Path>,
        by_certificate: bool,
        only_encrypted: bool,
    ) -> Result<Self, TokenError> {
        let tokens = token_file.map(read_tokens).transpose()?.unwrap_or_default();
        Ok(Self { tokens, by_certificate, only_encrypted })
    }

    /// Whether who asks may have the data.
    pub(super) fn check(&self, peer: Peer, headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
        if self.only_encrypted && !peer.encrypted {
            let detail = "data is served encrypted only: ask by https";
            return Err(Problem::new(Kind::HttpsRequired, detail).closing());
        }
        if self.by_certificate && peer.certified {
            return Ok(());
        }
        if self.tokens.is_empty() && !self.by_certificate {
            return check_host(headers, uri);
        }
        let shown = headers.get(AUTHORIZATION).and_then(bearer_token);
        if shown.is_some_and(|token| self.knows(token)) {
            return Ok(());
        }
        let detail = match (self.tokens.is_empty(), self.by_certificate) {
            (true, _) => "show a client's certificate",
            (false, false) => "show a token: Authorization: Bearer TOKEN",
            (false, true) => "show a token (Authorization: Bearer TOKEN) or a client's certificate",
        };
        let scheme = HeaderValue::from_static("Bearer realm=\"quoit\"");
        Err(Problem::new(Kind::Unauthorized, detail)
            .with_header(WWW_AUTHENTICATE, scheme)
            .closing())
    }

    /// Looks at every token, each to its end: the time taken tells nothing.
    fn knows(&self, token: &[u8]) -> bool {
        let shown = fingerprint(token);
        self.tokens
            .iter()
            .fold(false, |known, token| known | verify_slices_are_equal(token, &shown).is_ok())
    }
}

fn fingerprint(token: &[u8]) -> Fingerprint {
    digest(&SHA256, token).as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

fn bearer_token(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().as_bytes())
}

/// One token a line; empty lines, and those that begin with `#`, say nothing.
fn read_tokens(path: &Path) -> Result<Vec<Fingerprint>, TokenError> {
    let failed = |source| TokenError::Read { path: path.to_owned(), source };
    let wrong = |message: String| TokenError::Wrong { path: path.to_owned(), message };
    if fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(wrong(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    let mut tokens = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let token = line.trim();
        if token.is_empty() || token.starts_with('#') {
            continue;
        }
        let good = |c: char| c.is_ascii_graphic();
        if !(TOKEN_CHARACTERS_MIN..=TOKEN_CHARACTERS_MAX).contains(&token.len())
            || !token.chars().all(good)
        {
            return Err(wrong(format!(
                "line {} is no token: write {TOKEN_CHARACTERS_MIN} to {TOKEN_CHARACTERS_MAX} letters, \
                 digits and signs, such as `openssl rand -hex 32` gives",
                number + 1
            )));
        }
        tokens.push(fingerprint(token.as_bytes()));
    }
    if tokens.is_empty() {
        return Err(wrong("it holds no token: write one a line".to_owned()));
    }
    Ok(tokens)
}

/// Whoever asks for this host by another name than those that only this host has was misled.
fn check_host(headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
    let host = match uri.host() {
        Some(host) => Some(host),
        None => headers.get(HOST).and_then(|host| host.to_str().ok()).map(without_port),
    };
    // HTTP 1.0 has none, and no browser speaks it.
    let Some(host) = host else { return Ok(()) };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let detail = "without tokens or certificates only localhost and IP addresses are answered to";
    Err(Problem::new(Kind::ForeignHost, detail).closing())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn with(text: &str) -> Result<Access, TokenError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        fs::write(&path, text).unwrap();
        Access::new(Some(&path), false, false)
    }

    fn headers(name: hyper::header::HeaderName, value: &str) -> HeaderMap {
        [(name, HeaderValue::from_str(value).unwrap())].into_iter().collect()
    }

    fn status(access: &Access, peer: Peer, headers: &HeaderMap) -> u16 {
        match access.check(peer, headers, &Uri::from_static("/v1/tables")) {
            Ok(()) => 200,
            Err(problem) => problem.status().as_u16(),
        }
    }

    #[test]
    fn a_token_opens_the_door_and_nothing_else_does() {
        let access = with(&format!("# ours\n\n  {TOKEN}\nanother-token-of-ours\n")).unwrap();
        let peer = Peer::default();
        for (value, expected) in [
            ("Bearer 0123456789abcdef", 200),
            ("bearer another-token-of-ours", 200),
            ("Bearer 0123456789abcde", 401),
            ("Bearer # ours", 401),
            ("Basic 0123456789abcdef", 401),
            ("Bearer", 401),
            ("Bearer ", 401),
        ] {
            assert_eq!(status(&access, peer, &headers(AUTHORIZATION, value)), expected, "{value}");
        }
        assert_eq!(status(&access, peer, &HeaderMap::new()), 401);
        // A certificate that nobody asked for proves nothing.
        let certified = Peer { encrypted: true, certified: true };
        assert_eq!(status(&access, certified, &HeaderMap::new()), 401);
    }

    #[test]
    fn files_without_good_tokens_are_refused() {
        for text in ["", "# none\n", "short\n", "0123456789 abcdef\n", &"x".repeat(70_000)] {
            assert!(matches!(with(text), Err(TokenError::Wrong { .. })), "{text:.20}");
        }
        let missing = Access::new(Some(Path::new("/nowhere/tokens")), false, false);
        assert!(missing.unwrap_err().to_string().contains("http.token_file"));
    }

    #[test]
    fn certificates_open_an_encrypted_door_only() {
        let access = Access::new(None, true, true).unwrap();
        let none = HeaderMap::new();
        assert_eq!(status(&access, Peer { encrypted: true, certified: true }, &none), 200);
        assert_eq!(status(&access, Peer { encrypted: true, certified: false }, &none), 401);
        assert_eq!(status(&access, Peer::default(), &none), 403);
    }

    #[test]
    fn an_open_door_answers_to_this_hosts_own_names_only() {
        let access = Access::default();
        for (host, expected) in [
            ("127.0.0.1:7201", 200),
            ("localhost", 200),
            ("LOCALHOST:7201", 200),
            ("[::1]:7201", 200),
            ("[::1]", 200),
            ("quoit.example:7201", 421),
            ("localhost.example", 421),
            ("127.0.0.1.example", 421),
            ("", 421),
        ] {
            let headers = headers(HOST, host);
            assert_eq!(status(&access, Peer::default(), &headers), expected, "{host}");
        }
        assert_eq!(status(&access, Peer::default(), &HeaderMap::new()), 200);
    }
}
