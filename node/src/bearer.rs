//! What a certificate says of its bearer: the names in it, read as Quoit's.
//!
//! A node's has `n7.<cluster>.quoit` and `node.<cluster>.quoit`; a client's has
//! `client.<cluster>.quoit` or `<name>.client.<cluster>.quoit` and, where it gives rights by itself,
//! `quoit://<cluster>/client/<name>?role=read-only&table=carts` (a URI for each role; without tables, it
//! is had in all). Whether the certificate is genuine was decided before, by the authority's signature.

use std::any::Any;

use quoit_core::access::{Grant, Role};
use quoit_ring::{ClusterId, NodeId};
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// Names longer than this in a log line are cut.
const SHOWN_NAMES_MAX: usize = 4;
/// A certificate gives no more roles.
const GRANTS_MAX: usize = 64;
/// And none of them in more tables.
const TABLES_MAX: usize = 256;
/// The name of a client whose certificate has none of its own.
pub const UNNAMED: &str = "client";
/// A client's name is no longer: it is one label of a DNS name.
pub const NAME_LENGTH_MAX: usize = 63;

/// The bearer of a certificate of this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bearer {
    /// A node, which may do everything.
    Node(NodeId),
    /// A client.
    Client(NamedClient),
}

/// A client, as its certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedClient {
    /// Its name.
    pub name: String,
    /// What the certificate allows; `None` where it says nothing of it.
    pub grants: Option<Vec<Grant>>,
}

/// Why a certificate names no bearer of this cluster, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BearerError(String);

/// The certificates that a connection was made with, the bearer's first.
pub(crate) fn chain_of(identity: Option<Box<dyn Any>>) -> Vec<CertificateDer<'static>> {
    identity
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .map_or_else(Vec::new, |chain| *chain)
}

/// The bearer by the certificate that a connection was made with.
pub(crate) fn bearer_of_connection(
    identity: Option<Box<dyn Any>>,
    cluster: ClusterId,
) -> Result<Bearer, BearerError> {
    let chain = chain_of(identity);
    let certificate =
        chain.first().ok_or_else(|| BearerError("it showed no certificate".into()))?;
    bearer(certificate, cluster)
}

/// The bearer of a certificate. One that names a node is a node's, whatever else it names.
///
/// # Errors
/// Where it names nobody of this cluster.
pub fn bearer(certificate: &CertificateDer<'_>, cluster: ClusterId) -> Result<Bearer, BearerError> {
    let parsed = EndEntityCert::try_from(certificate)
        .map_err(|error| BearerError(format!("its certificate cannot be read: {error}")))?;
    let suffix = format!(".{cluster}.quoit");
    let client = format!("client.{cluster}.quoit");
    let mut nodes =
        parsed.valid_dns_names().filter_map(|name| name.strip_suffix(&suffix)?.parse().ok());
    if let Some(node) = nodes.next() {
        return match nodes.find(|other| *other != node) {
            Some(other) => Err(BearerError(format!(
                "its certificate names two nodes, {node} and {other}: give each its own"
            ))),
            None => Ok(Bearer::Node(node)),
        };
    }
    let client_name = |name: &str| match name.strip_suffix(&client)? {
        "" => Some(UNNAMED.to_owned()),
        rest => rest.strip_suffix('.').map(str::to_owned),
    };
    if let Some(name) = parsed.valid_dns_names().find_map(client_name) {
        let texts: Vec<&str> =
            parsed.valid_uri_names().filter(|text| text.starts_with(SCHEME)).collect();
        let grants = texts.iter().filter_map(|text| grant_of(text, cluster, &name));
        let grants = (!texts.is_empty()).then(|| grants.take(GRANTS_MAX).collect());
        return Ok(Bearer::Client(NamedClient { name, grants }));
    }
    let names: Vec<_> = parsed.valid_dns_names().take(SHOWN_NAMES_MAX).collect();
    Err(BearerError(format!(
        "its certificate names no node and no client of cluster {cluster} but {}",
        if names.is_empty() { "nothing".into() } else { names.join(", ") }
    )))
}

const SCHEME: &str = "quoit://";

/// The URI that gives a client a role.
pub fn grant_uri(cluster: ClusterId, name: &str, grant: &Grant) -> String {
    let mut uri = format!("{SCHEME}{cluster}/client/{name}?role={}", grant.role);
    for table in &grant.tables {
        uri.push_str("&table=");
        uri.push_str(table);
    }
    uri
}

/// What such a URI gives; `None` where it is another cluster's or client's, or is not understood: then
/// it gives nothing.
fn grant_of(uri: &str, cluster: ClusterId, name: &str) -> Option<Grant> {
    let rest = uri.strip_prefix(SCHEME)?.strip_prefix(&format!("{cluster}/client/{name}?"))?;
    let (mut role, mut tables) = (None, Vec::new());
    for (key, value) in rest.split('&').map(|part| part.split_once('=').unwrap_or((part, ""))) {
        match key {
            "role" if role.is_none() => role = Some(value.parse::<Role>().ok()?),
            "table" if tables.len() < TABLES_MAX && !value.is_empty() => {
                tables.push(value.to_owned());
            }
            // Somebody meant a restriction that this program does not know.
            _ => return None,
        }
    }
    Some(Grant { role: role?, tables })
}

/// Whether a client may have this name.
pub fn is_client_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=NAME_LENGTH_MAX).contains(&name.len())
        && name.chars().all(good)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// The name that a node's certificate bears.
pub(crate) fn node_name(node: NodeId, cluster: ClusterId) -> String {
    format!("{node}.{cluster}.quoit")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(0x5150);

    fn certificate(names: &[String], uris: &[String]) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        let uris = uris.iter().map(|uri| rcgen::SanType::URI(uri.as_str().try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_gives_its_own_clients_role_and_no_other() {
        let named = [format!("shop.client.{CLUSTER}.quoit")];
        let read = Grant { role: Role::ReadOnly, tables: vec!["carts".into(), "a.b".into()] };
        let grants = |uris: &[String]| match bearer(&certificate(&named, uris), CLUSTER) {
            Ok(Bearer::Client(NamedClient { name, grants })) if name == "shop" => grants,
            other => panic!("{other:?}"),
        };
        assert_eq!(grants(&[]), None);
        assert_eq!(grants(&["https://example.com/?role=admin".into()]), None);
        let good = grant_uri(CLUSTER, "shop", &read);
        assert_eq!(grants(std::slice::from_ref(&good)), Some(vec![read.clone()]));
        for wrong in [
            grant_uri(ClusterId(7), "shop", &read),
            grant_uri(CLUSTER, "shopper", &read),
            good.replace("read-only", "root"),
            good.replace("table", "range"),
            format!("{good}&role=admin"),
            format!("quoit://{CLUSTER}/client/shop?table=carts"),
            format!("quoit://{CLUSTER}/client/shop"),
        ] {
            assert_eq!(grants(std::slice::from_ref(&wrong)), Some(Vec::new()), "{wrong}");
        }
    }

    #[test]
    fn who_names_nobody_of_the_cluster_is_nobody() {
        let of = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| format!("{name}.quoit")).collect();
            bearer(&certificate(&names, &[]), CLUSTER)
        };
        let own = CLUSTER.to_string();
        assert_eq!(of(&[&format!("n7.{own}")]), Ok(Bearer::Node(NodeId(7))));
        let unnamed = NamedClient { name: UNNAMED.into(), grants: None };
        assert_eq!(of(&[&format!("client.{own}")]), Ok(Bearer::Client(unnamed)));
        let two = of(&[&format!("n7.{own}"), &format!("n8.{own}")]).unwrap_err().to_string();
        assert!(two.contains("two nodes"), "{two}");
        for nobody in [format!("xclient.{own}"), format!("n7.{}", ClusterId(1)), format!("7.{own}")]
        {
            assert!(of(&[&nobody]).is_err(), "{nobody}");
        }
    }
}
