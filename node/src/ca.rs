//! `quoit ca`: a cluster's authority, and the certificates that it issues, renews, shows and revokes.

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, Subcommand};
use quoit_core::access::{Grant, ParseRoleError, Role};
use quoit_ring::{ClusterId, NodeId};

use crate::authority::{
    AUTHORITY_DAYS, Authority, AuthorityError, LEAF_DAYS, MembersError, REVOKED, Subject,
    parse_serial, prepare_members, put_renewed, show,
};
use crate::bearer::UNNAMED;
use crate::config::{Config, ConfigError};

/// A command that makes or looks at certificates.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "each variant is documented by its arguments")]
pub enum CaCommand {
    Init(InitArguments),
    Issue(IssueArguments),
    Renew(RenewArguments),
    Revoke(RevokeArguments),
    Show(ShowArguments),
    Members(MembersArguments),
}

/// Make an authority with a new cluster id.
#[derive(Debug, Args)]
pub struct InitArguments {
    /// Where authority.pem and authority.key are written.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Make another authority for this cluster, to take the place of the one it has.
    #[arg(long, value_name = "ID")]
    cluster: Option<ClusterId>,
    /// How long it is valid.
    #[arg(long, default_value_t = AUTHORITY_DAYS)]
    days: u32,
}

/// Make the certificate of a node or of a client.
///
/// Writes node.pem and node.key, or client.pem and client.key, and beside them authority.pem.
#[derive(Debug, Args)]
pub struct IssueArguments {
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The node's id, such as n1.
    #[arg(long, value_name = "ID", required_unless_present = "for_client")]
    node: Option<NodeId>,
    /// Make a client's certificate; by its name, [access] of the nodes' configuration gives it a role.
    #[arg(
        long,
        value_name = "NAME",
        num_args = 0..=1,
        default_missing_value = UNNAMED,
        conflicts_with = "node"
    )]
    for_client: Option<String>,
    /// The role that the certificate gives by itself: read-only, read-write or admin.
    #[arg(long, value_parser = parse_role, conflicts_with = "node")]
    role: Option<Role>,
    /// The role is had in this table only (may be repeated).
    #[arg(long, value_name = "NAME", requires = "role")]
    table: Vec<String>,
    /// Where a client finds nodes (may be repeated); client.toml is written with them.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "node")]
    contact_point: Vec<SocketAddr>,
    /// Where the files are written.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How long it is valid.
    #[arg(long, default_value_t = LEAF_DAYS)]
    days: u32,
}

/// Give certificates a new validity.
///
/// Names, rights and the private key stay; each file is replaced in one step. The key is not needed. For
/// a new key, issue a new certificate.
#[derive(Debug, Args)]
pub struct RenewArguments {
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The directory of the authority that issued them, where another one renews them.
    #[arg(long, value_name = "DIR")]
    former: Option<PathBuf>,
    /// The certificates' files.
    #[arg(value_name = "FILE", required = true)]
    certificates: Vec<PathBuf>,
    /// How long they are valid from now on.
    #[arg(long, default_value_t = LEAF_DAYS)]
    days: u32,
}

/// Revoke certificates.
///
/// They are put on the list DIR/revoked.pem. Copy it to every node, where [tls] revoked names it, and have
/// the nodes reload: connections that stand end too.
#[derive(Debug, Args)]
pub struct RevokeArguments {
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The certificates' files.
    #[arg(value_name = "FILE", required_unless_present = "serial")]
    certificates: Vec<PathBuf>,
    /// The serial number of a certificate that is lost (may be repeated).
    #[arg(long, value_name = "HEX")]
    serial: Vec<String>,
}

/// Show what certificates say: whose they are, their role, how long they are valid, who signed them.
#[derive(Debug, Args)]
pub struct ShowArguments {
    /// Files with certificates, or with lists of revoked ones.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The authorities' certificates [default: authority.pem beside each file].
    #[arg(long, value_name = "FILE")]
    authority: Option<PathBuf>,
}

/// Make the certificates of all members that a configuration lists.
///
/// Makes DIR/authority (to be kept safe), DIR/n1 and so on for the nodes, and DIR/client, whose role is
/// admin. What is there is left as it is.
#[derive(Debug, Args)]
pub struct MembersArguments {
    /// The configuration that lists the members.
    #[arg(long, value_name = "FILE", default_value = "/etc/quoit/quoit.toml")]
    config: PathBuf,
    /// Where everything is written.
    #[arg(long, value_name = "DIR", default_value = "/etc/quoit")]
    dir: PathBuf,
    /// Make an authority only if all members are on loopback.
    #[arg(long)]
    one_host: bool,
}

/// A command that did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The authority, or a certificate.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The members' certificates.
    #[error(transparent)]
    Members(#[from] MembersError),
    /// The configuration that lists the members.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Standard output was closed: whoever reads it has read enough.
    #[error("the output cannot be written")]
    Output(#[source] std::io::Error),
}

impl CaError {
    /// Whether it will be refused always; otherwise the system failed.
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Authority(error) | Self::Members(MembersError::Authority(error)) => {
                error.is_bad_input()
            }
            Self::Members(MembersError::SeveralHosts { .. }) | Self::Config(_) => true,
            Self::Members(MembersError::Directory { .. }) | Self::Output(_) => false,
        }
    }
}

fn parse_role(text: &str) -> Result<Role, Box<dyn Error + Send + Sync>> {
    match text.parse() {
        Ok(Role::None) => Err("a certificate gives read-only, read-write or admin".into()),
        Ok(role) => Ok(role),
        Err(error) => Err(ParseRoleError::into(error)),
    }
}

/// Runs one of the commands; results go to standard output, words for people to standard error.
///
/// # Errors
/// See [`CaError`].
pub fn run(command: &CaCommand, json: bool) -> Result<(), CaError> {
    match command {
        CaCommand::Init(arguments) => Ok(init(arguments)?),
        CaCommand::Issue(arguments) => Ok(issue(arguments)?),
        CaCommand::Renew(arguments) => Ok(renew(arguments)?),
        CaCommand::Revoke(arguments) => Ok(revoke(arguments)?),
        CaCommand::Show(arguments) => show_files(arguments, json),
        CaCommand::Members(arguments) => members(arguments),
    }
}

fn init(arguments: &InitArguments) -> Result<(), AuthorityError> {
    let InitArguments { dir, cluster, days } = arguments;
    let now = SystemTime::now();
    let authority = match cluster {
        Some(cluster) => Authority::create_for(*cluster, dir, *days, now)?,
        None => Authority::create(dir, *days, now)?,
    };
    println!("cluster {}", authority.cluster());
    eprintln!("authority.pem and authority.key are in {}: keep the key safe", dir.display());
    Ok(())
}

fn issue(arguments: &IssueArguments) -> Result<(), AuthorityError> {
    let authority = Authority::open(&arguments.dir)?;
    let (subject, stem) = match (arguments.node, &arguments.for_client) {
        (Some(node), _) => (Subject::Node(node), "node"),
        (None, name) => {
            let tables = arguments.table.clone();
            let grant = arguments.role.map(|role| Grant { role, tables });
            (Subject::client(name.as_deref().unwrap_or(UNNAMED), grant)?, "client")
        }
    };
    let issued = authority.issue(&subject, arguments.days, SystemTime::now())?;
    issued.write(&arguments.out, stem)?;
    authority.write_certificate(&arguments.out)?;
    if !arguments.contact_point.is_empty() {
        authority.write_client_configuration(&arguments.out, &arguments.contact_point)?;
    }
    eprintln!("{stem}.pem, {stem}.key and authority.pem are in {}", arguments.out.display());
    if matches!(&subject, Subject::Client(client) if client.grants.is_none()) {
        eprintln!(
            "it gives no role by itself: see [access] of the nodes' configuration, or --role"
        );
    }
    Ok(())
}

fn renew(arguments: &RenewArguments) -> Result<(), AuthorityError> {
    let authority = Authority::open(&arguments.dir)?;
    let former = arguments.former.as_deref().unwrap_or(&arguments.dir);
    // All or none of them.
    let renewed = arguments
        .certificates
        .iter()
        .map(|path| authority.renew(path, former, arguments.days, SystemTime::now()))
        .collect::<Result<Vec<_>, _>>()?;
    for (path, renewed) in arguments.certificates.iter().zip(renewed) {
        put_renewed(path, &renewed)?;
        println!("renewed {}: {}, serial {}", path.display(), renewed.subject, renewed.serial);
    }
    Ok(())
}

fn revoke(arguments: &RevokeArguments) -> Result<(), AuthorityError> {
    let authority = Authority::open(&arguments.dir)?;
    let (mut serials, mut told) = (Vec::new(), Vec::new());
    for path in &arguments.certificates {
        let (subject, serial) = authority.serial_of(path)?;
        told.push(format!("revoked {}: {subject}", path.display()));
        serials.push(serial);
    }
    for text in &arguments.serial {
        serials.push(parse_serial(text)?);
        told.push(format!("revoked {text}"));
    }
    let count = authority.revoke(&arguments.dir, &serials, SystemTime::now())?;
    told.iter().for_each(|line| println!("{line}"));
    eprintln!(
        "{} lists {count} now: copy it to every node ([tls] revoked), and have them reload",
        arguments.dir.join(REVOKED).display()
    );
    Ok(())
}

fn show_files(arguments: &ShowArguments, json: bool) -> Result<(), CaError> {
    let now = SystemTime::now();
    let mut documents = Vec::new();
    let mut text = String::new();
    for path in &arguments.files {
        for shown in show(path, arguments.authority.as_deref(), now)? {
            let mut document = shown.json();
            document["file"] = path.display().to_string().into();
            documents.push(document);
            text.push_str(&format!("{}\n{}", path.display(), shown.text()));
        }
    }
    if json {
        text = format!("{}\n", serde_json::Value::Array(documents));
    }
    write_out(&text)
}

fn members(arguments: &MembersArguments) -> Result<(), CaError> {
    let members = Config::load_members(&arguments.config)?;
    let directory: &Path = &arguments.dir;
    let prepared = prepare_members(directory, &members, arguments.one_host, SystemTime::now())?;
    let mut text = format!("cluster {}\n", prepared.cluster);
    for place in &prepared.made {
        text.push_str(&format!("made {}\n", place.display()));
    }
    write_out(&text)
}

fn write_out(text: &str) -> Result<(), CaError> {
    use std::io::{ErrorKind, Write};
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(CaError::Output(error)),
        _ => Ok(()),
    }
}
