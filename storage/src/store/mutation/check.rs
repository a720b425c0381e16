//! What holds for any bytes that are read as a record: for [`crate::decoding`].

use super::*;

/// Reads bytes as a record, intact or damaged, and lays out again what was read.
pub(crate) fn check_record(payload: &Bytes) {
    let about = About::read(payload);
    let Some(record) = Record::read(payload) else { return };
    let head = |kind, key: &StoredKey, replication| {
        let mut out = BytesMut::new();
        put_head(kind, key.bytes(), replication, &mut out);
        out
    };
    let again = match &record {
        Record::Key { key, replication, change, sealed } => {
            let mut out = head(KIND_KEY, key, *replication);
            let flags = [(OVER_DAMAGE, change.over_damage), (GONE, sealed.is_none())];
            out.put_u8(flags.iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| flag).sum());
            put_delta(&change.delta, &mut out);
            // What stands behind a key that is gone is not looked at.
            let end = payload.len().min(out.len());
            out.put_slice(sealed.as_deref().unwrap_or(&payload[end..]));
            out.freeze()
        }
        Record::Lease(lease) => lease_record(*lease),
        Record::Era(era) => era_record(*era),
        Record::Trust(era, vnode) => trust_record(*era, *vnode),
        Record::Floor(vnode, floor) => floor_record(*vnode, *floor),
        Record::Value { at, bytes } => {
            let (_, replication, _) = record_key(payload).expect("it was read");
            value_record(at, replication, bytes.as_ref())
        }
    };
    assert_eq!(again, *payload, "what was read is laid out as it was");
    if let Record::Key { key, replication, .. } = record
        && !matches!(payload.len(), LEASE_BYTES | TRUST_BYTES | FLOOR_BYTES)
    {
        assert_eq!(about, About::Key { key, replication }, "damage elsewhere leaves the key");
    }
}
