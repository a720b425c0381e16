//! Who may have the data: bearers of a token, bearers of a client's certificate, or, where neither is
//! configured, whoever is on this host. And what each of them may: a token stands for a name, and may
//! give it a role, as a certificate does; `[access]` says the rest.
//!
//! "On this host" must not mean "any page in a browser on this host". A page can make a browser send
//! some requests to loopback, but none with a method or content type that asks for leave first, which
//! writes here all do; and a page whose name was made to point to loopback is told by that name, which
//! the browser sends as `Host`.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, WWW_AUTHENTICATE};
use hyper::{HeaderMap, Uri};
use quoit_core::access::{Grant, Rights, Role};
use quoit_ring::ClusterId;
use rustls::pki_types::CertificateDer;

use super::problem::{Kind, Problem};
use crate::authority::Parsed;
use crate::bearer::bearer;
use crate::config::AccessRules;

/// A file of tokens is never longer, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// So many characters has a token at least: fewer can be guessed.
const TOKEN_CHARACTERS_MIN: usize = 16;
/// And at most.
const TOKEN_CHARACTERS_MAX: usize = 512;

/// By what whoever is on this host is known, where nothing else is asked for.
const LOCAL: &str = "local";
/// By what a bearer of a token is known that has no name.
const UNNAMED_TOKEN: &str = "token";

/// A token's SHA-256: the tokens themselves are not kept.
type Fingerprint = [u8; 32];

/// A token, and whom it stands for.
#[derive(Debug)]
struct Token {
    fingerprint: Fingerprint,
    name: String,
    grants: Option<Vec<Grant>>,
}

/// Who may have the data.
#[derive(Debug, Default)]
pub struct Access {
    tokens: Vec<Token>,
    by_certificate: bool,
    only_encrypted: bool,
    rules: AccessRules,
    /// Whose certificates say who their bearers are.
    cluster: Option<ClusterId>,
}

/// What is known of who asks.
#[derive(Debug, Clone, Default)]
pub(super) struct Peer {
    /// Where they are.
    pub(super) address: Option<SocketAddr>,
    /// The connection is encrypted.
    pub(super) encrypted: bool,
    /// And this certificate of the clients' authority was shown.
    pub(super) certificate: Option<Arc<CertificateDer<'static>>>,
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
        Ok(Self { tokens, by_certificate, only_encrypted, ..Self::default() })
    }

    /// The same, where the clients of a cluster may do what these rules say.
    pub(super) fn with_rules(self, rules: AccessRules, cluster: ClusterId) -> Self {
        Self { rules, cluster: Some(cluster), ..self }
    }

    /// Whether who asks is known, and what they may.
    pub(super) fn check(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        uri: &Uri,
    ) -> Result<Rights, Problem> {
        if self.only_encrypted && !peer.encrypted {
            let detail = "data is served encrypted only: ask by https";
            return Err(Problem::new(Kind::HttpsRequired, detail).closing());
        }
        if let Some(certificate) = peer.certificate.as_ref().filter(|_| self.by_certificate) {
            return Ok(self.rights_of(certificate));
        }
        if self.tokens.is_empty() && !self.by_certificate {
            check_host(headers, uri)?;
            return Ok(self.rules.rights_by_name(LOCAL, None));
        }
        let shown = headers.get(AUTHORIZATION).and_then(bearer_token);
        if let Some(token) = shown.and_then(|token| self.find(token)) {
            return Ok(self.rules.rights_by_name(&token.name, token.grants.as_deref()));
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
    fn find(&self, token: &[u8]) -> Option<&Token> {
        let shown = fingerprint(token);
        let is_shown = |token: &&Token| verify_slices_are_equal(&token.fingerprint, &shown).is_ok();
        self.tokens.iter().fold(None, |found, token| is_shown(&token).then_some(token).or(found))
    }

    /// What a certificate's bearer may. One of another authority than the cluster's has a name, which is
    /// its subject's, and no roles of its own.
    fn rights_of(&self, certificate: &CertificateDer<'static>) -> Rights {
        if let Some(Ok(bearer)) = self.cluster.map(|cluster| bearer(certificate, cluster)) {
            return self.rules.rights_of(&bearer);
        }
        let name = Parsed::read(certificate).map_or_else(|_| "?".to_owned(), |one| one.subject);
        self.rules.rights_by_name(&name, None)
    }
}

fn fingerprint(token: &[u8]) -> Fingerprint {
    digest(&SHA256, token).as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

fn bearer_token(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().as_bytes())
}

/// One token a line, and behind it, where it has them, a name, a role and tables: `TOKEN shop
/// role=read-only table=carts`. Empty lines, and those that begin with `#`, say nothing.
fn read_tokens(path: &Path) -> Result<Vec<Token>, TokenError> {
    let failed = |source| TokenError::Read { path: path.to_owned(), source };
    let wrong = |message: String| TokenError::Wrong { path: path.to_owned(), message };
    if fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(wrong(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    let mut tokens = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut words = line.split_whitespace();
        let Some(token) = words.next().filter(|token| !token.starts_with('#')) else { continue };
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
        let name = words.next().unwrap_or(UNNAMED_TOKEN);
        let grants = read_grants(words)
            .map_err(|message| wrong(format!("line {}: {message}", number + 1)))?;
        if name.contains('=') {
            let message = format!("line {}: a name stands before {name}", number + 1);
            return Err(wrong(message));
        }
        let (fingerprint, name) = (fingerprint(token.as_bytes()), name.to_owned());
        tokens.push(Token { fingerprint, name, grants });
    }
    if tokens.is_empty() {
        return Err(wrong("it holds no token: write one a line".to_owned()));
    }
    Ok(tokens)
}

/// `role=R table=T table=U`
fn read_grants<'a>(words: impl Iterator<Item = &'a str>) -> Result<Option<Vec<Grant>>, String> {
    let (mut role, mut tables) = (None, Vec::new());
    for word in words {
        match word.split_once('=') {
            Some(("role", text)) if role.is_none() => {
                role = Some(text.parse::<Role>().map_err(|error| error.to_string())?);
            }
            Some(("table", table)) if !table.is_empty() => tables.push(table.to_owned()),
            _ => {
                return Err(
                    "behind a token's name stand role=ROLE, once, and table=NAME".to_owned()
                );
            }
        }
    }
    match role {
        Some(role) => Ok(Some(vec![Grant { role, tables }])),
        None if tables.is_empty() => Ok(None),
        None => Err("table=NAME needs role=ROLE beside it".to_owned()),
    }
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

    fn peer(encrypted: bool, certified: bool) -> Peer {
        let issued = rcgen::generate_simple_self_signed(vec!["someone".to_owned()]).unwrap();
        let certificate = certified.then(|| Arc::new(issued.cert.der().clone()));
        Peer { address: None, encrypted, certificate }
    }

    fn status(access: &Access, peer: &Peer, headers: &HeaderMap) -> u16 {
        match access.check(peer, headers, &Uri::from_static("/v1/tables")) {
            Ok(_) => 200,
            Err(problem) => problem.status().as_u16(),
        }
    }

    #[test]
    fn a_token_opens_the_door_and_nothing_else_does() {
        let access = with(&format!("# ours\n\n  {TOKEN}\nanother-token-of-ours\n")).unwrap();
        let peer = Peer::default();
        let status = |headers: &HeaderMap| status(&access, &peer, headers);
        for (value, expected) in [
            ("Bearer 0123456789abcdef", 200),
            ("bearer another-token-of-ours", 200),
            ("Bearer 0123456789abcde", 401),
            ("Bearer # ours", 401),
            ("Basic 0123456789abcdef", 401),
            ("Bearer", 401),
            ("Bearer ", 401),
        ] {
            assert_eq!(status(&headers(AUTHORIZATION, value)), expected, "{value}");
        }
        assert_eq!(status(&HeaderMap::new()), 401);
        // A certificate that nobody asked for proves nothing.
        let certified = super::tests::peer(true, true);
        assert_eq!(super::tests::status(&access, &certified, &HeaderMap::new()), 401);
    }

    #[test]
    fn a_token_stands_for_a_name_and_may_give_it_a_role() {
        let text = format!(
            "{TOKEN}\nthe-token-of-a-shop shop role=read-write table=carts table=orders\n\
             the-token-of-billing billing\n"
        );
        let access = with(&text).unwrap();
        let rights = |token: &str| {
            let headers = headers(AUTHORIZATION, &format!("Bearer {token}"));
            access.check(&Peer::default(), &headers, &Uri::from_static("/v1/tables")).unwrap()
        };
        let shop = rights("the-token-of-a-shop");
        assert_eq!((shop.name(), shop.role_in("carts")), ("shop", Role::ReadWrite));
        assert_eq!(shop.role_in("salaries"), Role::None);
        // Nothing is said of these, and so they may nothing.
        assert_eq!(rights("the-token-of-billing").role_in("carts"), Role::None);
        assert_eq!((rights(TOKEN).name(), rights(TOKEN).role_in("carts")), ("token", Role::None));
    }

    #[test]
    fn files_without_good_tokens_are_refused() {
        for line in ["shop role=root", "shop table=carts", "shop root", "role=admin", "a role="] {
            let error = with(&format!("{TOKEN} {line}\n")).unwrap_err().to_string();
            assert!(error.contains("line 1"), "{error}");
        }
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
        assert_eq!(status(&access, &peer(true, true), &none), 200);
        assert_eq!(status(&access, &peer(true, false), &none), 401);
        assert_eq!(status(&access, &Peer::default(), &none), 403);
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
            assert_eq!(status(&access, &Peer::default(), &headers), expected, "{host}");
        }
        assert_eq!(status(&access, &Peer::default(), &HeaderMap::new()), 200);
    }
}
