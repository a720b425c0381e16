//! The certificates of all members of a cluster at once, for a package's configuration directory.
//!
//! ```text
//! DIR/authority/authority.{pem,key}   for its owner only: whoever has the key makes nodes
//! DIR/n1/node.{pem,key}               and authority.pem; the key may be read by DIR's group
//! DIR/client/client.toml              and client.{pem,key}, authority.pem; for its owner only; its
//!                                     role is admin
//! ```
//!
//! What is there is left as it is, so that a preparation that was cut short is continued. Files take
//! the group of `DIR` where that has its setgid bit, as the package makes it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use quoit_ring::{ClusterId, Member};

use super::file::{read, write_new};
use super::{
    AUTHORITY_CERTIFICATE, AUTHORITY_DAYS, AUTHORITY_KEY, Authority, AuthorityError,
    CLIENT_CONFIGURATION, LEAF_DAYS, OWNER_ONLY, Subject, client_configuration,
};

/// The authority's place in the directory.
const AUTHORITY_DIRECTORY: &str = "authority";
/// The client's place in the directory.
const CLIENT_DIRECTORY: &str = "client";
/// A node's key is read by the group that its program runs in.
const GROUP_READS: u32 = 0o640;

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The cluster.
    pub cluster: ClusterId,
    /// The directories that got a certificate; none where all were there.
    pub made: Vec<PathBuf>,
}

/// Certificates that could not all be made. Those that were are kept, and not made again.
#[derive(Debug, thiserror::Error)]
pub enum MembersError {
    /// The authority, or one of its files.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// There is no authority here, and one must not be made by itself.
    #[error(
        "{} does not exist, and the members are on several hosts, which must share one authority: \
         run this command without --one-host on one of them, and copy {}/nN to the host of nN",
        authority.display(), directory.display()
    )]
    SeveralHosts {
        /// Where the authority would be.
        authority: PathBuf,
        /// The directory.
        directory: PathBuf,
    },
    /// A directory cannot be made.
    #[error("{} cannot be made", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Makes what is missing of the authority and of the certificates of `members` and of one client.
///
/// With `one_host`, an authority is only made for members that are all on loopback: hosts that made
/// one each would be clusters of their own.
///
/// # Errors
/// See [`MembersError`].
pub fn prepare_members(
    directory: &Path,
    members: &[Member],
    one_host: bool,
    now: SystemTime,
) -> Result<Prepared, MembersError> {
    let authority = open_authority(directory, members, one_host, now)?;
    let mut made = Vec::new();
    for member in members {
        let place = directory.join(member.id.to_string());
        // The mode's upper bits come from the directory above.
        make_directory(&place, 0o750)?;
        if issue(&authority, &Subject::Node(member.id), &place, "node", GROUP_READS, now)? {
            made.push(place);
        }
    }
    let place = directory.join(CLIENT_DIRECTORY);
    make_directory(&place, 0o700)?;
    if issue(&authority, &Subject::admin(), &place, "client", OWNER_ONLY, now)? {
        let addresses: Vec<_> = members.iter().map(|member| member.address).collect();
        let text = client_configuration(authority.cluster(), &addresses);
        let path = place.join(CLIENT_CONFIGURATION);
        if !path.exists() {
            write_new(&path, &text, 0o644)?;
        }
        made.push(place);
    }
    Ok(Prepared { cluster: authority.cluster(), made })
}

fn open_authority(
    directory: &Path,
    members: &[Member],
    one_host: bool,
    now: SystemTime,
) -> Result<Authority, MembersError> {
    let place = directory.join(AUTHORITY_DIRECTORY);
    let there = |name| place.join(name).exists();
    if there(AUTHORITY_CERTIFICATE) || there(AUTHORITY_KEY) {
        return Ok(Authority::open(&place)?);
    }
    if one_host && !members.iter().all(|member| member.address.ip().is_loopback()) {
        let directory = directory.to_owned();
        return Err(MembersError::SeveralHosts { authority: place, directory });
    }
    make_directory(&place, 0o700)?;
    Ok(Authority::create(&place, AUTHORITY_DAYS, now)?)
}

/// Whether anything was missing.
fn issue(
    authority: &Authority,
    subject: &Subject,
    place: &Path,
    stem: &str,
    key_mode: u32,
    now: SystemTime,
) -> Result<bool, MembersError> {
    let certificate = place.join(format!("{stem}.pem"));
    let is_missing = matches!(read(&certificate), Err(AuthorityError::Missing(_)));
    if is_missing {
        // A key without its certificate is what is left of a preparation that was cut short.
        let _ = fs::remove_file(place.join(format!("{stem}.key")));
        authority.write_certificate(place)?;
        authority.issue(subject, LEAF_DAYS, now)?.write_for(place, stem, key_mode)?;
    }
    Ok(is_missing)
}

fn make_directory(path: &Path, mode: u32) -> Result<(), MembersError> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(MembersError::Directory { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
