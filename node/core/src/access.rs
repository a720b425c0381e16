//! Who may do what: each client has a role, everywhere or in some tables, and every request needs one.
//!
//! Whoever the driver found at the other end of a connection comes with each request as [`Rights`],
//! and [`Rights::forbid`] is asked once, before anything is begun. Peers have no roles: a node that
//! coordinates or holds has the authority's word that it is a node, and the client was asked for its
//! rights where it came in.
//!
//! The invariant: what no role allows is refused. A table that this node does not know is refused
//! later, by everything that looks it up; until then it is nobody's.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use quoit_protocol::snapshot::SnapshotAction;
use quoit_protocol::{ClientRequest, TableChange};
use quoit_ring::{ClusterRecord, TableId};

/// What a client may do; each role may what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Role {
    /// Nothing.
    #[default]
    None,
    /// Read, scan and export.
    ReadOnly,
    /// Write and delete as well.
    ReadWrite,
    /// Make and drop tables as well and, with the role everywhere, operate the cluster.
    Admin,
}

impl Role {
    /// All roles, the least first.
    pub const ALL: [Self; 4] = [Self::None, Self::ReadOnly, Self::ReadWrite, Self::Admin];

    /// Its name in configurations, certificates and commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "read-write",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role: choose \"none\", \"read-only\", \"read-write\" or \"admin\"")]
pub struct ParseRoleError(String);

impl FromStr for Role {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| ParseRoleError(text.chars().take(64).collect()))
    }
}

/// A role, and where it is had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// The names of the tables in which it is had; everywhere where there are none.
    pub tables: Vec<String>,
}

/// What a client may do, and by what name it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    name: String,
    everywhere: Role,
    tables: BTreeMap<String, Role>,
}

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need<'a> {
    /// Any role anywhere: the list of members and tables.
    Connect,
    /// Reading a table.
    Read(&'a str),
    /// Writing to a table.
    Write(&'a str),
    /// Making or dropping a table.
    Change(&'a str),
    /// Seeing how nodes are.
    Observe,
    /// Telling nodes what to do.
    Operate,
}

impl Rights {
    /// What grants give together.
    pub fn new(name: impl Into<String>, grants: &[Grant]) -> Self {
        let mut rights =
            Self { name: name.into(), everywhere: Role::None, tables: BTreeMap::new() };
        for Grant { role, tables } in grants {
            if tables.is_empty() {
                rights.everywhere = rights.everywhere.max(*role);
            }
            for table in tables {
                let there = rights.tables.entry(table.clone()).or_default();
                *there = (*there).max(*role);
            }
        }
        rights
    }

    /// All rights, as nodes have them among themselves.
    pub fn all(name: impl Into<String>) -> Self {
        Self::new(name, &[Grant { role: Role::Admin, tables: Vec::new() }])
    }

    /// By what name the client is known.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The role in a table.
    pub fn role_in(&self, table: &str) -> Role {
        self.tables.get(table).copied().unwrap_or_default().max(self.everywhere)
    }

    /// Why something is not allowed; `None` where it is.
    pub fn refuse(&self, need: Need<'_>) -> Option<String> {
        let has_any =
            self.everywhere > Role::None || self.tables.values().any(|role| *role > Role::None);
        let (what, table, needed, had) = match need {
            Need::Connect if has_any => return None,
            Need::Connect => ("use this cluster", None, Role::ReadOnly, Role::None),
            Need::Read(table) => ("read", Some(table), Role::ReadOnly, self.role_in(table)),
            Need::Write(table) => ("write to", Some(table), Role::ReadWrite, self.role_in(table)),
            Need::Change(table) => ("make or drop", Some(table), Role::Admin, self.role_in(table)),
            Need::Observe => ("see how nodes are", None, Role::ReadOnly, self.everywhere),
            Need::Operate => ("tell nodes what to do", None, Role::Admin, self.everywhere),
        };
        if had >= needed {
            return None;
        }
        let name = &self.name;
        Some(match table {
            Some(table) => format!(
                "{name} may not {what} table {table}: its role there is {had}, and {needed} is \
                 needed; whoever runs the cluster gives it, in [access] of the nodes' configuration \
                 or with a new certificate"
            ),
            None => format!(
                "{name} may not {what}: its role (in all tables) is {had}, and {needed} is needed; \
                 whoever runs the cluster gives it, in [access] of the nodes' configuration or with \
                 a new certificate"
            ),
        })
    }

    /// Why a client's request is not allowed; `None` where it is.
    pub fn forbid(
        &self,
        message: &ClientRequest,
        record: Option<&ClusterRecord>,
    ) -> Option<String> {
        let name_of = |table: TableId| {
            record.and_then(|record| record.table_by_id(table)).map(|table| table.name.as_str())
        };
        let need = match message {
            ClientRequest::Hello(_) | ClientRequest::AskRecord(_) => Need::Connect,
            ClientRequest::Get(get) => name_of(get.head.table).map_or(Need::Connect, Need::Read),
            ClientRequest::Scan(scan) => name_of(scan.head.table).map_or(Need::Connect, Need::Read),
            ClientRequest::Export(export) => {
                name_of(export.head.table).map_or(Need::Connect, Need::Read)
            }
            ClientRequest::Write(write) => {
                name_of(write.head.table).map_or(Need::Connect, Need::Write)
            }
            ClientRequest::ChangeTables(change) => match &change.change {
                TableChange::Create { name, .. } | TableChange::Drop { name } => Need::Change(name),
            },
            ClientRequest::AskStatus(_) | ClientRequest::AskActivity(_) => Need::Observe,
            ClientRequest::AskRepair(what) if !what.run => Need::Observe,
            ClientRequest::AskSnapshots(asked) if asked.action == SnapshotAction::List => {
                Need::Observe
            }
            ClientRequest::AskRepair(_)
            | ClientRequest::AcceptLoss(_)
            | ClientRequest::AskSnapshots(_) => Need::Operate,
        };
        self.refuse(need)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(role: Role, tables: &[&str]) -> Grant {
        Grant { role, tables: tables.iter().map(|table| (*table).to_owned()).collect() }
    }

    #[test]
    fn each_role_allows_what_its_table_says_and_no_more() {
        // Connect, read, write, change in table t, observe, operate.
        let needs = [
            Need::Connect,
            Need::Read("t"),
            Need::Write("t"),
            Need::Change("t"),
            Need::Observe,
            Need::Operate,
        ];
        for (grants, allowed) in [
            (vec![], [false; 6]),
            (vec![grant(Role::None, &[])], [false; 6]),
            (vec![grant(Role::ReadOnly, &[])], [true, true, false, false, true, false]),
            (vec![grant(Role::ReadWrite, &[])], [true, true, true, false, true, false]),
            (vec![grant(Role::Admin, &[])], [true; 6]),
            (vec![grant(Role::ReadOnly, &["t"])], [true, true, false, false, false, false]),
            (vec![grant(Role::ReadWrite, &["t"])], [true, true, true, false, false, false]),
            (vec![grant(Role::Admin, &["t"])], [true, true, true, true, false, false]),
            (vec![grant(Role::Admin, &["other"])], [true, false, false, false, false, false]),
            (
                vec![grant(Role::ReadOnly, &[]), grant(Role::ReadWrite, &["t"])],
                [true, true, true, false, true, false],
            ),
        ] {
            let rights = Rights::new("shop", &grants);
            let found = needs.map(|need| rights.refuse(need).is_none());
            assert_eq!(found, allowed, "{grants:?}");
        }
    }

    #[test]
    fn a_refusal_says_who_what_and_how_to_get_it() {
        let rights = Rights::new("shop", &[grant(Role::ReadOnly, &["carts"])]);
        let text = rights.refuse(Need::Write("carts")).expect("it may not");
        let begins =
            "shop may not write to table carts: its role there is read-only, and read-write";
        assert!(text.starts_with(begins), "{text}");
    }

    #[test]
    fn roles_have_names_that_are_read_again() {
        for role in Role::ALL {
            assert_eq!(role.name().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().unwrap_err().to_string().contains("\"read-only\""));
    }
}
