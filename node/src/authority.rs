//! The cluster's authority: a certificate of our own making that names the cluster, and the
//! certificates of nodes and clients that it signs (`quoit ca`).
//!
//! Names are DNS names under `<cluster id>.quoit`, which no resolver knows: node 7 is
//! `n7.<cluster>.quoit` and `node.<cluster>.quoit` (for clients that ask any node), a client is
//! `<name>.client.<cluster>.quoit`, with a URI for each of its roles (see [`bearer`](crate::bearer)). The
//! authority's certificate permits no DNS name outside its cluster. A cluster may have several
//! authorities, one of which takes the place of the other in the end: their common names differ by their
//! keys, so that their lists of revoked certificates are told apart.
//!
//! Keys are P-256, kept in files that only their owner may read. Nothing is ever overwritten but what
//! is renewed: a certificate, and the list of revoked ones.

mod check;
mod file;
mod members;
mod parsed;
mod renewal;
mod shown;
mod subject;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use quoit_ring::ClusterId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints, PublicKeyData, SanType,
};
use time::OffsetDateTime;

pub use check::{CheckError, check_credentials, cluster_of};
pub use members::{MembersError, Prepared, prepare_members};
pub(crate) use parsed::{Parsed, ParsedList, date, hex};
pub use renewal::{REVOKED, Renewed, parse_serial, put_renewed};
pub use shown::{Shown, show};
pub use subject::Subject;

use file::{read, write_new};

/// The authority's certificate, in its directory.
pub const AUTHORITY_CERTIFICATE: &str = "authority.pem";
/// The authority's private key, in its directory.
pub const AUTHORITY_KEY: &str = "authority.key";
/// A client's configuration, in its directory.
pub const CLIENT_CONFIGURATION: &str = "client.toml";
/// How long an authority is valid when nobody says otherwise, in days.
pub const AUTHORITY_DAYS: u32 = 3_653;
/// How long a node's or a client's certificate is valid when nobody says otherwise, in days.
pub const LEAF_DAYS: u32 = 365;
/// No certificate is valid for longer, in days.
pub const DAYS_MAX: u32 = 36_525;

/// Certificates are valid from a little before they are made: clocks differ.
const BACKDATED: Duration = Duration::from_secs(3_600);
const SECONDS_PER_DAY: u64 = 86_400;
/// The mode of a key that only its owner reads.
const OWNER_ONLY: u32 = 0o600;

/// The name that every node of a cluster bears besides its own.
pub fn node_name(cluster: ClusterId) -> String {
    format!("node.{cluster}.quoit")
}

/// What went wrong with an authority or a certificate. What already existed is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is such a file already. Choose another place, or remove it if it may be lost.
    #[error("{} exists already and is not overwritten", .0.display())]
    Exists(PathBuf),
    /// The authority is not there. Make one, or name its directory.
    #[error("{} does not exist: make an authority with `quoit ca init`, or name its directory", .0.display())]
    Missing(PathBuf),
    /// A file is not what its name says. Bring it back from a backup.
    #[error("{} cannot be used: {message}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file could not be read or written. Some of the files may have been made.
    #[error("{} cannot be {action}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The validity is out of range. Nothing was made.
    #[error("a validity of {0} days: choose from 1 to {DAYS_MAX}")]
    Validity(u32),
    /// The certificate is not one that this authority renews or revokes. Nothing was made.
    #[error("{}: {message}", path.display())]
    NotIssued {
        /// Its file.
        path: PathBuf,
        /// Why not.
        message: String,
    },
    /// A client may not be called so. Nothing was made.
    #[error("a client's name is 1 to 63 lower-case letters, digits and '-', not {0:?}")]
    Name(String),
    /// A role is not had so. Nothing was made.
    #[error("the role cannot be given: {0}")]
    Grant(String),
    /// A text is no serial number. Nothing was made.
    #[error(
        "{0:?} is no serial number: write its bytes as hexadecimal digits, as `quoit ca show` does"
    )]
    Serial(String),
    /// The system's clock is before 1970 or far in the future. Nothing was made.
    #[error("the system's clock is set to an impossible time")]
    Clock,
    /// The system gives no random numbers, or the library refused. Nothing was made.
    #[error("a key or certificate cannot be made: {0}")]
    Making(String),
}

impl AuthorityError {
    /// Whether what was asked will be refused always; otherwise the system failed.
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Exists(_)
            | Self::Missing(_)
            | Self::Unusable { .. }
            | Self::Validity(_)
            | Self::NotIssued { .. }
            | Self::Name(_)
            | Self::Grant(_)
            | Self::Serial(_) => true,
            Self::File { .. } | Self::Clock | Self::Making(_) => false,
        }
    }
}

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Making(error.to_string())
    }
}

/// A certificate and its key, as PEM texts, not yet in any file.
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key.
    pub key_pem: String,
}

impl Issued {
    /// Writes `STEM.pem` and `STEM.key` (mode 0600) to a directory, which is made where it is
    /// missing.
    ///
    /// # Errors
    /// [`AuthorityError::Exists`] where one of them is there.
    pub fn write(&self, directory: &Path, stem: &str) -> Result<(), AuthorityError> {
        self.write_for(directory, stem, OWNER_ONLY)
    }

    /// As [`Issued::write`], with another mode for the key.
    fn write_for(&self, directory: &Path, stem: &str, key_mode: u32) -> Result<(), AuthorityError> {
        let certificate = directory.join(format!("{stem}.pem"));
        let key = directory.join(format!("{stem}.key"));
        write_pair(&certificate, &self.certificate_pem, &key, &self.key_pem, key_mode)
    }
}

/// A cluster's authority, able to sign.
pub struct Authority {
    cluster: ClusterId,
    common_name: String,
    certificate_pem: String,
    key: KeyPair,
}

impl Authority {
    /// Makes an authority with a new random cluster id and writes its two files to `directory`.
    ///
    /// # Errors
    /// See [`AuthorityError`]; an existing authority is never overwritten.
    pub fn create(directory: &Path, days: u32, now: SystemTime) -> Result<Self, AuthorityError> {
        Self::create_for(draw_cluster_id()?, directory, days, now)
    }

    /// As [`Authority::create`], for a cluster that is there: to take the place of its authority.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub fn create_for(
        cluster: ClusterId,
        directory: &Path,
        days: u32,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let print = digest(&SHA256, &key.subject_public_key_info());
        let common_name = format!("quoit authority {cluster} {}", hex(&print.as_ref()[..4]));
        let mut params = authority_params(cluster, &common_name)?;
        (params.not_before, params.not_after) = validity(days, now)?;
        let certificate_pem = params.self_signed(&key)?.pem();
        write_pair(
            &directory.join(AUTHORITY_CERTIFICATE),
            &certificate_pem,
            &directory.join(AUTHORITY_KEY),
            &key.serialize_pem(),
            OWNER_ONLY,
        )?;
        Ok(Self { cluster, common_name, certificate_pem, key })
    }

    /// Reads the authority that lies in `directory`.
    ///
    /// # Errors
    /// See [`AuthorityError`]; certificate and key are checked to belong together.
    pub fn open(directory: &Path) -> Result<Self, AuthorityError> {
        let certificate_path = directory.join(AUTHORITY_CERTIFICATE);
        let key_path = directory.join(AUTHORITY_KEY);
        let certificate_pem = read(&certificate_path)?;
        let key_pem = read(&key_path)?;
        let unusable = |path: &Path, message: String| AuthorityError::Unusable {
            path: path.to_owned(),
            message,
        };
        let cluster = check::cluster_of_authority(&certificate_pem)
            .map_err(|message| unusable(&certificate_path, message))?;
        let parsed = Parsed::read_pem(certificate_pem.as_bytes())
            .map_err(|message| unusable(&certificate_path, message))?;
        let key =
            KeyPair::from_pem(&key_pem).map_err(|error| unusable(&key_path, error.to_string()))?;
        check::keys_match(&certificate_pem, &key_pem)
            .map_err(|message| unusable(&key_path, message))?;
        let common_name = parsed[0].subject.clone();
        Ok(Self { cluster, common_name, certificate_pem, key })
    }

    /// The cluster that this is the authority of.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Writes the authority's certificate (not its key) to `directory`, where nodes and clients look
    /// for it; the same certificate there is left as it is.
    ///
    /// # Errors
    /// [`AuthorityError::Exists`] where another one is there.
    pub fn write_certificate(&self, directory: &Path) -> Result<(), AuthorityError> {
        let path = directory.join(AUTHORITY_CERTIFICATE);
        match read(&path) {
            Ok(there) if there == self.certificate_pem => Ok(()),
            Err(AuthorityError::Missing(_)) => write_new(&path, &self.certificate_pem, 0o644),
            Ok(_) => Err(AuthorityError::Exists(path)),
            Err(error) => Err(error),
        }
    }

    /// Writes `client.toml` for a client whose files [`Issued::write`] put beside it under the name
    /// `client`.
    ///
    /// # Errors
    /// [`AuthorityError::Exists`] where there is one.
    pub fn write_client_configuration(
        &self,
        directory: &Path,
        contact_points: &[SocketAddr],
    ) -> Result<(), AuthorityError> {
        let text = client_configuration(self.cluster, contact_points);
        write_new(&directory.join(CLIENT_CONFIGURATION), &text, 0o644)
    }

    /// The authority's certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Makes a key and signs its certificate. Nothing is written.
    ///
    /// # Errors
    /// [`AuthorityError::Validity`], [`AuthorityError::Clock`], [`AuthorityError::Making`].
    pub fn issue(
        &self,
        subject: &Subject,
        days: u32,
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let (certificate_pem, _) = self.sign(subject, days, now, &key)?;
        Ok(Issued { certificate_pem, key_pem: key.serialize_pem() })
    }

    /// Signs a certificate of a key that is there; gives its serial number too.
    fn sign(
        &self,
        subject: &Subject,
        days: u32,
        now: SystemTime,
        key: &impl PublicKeyData,
    ) -> Result<(String, String), AuthorityError> {
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = validity(days, now)?;
        let (number, serial) = renewal::draw_serial()?;
        params.serial_number = Some(number);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject.title(self.cluster));
        params.subject_alt_names = subject.alternative_names(self.cluster)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = subject.usages();
        params.use_authority_key_identifier_extension = true;
        Ok((params.signed_by(key, &self.issuer()?)?.pem(), serial))
    }

    fn issuer(&self) -> Result<Issuer<'_, &KeyPair>, AuthorityError> {
        Ok(Issuer::new(authority_params(self.cluster, &self.common_name)?, &self.key))
    }
}

/// The text of `client.toml`.
pub fn client_configuration(cluster: ClusterId, contact_points: &[SocketAddr]) -> String {
    let addresses: Vec<_> = contact_points.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "cluster = \"{cluster}\"\ncontact_points = [{}]\nauthority = \"{AUTHORITY_CERTIFICATE}\"\n\
         certificate = \"client.pem\"\nkey = \"client.key\"\n",
        addresses.join(", ")
    )
}

/// All of the authority's certificate but its validity: it follows from the cluster's id and the common
/// name, so that an issuer can be made again from these and the key.
fn authority_params(
    cluster: ClusterId,
    common_name: &str,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names = dns_names(vec![check::authority_name(cluster)])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(format!("{cluster}.quoit"))],
        excluded_subtrees: Vec::new(),
    });
    Ok(params)
}

fn dns_names(names: Vec<String>) -> Result<Vec<SanType>, AuthorityError> {
    names.into_iter().map(|name| Ok(SanType::DnsName(name.try_into()?))).collect()
}

fn validity(
    days: u32,
    now: SystemTime,
) -> Result<(OffsetDateTime, OffsetDateTime), AuthorityError> {
    if days == 0 || days > DAYS_MAX {
        return Err(AuthorityError::Validity(days));
    }
    let now = now.duration_since(UNIX_EPOCH).map_err(|_| AuthorityError::Clock)?;
    let date = |seconds: u64| {
        i64::try_from(seconds)
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .ok_or(AuthorityError::Clock)
    };
    let length = u64::from(days) * SECONDS_PER_DAY;
    Ok((
        date(now.saturating_sub(BACKDATED).as_secs())?,
        date(now.as_secs().saturating_add(length))?,
    ))
}

fn draw_cluster_id() -> Result<ClusterId, AuthorityError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| AuthorityError::Making(error.to_string()))?;
    Ok(ClusterId(u128::from_be_bytes(bytes)))
}

/// Writes both or, where one of them exists, neither. The certificate comes last: whoever finds it
/// finds the key too.
fn write_pair(
    certificate: &Path,
    certificate_pem: &str,
    key: &Path,
    key_pem: &str,
    key_mode: u32,
) -> Result<(), AuthorityError> {
    for path in [certificate, key] {
        if path.exists() {
            return Err(AuthorityError::Exists(path.to_owned()));
        }
    }
    write_new(key, key_pem, key_mode)?;
    write_new(certificate, certificate_pem, 0o644)
}
