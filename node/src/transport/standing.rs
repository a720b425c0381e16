//! Connections that stand while certificates change: what would be refused now is not kept.

use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error};

use super::closing::Close;
use super::shared::{Link, Shared};
use crate::bearer::chain_of;

/// Looks at the certificates of all connections, and lets others run in between: each takes a tenth of a
/// millisecond.
pub(super) async fn check_all(shared: Arc<Shared>) {
    for link in shared.links() {
        check(&shared, &link);
        tokio::task::yield_now().await;
    }
}

/// As above, for a connection that is new: its handshake may have begun under the former certificates.
/// Called once it is among those that [`check_all`] looks at, so that none slips between the two.
pub(super) fn check_new(shared: &Shared, link: &Arc<Link>) {
    if shared.tls().has_replaced {
        check(shared, link);
    }
}

fn check(shared: &Shared, link: &Arc<Link>) {
    let chain = chain_of(link.connection.peer_identity());
    let Some((first, rest)) = chain.split_first() else { return };
    let Err(error) = shared.tls().verifier.verify_client_cert(first, rest, UnixTime::now()) else {
        return;
    };
    let is_revoked = matches!(error, Error::InvalidCertificate(CertificateError::Revoked));
    if !is_revoked && shared.is_dialled(link) {
        // It is made anew, and lingers only for what was asked on it.
        return;
    }
    let address = link.address;
    tracing::warn!(%address, %error, "closing a connection whose certificate is not good any more");
    let reason = format!("its certificate is not good any more: {error}");
    Close::Refused.close(&link.connection, &reason);
    shared.note_refusal(address, &reason);
}
