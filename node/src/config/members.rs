//! Which node this is, and which members the cluster is first made of: the two lists are checked
//! together, and what one does not say of a node's address the other does.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use quoit_ring::{ClusterId, Member, VnodeCount, Zone};

use super::document::Section;
use super::{
    ClusterSettings, HTTP_PORT_OFFSET, LISTEN, NodeSettings, REPLICATION, TlsSettings, address,
    address_or, non_empty,
};
use crate::authority::cluster_of;

/// Members of a configuration's list, at most.
const MEMBERS_MAX: usize = 4_096;
/// A datacenter's or rack's name is never longer, in bytes.
const ZONE_NAME_BYTES_MAX: usize = 64;

/// A node's settings, before the list of members has had its say.
pub(super) struct NodeDraft {
    pub(super) settings: NodeSettings,
    /// Whether neither address is written.
    listens_as_member: bool,
}

pub(super) fn read_node(section: &mut Section<'_>, directory: &Path) -> Option<NodeDraft> {
    let id = section.required("id", "\"n1\"");
    let id = section.meaning("id", id);
    let data_directory = section.required("data_directory", "\"data\"");
    let data_directory = non_empty(section, "data_directory", data_directory);
    let listen = address_or(section, "listen", LISTEN);
    let advertise = address_or(section, "advertise", listen.unwrap_or(LISTEN));
    if advertise.is_some_and(|address| address.ip().is_unspecified()) {
        section.wrong(
            "advertise",
            "others cannot reach the address that says \"any\"; write this host's own",
        );
    }
    let listens_as_member = !section.has("listen") && !section.has("advertise");
    let settings = NodeSettings {
        id: id?,
        data_directory: directory.join(data_directory?),
        listen: listen?,
        advertise: advertise?,
    };
    Some(NodeDraft { settings, listens_as_member })
}

/// On loopback, near the node's own port, so that several nodes on a host differ.
pub(super) fn http_listen(node: Option<&NodeSettings>) -> SocketAddr {
    let port = node.map_or(LISTEN.port(), |node| node.listen.port());
    (Ipv4Addr::LOCALHOST, port.checked_add(HTTP_PORT_OFFSET).unwrap_or(port)).into()
}

pub(super) fn read_cluster(
    section: &mut Section<'_>,
    node: Option<&mut NodeDraft>,
    tls: Option<&TlsSettings>,
) -> Option<ClusterSettings> {
    let id = read_cluster_id(section, tls);
    let vnodes =
        section.number("vnodes", 1..=VnodeCount::MAX.into(), VnodeCount::DEFAULT.get().into());
    let vnodes = u32::try_from(vnodes).map_or(Ok(VnodeCount::DEFAULT), VnodeCount::new);
    let vnodes = vnodes.map_err(|error| section.wrong("vnodes", error)).ok();
    let members = read_members(section);
    if let Some(draft) = node {
        let own = members.iter().find(|member| member.id == draft.settings.id);
        if let (Some(own), true) = (own, draft.listens_as_member) {
            draft.settings.listen = own.address;
            draft.settings.advertise = own.address;
        }
        check_own(section, &members, &draft.settings);
    }
    let count = u8::try_from(members.len()).unwrap_or(u8::MAX).max(1);
    let replication = section.number("replication", 1..=255, REPLICATION.min(count).into());
    let replication = u8::try_from(replication).unwrap_or(REPLICATION);
    if replication > count && !members.is_empty() {
        section.wrong(
            "replication",
            format!("{replication} replicas need as many members, and the list has {count}"),
        );
    }
    Some(ClusterSettings { id: id?, vnodes: vnodes?, replication, members })
}

/// As it is written, or else as the authority's certificate says.
fn read_cluster_id(section: &mut Section<'_>, tls: Option<&TlsSettings>) -> Option<ClusterId> {
    if section.has("id") {
        let id = section.text("id");
        return section.meaning("id", id);
    }
    let found = cluster_of(&tls?.authority).map_err(|error| {
        section.wrong(
            "id",
            format!("is not written, and the authority's certificate does not say it: {error}"),
        );
    });
    section.knows("id");
    found.ok()
}

/// The initial members, ascending by id, as far as they are right.
pub(super) fn read_members(section: &mut Section<'_>) -> Vec<Member> {
    let mut members: Vec<Member> =
        section.list("members", "cluster.members", read_member).into_iter().flatten().collect();
    members.sort_by_key(|member| member.id);
    check_members(section, &members);
    members
}

fn read_member(section: &mut Section<'_>) -> Option<Member> {
    let id = section.required("id", "\"n1\"");
    let id = section.meaning("id", id);
    section.required("address", "\"192.0.2.1:7101\"");
    let address = address(section, "address");
    if address.is_some_and(|address| address.ip().is_unspecified()) {
        section.wrong("address", "is no address that others can reach");
    }
    let datacenter = section.text("datacenter").unwrap_or_else(|| "local".to_owned());
    let datacenter = zone_name(section, "datacenter", datacenter);
    let rack = section.text("rack").unwrap_or_else(|| "r1".to_owned());
    let rack = zone_name(section, "rack", rack);
    let capacity = section.number("capacity", 1..=1_000_000, 1);
    let zone = Zone { datacenter: datacenter?, rack: rack? };
    Some(Member { id: id?, address: address?, zone, capacity: u32::try_from(capacity).ok()? })
}

/// What concerns several members at once.
fn check_members(section: &mut Section<'_>, members: &[Member]) {
    if !section.file_has("members") {
        section
            .wrong("members", "is missing: write [[cluster.members]] once for each initial member");
        return;
    }
    if members.len() > MEMBERS_MAX {
        section.wrong("members", format!("{} are too many: at most {MEMBERS_MAX}", members.len()));
        return;
    }
    for pair in members.windows(2).filter(|pair| pair[0].id == pair[1].id) {
        section.wrong("members", format!("{} is listed twice", pair[0].id));
    }
    let mut addresses = BTreeSet::new();
    for member in members {
        if !addresses.insert(member.address) {
            section.wrong("members", format!("two members have the address {}", member.address));
        }
    }
}

/// What concerns this node among the members.
fn check_own(section: &mut Section<'_>, members: &[Member], node: &NodeSettings) {
    if !section.file_has("members") {
        return;
    }
    match members.iter().find(|member| member.id == node.id) {
        None => section.wrong(
            "members",
            format!("this node, {}, is not among them: add it, on all members alike", node.id),
        ),
        Some(member) if member.address != node.advertise => section.wrong(
            "members",
            format!(
                "{} has the address {} there, but node.advertise (or node.listen) says {}",
                node.id, member.address, node.advertise
            ),
        ),
        Some(_) => {}
    }
}

fn zone_name(section: &mut Section<'_>, key: &'static str, name: String) -> Option<String> {
    let printable = name.chars().all(|c| !c.is_control() && !c.is_whitespace() && c != '/');
    if name.is_empty() || name.len() > ZONE_NAME_BYTES_MAX || !printable {
        let message =
            format!("write a name of 1 to {ZONE_NAME_BYTES_MAX} bytes without spaces and '/'");
        section.wrong(key, message);
        return None;
    }
    Some(name)
}
