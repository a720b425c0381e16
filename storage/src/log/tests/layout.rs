use super::*;
use crate::log::record::{RecordHeader, push_unsealed, seal, seed_of};
use crate::log::segment::Decoded;

#[test]
fn a_record_has_these_bytes() {
    let seed = seed_of(0x5eed);
    let mut buffer = Vec::new();
    push_unsealed(&mut buffer, b"quoit", seed);
    let (last, chain) = seal(&mut buffer, 41, 40, 0x0102_0304, seed);
    assert_eq!(last, 42);
    let golden = [
        b"qr\x01\x00\x05\x00\x00\x00".as_slice(),
        &[42, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 0, 0, 0, 0],
        &GOLDEN_PAYLOAD_CHECKSUM,
        &[4, 3, 2, 1],
        &GOLDEN_CHAIN,
        b"quoit",
    ]
    .concat();
    assert_eq!(buffer, golden);
    assert_eq!(chain.to_le_bytes(), GOLDEN_CHAIN);
}

const GOLDEN_PAYLOAD_CHECKSUM: [u8; 4] = [246, 215, 92, 240];
const GOLDEN_CHAIN: [u8; 4] = [177, 152, 195, 56];

#[test]
fn a_record_header_survives_no_flipped_bit() {
    let mut buffer = Vec::new();
    push_unsealed(&mut buffer, b"quoit", 3);
    seal(&mut buffer, 41, 40, 9, 3);
    let header: [u8; 36] = buffer[..36].try_into().unwrap();
    assert!(RecordHeader::decode(&header, 3).is_some());
    assert!(RecordHeader::decode(&header, 4).is_none());
    for bit in 0..36 * 8 {
        let mut flipped = header;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(RecordHeader::decode(&flipped, 3).is_none(), "bit {bit}");
    }
}

#[test]
fn a_segment_header_comes_back_and_survives_no_flipped_bit() {
    let mut header = SegmentHeader {
        identity: 0x5eed,
        first: 100,
        previous: 99,
        length: 4096,
        previous_chain: 17,
        after_loss: true,
        chain: 0,
    };
    let bytes = header.encode();
    assert_eq!(SegmentHeader::decode(&bytes), Decoded::Valid(header));
    assert_eq!(bytes[..16], *b"QUOITLOG\x01\x00\xfe\xff\x01\x00\x00\x00");
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(SegmentHeader::decode(&flipped), Decoded::Bad, "bit {bit}");
    }
}

#[test]
fn a_newer_segment_asks_for_a_newer_program() {
    let (disk, _) = three_segments();
    let path = &segment_paths(&disk)[1];
    let mut content = disk.content(path).unwrap();
    content[8..12].copy_from_slice(&[2, 0, 0xfd, 0xff]);
    disk.plant(path, &content);
    let error = try_open(&disk, options(0)).err().unwrap();
    assert!(matches!(&error, LogError::NewerVersion { file, version: 2 } if file == path));
    assert!(error.to_string().contains("newer program"));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_batches_were_synced_come_back(
        batches in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..700), 0..6),
            0..12,
        ),
        seed in proptest::num::u64::ANY,
    ) {
        let disk = TwinDisk::new(seed);
        let mut log = open(&disk, 0).log;
        for batch in &batches {
            log.append(batch).unwrap();
            log.sync().unwrap();
        }
        disk.crash();
        let opened = open(&disk, 0);
        let written: Vec<Vec<u8>> = batches.concat();
        let numbered = (1..).zip(written).collect::<BTreeMap<u64, _>>();
        proptest::prop_assert_eq!(opened.intact, numbered);
        proptest::prop_assert!(is_clean(&opened.recovery));
    }
}
