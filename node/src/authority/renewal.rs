//! What becomes of certificates after they were issued: renewed, or revoked.
//!
//! A renewed certificate has the names and rights of the old one, and the same key, so that one file
//! changes, in one step, and no private key has to come to the authority. Its serial number is new:
//! revoking one of them leaves the other.
//!
//! Revoked certificates are in a list (CRL, RFC 5280) in the authority's directory, which it signs. Nodes
//! have a copy (`[tls] revoked`).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};

use super::file::{read, replace};
use super::parsed::{Parsed, ParsedList, hex};
use super::{AUTHORITY_CERTIFICATE, Authority, AuthorityError, DAYS_MAX, Subject, check, validity};
use crate::bearer::bearer;

/// The list of revoked certificates, in the authority's directory.
pub const REVOKED: &str = "revoked.pem";
/// A serial number is never longer, in bytes (RFC 5280).
const SERIAL_BYTES_MAX: usize = 20;
/// What a list holds at most.
const REVOKED_MAX: usize = 100_000;

/// A certificate that was renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// The new one, as PEM text.
    pub certificate_pem: String,
    /// Whose it is.
    pub subject: Subject,
    /// The new serial number.
    pub serial: String,
}

impl Authority {
    /// Signs a certificate again: the same names, rights and key, a new validity. It must have been
    /// issued by this authority, or by the one in the directory `former`, and not be revoked there.
    ///
    /// # Errors
    /// [`AuthorityError::NotIssued`] where it is not to be renewed.
    pub fn renew(
        &self,
        path: &Path,
        former: &Path,
        days: u32,
        now: SystemTime,
    ) -> Result<Renewed, AuthorityError> {
        let pem = read(path)?;
        let not_issued =
            |message: String| AuthorityError::NotIssued { path: path.to_owned(), message };
        let parsed = first(&pem).map_err(not_issued)?;
        let trusted = read(&former.join(AUTHORITY_CERTIFICATE))?;
        let valid_then = parsed.not_before + Duration::from_secs(1);
        let valid_then =
            valid_then.duration_since(UNIX_EPOCH).map_err(|_| AuthorityError::Clock)?;
        check::is_issued(&trusted, &pem, valid_then).map_err(not_issued)?;
        if revoked(former)?.iter().any(|(serial, _)| *serial == parsed.serial) {
            return Err(not_issued("it is revoked".to_owned()));
        }
        let subject = bearer(&parsed.der, self.cluster)
            .map_err(|error| not_issued(error.to_string()))
            .map(Subject::from)?;
        let key = parsed.public_key().map_err(not_issued)?;
        let (certificate_pem, serial) = self.sign(&subject, days, now, &key)?;
        Ok(Renewed { certificate_pem, subject, serial })
    }

    /// Adds serial numbers to the list of revoked certificates in this authority's directory; those that
    /// are there stay. Gives how many it holds.
    ///
    /// # Errors
    /// [`AuthorityError::Unusable`] where the list that is there is none.
    pub fn revoke(
        &self,
        directory: &Path,
        serials: &[Vec<u8>],
        now: SystemTime,
    ) -> Result<usize, AuthorityError> {
        let mut list = revoked(directory)?;
        for serial in serials {
            if !list.iter().any(|(there, _)| there == serial) {
                list.push((serial.clone(), now));
            }
        }
        if list.len() > REVOKED_MAX {
            return Err(AuthorityError::Making(format!("a list holds at most {REVOKED_MAX}")));
        }
        let (_, next_update) = validity(DAYS_MAX, now)?;
        let (_, this_update) = validity(1, now)?;
        let revoked_certs = list.iter().map(|(serial, at)| {
            let (_, tomorrow) = validity(1, *at)?;
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from(serial.clone()),
                revocation_time: tomorrow - time::Duration::days(1),
                reason_code: None,
                invalidity_date: None,
            })
        });
        let seconds = now.duration_since(UNIX_EPOCH).map_err(|_| AuthorityError::Clock)?.as_secs();
        let params = CertificateRevocationListParams {
            this_update: this_update - time::Duration::days(1),
            next_update,
            crl_number: SerialNumber::from(seconds),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect::<Result<_, AuthorityError>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = params.signed_by(&self.issuer()?)?.pem()?;
        replace(&directory.join(REVOKED), &pem, 0o644)?;
        Ok(list.len())
    }

    /// The serial number of a certificate of this authority, to be revoked.
    ///
    /// # Errors
    /// [`AuthorityError::NotIssued`] where another authority has issued it.
    pub fn serial_of(&self, path: &Path) -> Result<(Subject, Vec<u8>), AuthorityError> {
        let pem = read(path)?;
        let not_issued =
            |message: String| AuthorityError::NotIssued { path: path.to_owned(), message };
        let parsed = first(&pem).map_err(not_issued)?;
        let valid_then = (parsed.not_before + Duration::from_secs(1))
            .duration_since(UNIX_EPOCH)
            .map_err(|_| AuthorityError::Clock)?;
        check::is_issued(&self.certificate_pem, &pem, valid_then).map_err(not_issued)?;
        let subject =
            bearer(&parsed.der, self.cluster).map_err(|error| not_issued(error.to_string()))?;
        Ok((subject.into(), parsed.serial))
    }
}

/// Puts a renewed certificate in the place of the old one, in one step.
///
/// # Errors
/// [`AuthorityError::File`].
pub fn put_renewed(path: &Path, renewed: &Renewed) -> Result<(), AuthorityError> {
    replace(path, &renewed.certificate_pem, 0o644)
}

/// A serial number as `quoit ca show` writes it.
///
/// # Errors
/// [`AuthorityError::Serial`].
pub fn parse_serial(text: &str) -> Result<Vec<u8>, AuthorityError> {
    let wrong = || AuthorityError::Serial(text.chars().take(64).collect());
    let digits: Vec<char> = text.chars().filter(|c| *c != ':').collect();
    if digits.is_empty() || digits.len() % 2 == 1 || digits.len() > 2 * SERIAL_BYTES_MAX {
        return Err(wrong());
    }
    let digit = |c: char| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes: Option<Vec<u8>> =
        digits.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect();
    let bytes = bytes.ok_or_else(wrong)?;
    Ok(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}

/// What an authority's list holds; nothing where there is none yet.
fn revoked(directory: &Path) -> Result<Vec<(Vec<u8>, SystemTime)>, AuthorityError> {
    let path: PathBuf = directory.join(REVOKED);
    let pem = match fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        _ => read(&path)?,
    };
    let lists = ParsedList::read_pem(pem.as_bytes());
    let lists = lists.map_err(|message| AuthorityError::Unusable { path, message })?;
    Ok(lists.into_iter().flat_map(|list| list.revoked).collect())
}

fn first(pem: &str) -> Result<Parsed, String> {
    Parsed::read_pem(pem.as_bytes()).map(|mut all| all.swap_remove(0))
}

/// A random serial number, positive and of full length.
pub(super) fn draw_serial() -> Result<(SerialNumber, String), AuthorityError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| AuthorityError::Making(error.to_string()))?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok((SerialNumber::from(bytes.to_vec()), hex(&bytes)))
}
