//! `[access]`: which client has which role.

use std::collections::BTreeMap;

use quoit_core::access::{Grant, Rights, Role};

use super::document::Section;
use crate::bearer::Bearer;

/// A client's name is never longer here, in characters.
const NAME_LENGTH_MAX: usize = 255;

/// `[access]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessSettings {
    /// `default_role`: that of clients which are not named here and whose certificate gives them none;
    /// where it is not written, `none`, or `admin` in a cluster that only its own host reaches.
    pub default_role: Option<Role>,
    /// `[[access.clients]]`: what a client of that name may; its certificate's roles do not count then.
    pub clients: BTreeMap<String, Vec<Grant>>,
}

/// The same, with the default that holds for the node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessRules {
    default_role: Role,
    clients: BTreeMap<String, Vec<Grant>>,
}

impl AccessSettings {
    /// The rules, for a cluster that only its own host reaches, or for another.
    pub fn rules(&self, is_local: bool) -> AccessRules {
        let usual = if is_local { Role::Admin } else { Role::None };
        let default_role = self.default_role.unwrap_or(usual);
        AccessRules { default_role, clients: self.clients.clone() }
    }
}

impl AccessRules {
    /// What the bearer of a certificate may.
    pub fn rights_of(&self, bearer: &Bearer) -> Rights {
        match bearer {
            Bearer::Node(node) => Rights::all(format!("node {node}")),
            Bearer::Client(client) => self.rights_by_name(&client.name, client.grants.as_deref()),
        }
    }

    /// What whoever is known by a name may: what is written here of it, or else what it brings with it,
    /// or else the default.
    pub fn rights_by_name(&self, name: &str, own: Option<&[Grant]>) -> Rights {
        match self.clients.get(name).map(Vec::as_slice).or(own) {
            Some(grants) => Rights::new(name, grants),
            None => Rights::new(name, &[Grant { role: self.default_role, tables: Vec::new() }]),
        }
    }
}

pub(super) fn read(section: &mut Section<'_>) -> AccessSettings {
    let text = section.text("default_role");
    let default_role = section.meaning("default_role", text);
    let mut clients: BTreeMap<String, Vec<Grant>> = BTreeMap::new();
    let given = section.list("clients", "access.clients", read_client);
    for (name, grant) in given.into_iter().flatten() {
        clients.entry(name).or_default().push(grant);
    }
    AccessSettings { default_role, clients }
}

fn read_client(section: &mut Section<'_>) -> Option<(String, Grant)> {
    let name = section.required("name", "\"shop\"");
    let text = section.required("role", "\"read-only\"");
    let role = section.meaning("role", text);
    let tables = section.texts("tables");
    if section.has("tables") && tables.as_ref().is_some_and(Vec::is_empty) {
        section.wrong("tables", "is empty: leave it out, and the role is had in all tables");
    }
    let name = name?;
    if name.is_empty() || name.chars().count() > NAME_LENGTH_MAX {
        section.wrong("name", format!("write a name of 1 to {NAME_LENGTH_MAX} characters"));
        return None;
    }
    Some((name, Grant { role: role?, tables: tables.unwrap_or_default() }))
}
