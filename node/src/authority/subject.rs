//! Whose a certificate is, and how it says so.

use quoit_core::access::{Grant, Role};
use quoit_ring::{ClusterId, NodeId};
use rcgen::{ExtendedKeyUsagePurpose, SanType};

use super::{AuthorityError, node_name};
use crate::bearer::{Bearer, NAME_LENGTH_MAX, NamedClient, UNNAMED, grant_uri, is_client_name};

/// Whose certificate it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A node of the cluster.
    Node(NodeId),
    /// A client of the cluster.
    Client(NamedClient),
}

impl From<Bearer> for Subject {
    fn from(bearer: Bearer) -> Self {
        match bearer {
            Bearer::Node(node) => Self::Node(node),
            Bearer::Client(client) => Self::Client(client),
        }
    }
}

impl Subject {
    /// A client of that name, whose certificate gives it a role where there is one.
    ///
    /// # Errors
    /// [`AuthorityError::Name`], [`AuthorityError::Grant`].
    pub fn client(name: &str, grant: Option<Grant>) -> Result<Self, AuthorityError> {
        if !is_client_name(name) {
            return Err(AuthorityError::Name(name.chars().take(NAME_LENGTH_MAX + 1).collect()));
        }
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let tables = grant.iter().flat_map(|grant| &grant.tables);
        if let Some(table) = { tables }.find(|name| name.is_empty() || !name.chars().all(good)) {
            return Err(AuthorityError::Grant(format!("no table is called {table:?}")));
        }
        Ok(Self::Client(NamedClient {
            name: name.to_owned(),
            grants: grant.map(|grant| vec![grant]),
        }))
    }

    /// The client that may do everything.
    pub fn admin() -> Self {
        let grant = Grant { role: Role::Admin, tables: Vec::new() };
        Self::Client(NamedClient { name: "admin".to_owned(), grants: Some(vec![grant]) })
    }

    /// The DNS names that the certificate bears.
    pub fn names(&self, cluster: ClusterId) -> Vec<String> {
        match self {
            Self::Node(node) => vec![format!("{node}.{cluster}.quoit"), node_name(cluster)],
            Self::Client(client) if client.name == UNNAMED => {
                vec![format!("client.{cluster}.quoit")]
            }
            Self::Client(client) => vec![format!("{}.client.{cluster}.quoit", client.name)],
        }
    }

    /// All alternative names: the DNS names, and a URI for each role.
    pub(super) fn alternative_names(
        &self,
        cluster: ClusterId,
    ) -> Result<Vec<SanType>, AuthorityError> {
        let mut names = super::dns_names(self.names(cluster))?;
        if let Self::Client(NamedClient { name, grants: Some(grants) }) = self {
            for grant in grants {
                names.push(SanType::URI(grant_uri(cluster, name, grant).try_into()?));
            }
        }
        Ok(names)
    }

    /// A common name of at most 64 characters: the cluster's id fits, a long node id beside it does too
    /// (n18446744073709551615 has 21). A client's name need not.
    pub(super) fn title(&self, cluster: ClusterId) -> String {
        match self {
            Self::Node(node) => format!("{node} {cluster}"),
            Self::Client(client) if client.name == UNNAMED => format!("client {cluster}"),
            Self::Client(client) => client.name.clone(),
        }
    }

    /// Clients' certificates are good for clients only, so that none of them can pose as a node.
    pub(super) fn usages(&self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::Node(_) => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Self::Client(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node {node}"),
            Self::Client(client) => write!(f, "client {}", client.name),
        }
    }
}
