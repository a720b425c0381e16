//! What `quoit ca show` says of a file: certificates and lists of revoked ones, for people and as JSON.

use std::fmt::Write as _;
use std::path::Path;
use std::time::SystemTime;

use quoit_core::access::Grant;
use serde_json::{Value as Json, json};

use super::file::read;
use super::parsed::{Parsed, ParsedList, date, hex};
use super::{AUTHORITY_CERTIFICATE, AuthorityError, check};
use crate::bearer::{Bearer, bearer};

const SECONDS_PER_DAY: i64 = 86_400;

/// One certificate or list of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown(Vec<(&'static str, Json)>);

/// Reads what a file holds. Which authority has signed a certificate is looked for in the file
/// `authority`, or else in `authority.pem` beside it.
///
/// # Errors
/// [`AuthorityError::Unusable`] where it holds neither.
pub fn show(
    path: &Path,
    authority: Option<&Path>,
    now: SystemTime,
) -> Result<Vec<Shown>, AuthorityError> {
    let pem = read(path)?;
    let unusable = |message: String| AuthorityError::Unusable { path: path.to_owned(), message };
    let lists = ParsedList::read_pem(pem.as_bytes()).map_err(unusable)?;
    let certificates = match Parsed::read_pem(pem.as_bytes()) {
        Ok(certificates) => certificates,
        Err(_) if !lists.is_empty() => Vec::new(),
        Err(message) => return Err(unusable(message)),
    };
    let trusted = match authority {
        Some(path) => Some(read(path)?),
        None => read(&path.with_file_name(AUTHORITY_CERTIFICATE)).ok(),
    };
    let mut shown: Vec<Shown> =
        certificates.iter().map(|one| certificate(one, trusted.as_deref(), now)).collect();
    shown.extend(lists.iter().map(list));
    Ok(shown)
}

fn certificate(parsed: &Parsed, trusted: Option<&str>, now: SystemTime) -> Shown {
    let mut lines = Vec::new();
    let cluster = check::cluster_named(&parsed.der);
    let found = cluster.map(|cluster| bearer(&parsed.der, cluster));
    match found {
        _ if parsed.is_authority => lines.push(("authority", json!(parsed.subject))),
        Some(Ok(Bearer::Node(node))) => lines.push(("node", json!(node.to_string()))),
        Some(Ok(Bearer::Client(client))) => {
            lines.push(("client", json!(client.name)));
            lines.push((
                "roles",
                match &client.grants {
                    None => Json::Null,
                    Some(grants) => grants.iter().map(role).collect(),
                },
            ));
        }
        Some(Err(_)) | None => lines.push(("subject", json!(parsed.subject))),
    }
    if let Some(cluster) = cluster {
        lines.push(("cluster", json!(cluster.to_string())));
    }
    lines.push(("serial", json!(hex(&parsed.serial))));
    lines.push(("fingerprint_sha256", json!(parsed.fingerprint())));
    lines.push(("not_before", json!(date(parsed.not_before))));
    lines.push(("not_after", json!(date(parsed.not_after))));
    lines.push(("days_left", json!(days_between(now, parsed.not_after))));
    lines.push(("issuer", json!(parsed.issuer)));
    if let Some(trusted) = trusted.filter(|_| !parsed.is_authority) {
        let signed = check::signer_of(trusted, &parsed.der);
        lines.push(("signed_by", json!(signed.map(|signer| signer.fingerprint()))));
    }
    Shown(lines)
}

fn list(list: &ParsedList) -> Shown {
    let revoked = list.revoked.iter();
    let revoked: Vec<_> =
        revoked.map(|(serial, at)| json!({ "serial": hex(serial), "at": date(*at) })).collect();
    Shown(vec![
        ("revocation_list_of", json!(list.issuer)),
        ("count", json!(revoked.len())),
        ("revoked", json!(revoked)),
    ])
}

fn role(grant: &Grant) -> Json {
    json!({ "role": grant.role.name(), "tables": grant.tables })
}

/// Whole days, rounded down; negative where it is over.
fn days_between(now: SystemTime, then: SystemTime) -> i64 {
    let seconds = match then.duration_since(now) {
        Ok(left) => i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        Err(error) => -i64::try_from(error.duration().as_secs()).unwrap_or(i64::MAX) - 1,
    };
    seconds.div_euclid(SECONDS_PER_DAY)
}

impl Shown {
    /// For programs.
    pub fn json(&self) -> Json {
        Json::Object(
            self.0.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        )
    }

    /// For people, a line for each thing.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.0 {
            let value = match (*name, value) {
                ("roles", Json::Null) => {
                    "none of its own: what [access] of the nodes' configuration says".to_owned()
                }
                ("signed_by", Json::Null) => {
                    "none of the authorities that were looked at".to_owned()
                }
                ("roles", Json::Array(roles)) => {
                    let roles: Vec<_> = roles.iter().map(role_text).collect();
                    if roles.is_empty() { "none".to_owned() } else { roles.join("; ") }
                }
                ("revoked", Json::Array(revoked)) => {
                    let lines = revoked.iter().map(|one| {
                        let field = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
                        format!("\n    {} at {}", field("serial"), field("at"))
                    });
                    lines.collect()
                }
                (_, Json::String(text)) => text.clone(),
                (_, value) => value.to_string(),
            };
            let _ = writeln!(text, "  {:<20}{value}", name.replace('_', " "));
        }
        text
    }
}

fn role_text(role: &Json) -> String {
    let name = role["role"].as_str().unwrap_or_default();
    let tables: Vec<&str> =
        role["tables"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    match tables.len() {
        0 => format!("{name} in all tables"),
        _ => format!("{name} in {}", tables.join(", ")),
    }
}
