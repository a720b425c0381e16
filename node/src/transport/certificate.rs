//! What a certificate says of its bearer: the names in it, read as Quoit's.
//!
//! A node's has `n7.<cluster>.quoit` and `node.<cluster>.quoit`; a client's has
//! `client.<cluster>.quoit` or `<name>.client.<cluster>.quoit`. Whether the certificate is genuine
//! was decided before, by the authority's signature.

use std::any::Any;

use quoit_ring::{ClusterId, NodeId};
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// Names longer than this in a log line are cut.
const SHOWN_NAMES_MAX: usize = 4;

/// The bearer of a certificate of this cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bearer {
    Node(NodeId),
    Client,
}

/// Why a certificate names no bearer of this cluster, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BearerError(String);

/// The bearer by the certificate that a connection was made with.
pub(super) fn bearer_of_connection(
    identity: Option<Box<dyn Any>>,
    cluster: ClusterId,
) -> Result<Bearer, BearerError> {
    identity
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .and_then(|chain| chain.into_iter().next())
        .ok_or_else(|| BearerError("it showed no certificate".into()))
        .and_then(|certificate| bearer(&certificate, cluster))
}

/// The bearer of a certificate. One that names a node is a node's, whatever else it names.
pub(super) fn bearer(
    certificate: &CertificateDer<'_>,
    cluster: ClusterId,
) -> Result<Bearer, BearerError> {
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
    let is_client = |name: &str| {
        name.strip_suffix(&client).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if parsed.valid_dns_names().any(is_client) {
        return Ok(Bearer::Client);
    }
    let names: Vec<_> = parsed.valid_dns_names().take(SHOWN_NAMES_MAX).collect();
    Err(BearerError(format!(
        "its certificate names no node and no client of cluster {cluster} but {}",
        if names.is_empty() { "nothing".into() } else { names.join(", ") }
    )))
}

/// The name that a node's certificate bears.
pub(super) fn node_name(node: NodeId, cluster: ClusterId) -> String {
    format!("{node}.{cluster}.quoit")
}
