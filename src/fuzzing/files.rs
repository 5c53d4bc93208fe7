//! Small files that people keep: a cluster's description, a client's login.

use crate::admin::description::Description;
use crate::client::{Session, SessionData};

/// `cluster.json`, and a login in a file.
pub(super) fn files(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(description) = Description::parse(text)
    {
        let again = description.to_text().expect("it can be written");
        assert_eq!(Description::parse(&again).ok(), Some(description));
    }
    if let Ok(login) = serde_json::from_slice::<SessionData>(data) {
        let _ = Session::new(login);
    }
}

/// Valid inputs of [`files`].
pub(super) fn file_seeds() -> Vec<Vec<u8>> {
    let description = r#"{"replicas": [
        {"id": 1, "pid": 7, "client_addr": "127.0.0.1:1", "peer_addr": "127.0.0.1:2",
         "wire_addr": null, "data_dir": "/srv/1"},
        {"id": 2, "pid": null, "client_addr": "127.0.0.1:3"}]}"#;
    let login = r#"{"username": "alice", "user_id": 2, "device": "phone", "token": "ct_5a",
        "client_id": [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16], "next_sequence": 9}"#;
    vec![description.into(), login.into()]
}
