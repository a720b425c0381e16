//! What a certificate or a list of revoked ones says, read without judging whether it is genuine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use time::OffsetDateTime;

/// A P-256 key's SubjectPublicKeyInfo: this, and then the point.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A certificate's public key, to be signed again.
pub(super) struct PublicKey(Vec<u8>);

impl rcgen::PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) der: CertificateDer<'static>,
    /// The common name.
    pub(crate) subject: String,
    /// The common name of the authority that it names.
    pub(crate) issuer: String,
    /// Without zeros in front.
    pub(crate) serial: Vec<u8>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) is_authority: bool,
    public_key: Vec<u8>,
}

impl Parsed {
    pub(crate) fn read(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(der)
            .map_err(|error| format!("it holds no readable certificate ({error})"))?;
        let validity = parsed.validity();
        Ok(Self {
            der: der.clone().into_owned(),
            subject: common_name(parsed.subject()),
            issuer: common_name(parsed.issuer()),
            serial: trimmed(parsed.raw_serial()),
            not_before: moment(validity.not_before.timestamp()),
            not_after: moment(validity.not_after.timestamp()),
            is_authority: parsed.is_ca(),
            public_key: parsed.public_key().raw.to_vec(),
        })
    }

    /// All certificates of a text; at least one.
    pub(crate) fn read_pem(pem: &[u8]) -> Result<Vec<Self>, String> {
        let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("it is not in PEM format ({error})"))?;
        if all.is_empty() {
            return Err("it holds no certificate in PEM format".to_owned());
        }
        all.iter().map(Self::read).collect()
    }

    /// The public key, if it is of the kind that this program makes.
    pub(super) fn public_key(&self) -> Result<PublicKey, String> {
        match self.public_key.strip_prefix(&P256_PREFIX) {
            Some(point) => Ok(PublicKey(point.to_vec())),
            None => Err("its key is no P-256 key: issue a new certificate instead".to_owned()),
        }
    }

    /// SHA-256 of the whole certificate.
    pub(crate) fn fingerprint(&self) -> String {
        hex(digest(&SHA256, &self.der).as_ref())
    }
}

/// A list of revoked certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParsedList {
    /// The common name of the authority that signed it.
    pub(crate) issuer: String,
    /// The serial numbers, and when each was revoked.
    pub(crate) revoked: Vec<(Vec<u8>, SystemTime)>,
}

impl ParsedList {
    /// All lists of a text; there may be none.
    pub(crate) fn read_pem(pem: &[u8]) -> Result<Vec<Self>, String> {
        CertificateRevocationListDer::pem_slice_iter(pem)
            .map(|der| {
                let der = der.map_err(|error| format!("it is not in PEM format ({error})"))?;
                let (_, list) = x509_parser::parse_x509_crl(&der)
                    .map_err(|error| format!("it holds no readable list ({error})"))?;
                let revoked = list.iter_revoked_certificates().map(|one| {
                    (trimmed(one.raw_serial()), moment(one.revocation_date.timestamp()))
                });
                Ok(Self { issuer: common_name(list.issuer()), revoked: revoked.collect() })
            })
            .collect()
    }
}

fn common_name(name: &x509_parser::x509::X509Name<'_>) -> String {
    let first = name.iter_common_name().next().and_then(|name| name.as_str().ok());
    first.map_or_else(|| name.to_string(), str::to_owned)
}

fn trimmed(serial: &[u8]) -> Vec<u8> {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial[zeros..].to_vec()
}

fn moment(timestamp: i64) -> SystemTime {
    let seconds = Duration::from_secs(timestamp.unsigned_abs());
    let moment = if timestamp < 0 {
        UNIX_EPOCH.checked_sub(seconds)
    } else {
        UNIX_EPOCH.checked_add(seconds)
    };
    moment.unwrap_or(UNIX_EPOCH)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A moment as RFC 3339 has it, to the second.
pub(crate) fn date(moment: SystemTime) -> String {
    let seconds = match moment.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(error) => -i64::try_from(error.duration().as_secs()).unwrap_or(i64::MAX),
    };
    let Ok(date) = OffsetDateTime::from_unix_timestamp(seconds) else {
        return format!("{seconds} s since 1970");
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        date.hour(),
        date.minute(),
        date.second()
    )
}
