//! What fuzzers call of this module; see [`crate::fuzzing`].

use super::{Address, parse};

/// Addresses, lists of peers and times, as a person writes them. Takes any bytes and panics only on a
/// defect.
pub fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(address) = Address::parse(text) {
        assert_eq!(Address::parse(address.as_str()), Ok(address));
    }
    if let Ok(peers) = parse::peers(text) {
        let again: Vec<String> = peers.iter().map(|(id, at)| format!("{id}={at}")).collect();
        assert_eq!(parse::peers(&again.join(",")), Ok(peers));
    }
    let _ = parse::duration(text);
    let _ = parse::duration_up_to(text, 36_500);
}

/// Valid inputs of [`settings`].
pub fn setting_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "127.0.0.1:7400",
        "[::1]:7400",
        "1=10.0.0.1:7500,2=10.0.0.2:7500,3=chat3.example.org:7500",
        "250us",
        "36500d",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
