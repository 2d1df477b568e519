use lvscope::packet::{Frame, LinkType, checksum_state, dissect, glance};

pub fn run(bytes: &[u8]) {
    let [low, high, bytes @ ..] = bytes else { return };
    let link_type = LinkType(u16::from_le_bytes([*low, *high & 1]));
    let frame = Frame { wire_len: bytes.len() as u32 + u32::from(*high >> 1) * 20, ..Frame::whole(link_type, bytes) };
    let packet = dissect(&frame);
    assert!(!packet.to_string().is_empty());
    if let Some(stop) = packet.stop {
        assert!(stop.offset <= bytes.len(), "{stop:?}");
    }
    let _ = (packet.five_tuple(), glance(&frame), checksum_state(&packet));
}
