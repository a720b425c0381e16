//! One record of the log: how it is laid out, sealed and told apart from anything else.

/// Bytes before a record's payload.
pub(super) const RECORD_HEADER_BYTES: usize = 36;

/// A payload's greatest length: far above what the store writes, far below what `u32` can say.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 30;

const MARK: [u8; 2] = *b"qr";
const VERSION: u8 = 1;

/// What a record's header says. It can be trusted without its payload: the two have checksums of
/// their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) length: u32,
    pub(super) sequence: u64,
    /// The last sequence that was durable when this record was written: whoever finds this header
    /// knows that everything up to there must be found as well.
    pub(super) synced: u64,
    pub(super) payload_checksum: u32,
    /// The chain value of the record before this one, or of the segment's header.
    pub(super) previous_chain: u32,
    /// This record's chain value, which is its header's checksum: it covers the payload's
    /// checksum and the chain before, hence all of the segment up to here.
    pub(super) chain: u32,
}

impl RecordHeader {
    /// Reads a header; `None` if these bytes are not one that this log wrote.
    pub(super) fn decode(bytes: &[u8; RECORD_HEADER_BYTES], seed: u32) -> Option<RecordHeader> {
        if bytes[..2] != MARK || bytes[2] != VERSION || bytes[3] != 0 {
            return None;
        }
        let header = RecordHeader {
            length: u32_at(bytes, 4),
            sequence: u64_at(bytes, 8),
            synced: u64_at(bytes, 16),
            payload_checksum: u32_at(bytes, 24),
            previous_chain: u32_at(bytes, 28),
            chain: u32_at(bytes, 32),
        };
        (crc32c::crc32c_append(seed, &bytes[..32]) == header.chain).then_some(header)
    }

    /// Whether these are the bytes that were appended.
    pub(super) fn vouches_for(&self, payload: &[u8], seed: u32) -> bool {
        payload.len() == self.length as usize
            && crc32c::crc32c_append(seed, payload) == self.payload_checksum
    }
}

/// Whether a header may begin here: a cheap look before [`RecordHeader::decode`].
pub(super) fn may_begin_header(bytes: &[u8]) -> bool {
    bytes.len() >= 4 && bytes[..2] == MARK && bytes[2] == VERSION && bytes[3] == 0
}

/// What all checksums of one log start from, so that bytes which a client put into a value, or
/// which another log left on the disk, do not pass for this log's records.
pub(super) fn seed_of(identity: u64) -> u32 {
    crc32c::crc32c(&identity.to_le_bytes())
}

/// Appends a record whose place in the log is not known yet; [`seal`] fills that in.
pub(super) fn push_unsealed(buffer: &mut Vec<u8>, payload: &[u8], seed: u32) {
    assert!(payload.len() <= PAYLOAD_BYTES_MAX, "checked by the caller");
    buffer.extend_from_slice(&MARK);
    buffer.extend_from_slice(&[VERSION, 0]);
    buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    buffer.extend_from_slice(&[0; 16]);
    buffer.extend_from_slice(&crc32c::crc32c_append(seed, payload).to_le_bytes());
    buffer.extend_from_slice(&[0; 8]);
    buffer.extend_from_slice(payload);
}

/// Gives the records in `buffer` their sequences, from `last` + 1, and chains them to `chain`.
/// Returns the last sequence and the last chain value.
pub(super) fn seal(
    buffer: &mut [u8],
    mut last: u64,
    synced: u64,
    mut chain: u32,
    seed: u32,
) -> (u64, u32) {
    let mut at = 0;
    while at < buffer.len() {
        let header = &mut buffer[at..at + RECORD_HEADER_BYTES];
        last += 1;
        header[8..16].copy_from_slice(&last.to_le_bytes());
        header[16..24].copy_from_slice(&synced.to_le_bytes());
        header[28..32].copy_from_slice(&chain.to_le_bytes());
        chain = crc32c::crc32c_append(seed, &header[..32]);
        header[32..36].copy_from_slice(&chain.to_le_bytes());
        at += RECORD_HEADER_BYTES + u32_at(header, 4) as usize;
    }
    assert_eq!(at, buffer.len(), "the buffer holds whole records");
    (last, chain)
}

/// The little-endian number at an offset that the caller knows to lie inside.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// As [`u32_at`], of eight bytes.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
