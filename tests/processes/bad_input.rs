//! Bad input: each gets a clear error with its reason word, and the server goes on.

use crate::cluster::{PATIENCE, TestCluster, eventually, reason};
use crate::wire::Lines;
use chat::client::{Class, Client, NewAccount, Protocol};
use chat::proto::chat as proto;
use chat::proto::chat::chat_service_client::ChatServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

/// What a client without our library could send, through either door.
struct Raw {
    door: Door,
    token: String,
    client_id: Vec<u8>,
}

enum Door {
    Grpc(ChatServiceClient<Channel>),
    Wire(Lines),
}

impl Raw {
    async fn login(cluster: &TestCluster, name: &str) -> Self {
        let client_id: [u8; 16] = rand::random();
        let mut raw = Self {
            door: Self::open(cluster).await,
            token: String::new(),
            client_id: client_id.to_vec(),
        };
        let id = raw.wire_id(1);
        raw.token = match &mut raw.door {
            Door::Grpc(stub) => {
                let request = proto::LoginRequest {
                    username: name.into(),
                    password: "a password".into(),
                    request_id: grpc_id(&raw.client_id, 1),
                    ..proto::LoginRequest::default()
                };
                stub.login(request).await.unwrap().into_inner().token
            }
            Door::Wire(lines) => {
                let login = format!("1||2||{name}||a password||||{id}");
                lines.ask(&login).await[5].clone()
            }
        };
        raw
    }

    async fn open(cluster: &TestCluster) -> Door {
        if cluster.protocol() == Protocol::Wire {
            return Door::Wire(Lines::connect(cluster.wire_addr(1)).await);
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.client_addr(1)));
        let channel = endpoint.unwrap().connect().await.unwrap();
        Door::Grpc(ChatServiceClient::new(channel))
    }

    fn wire_id(&self, sequence: u64) -> String {
        let digits = self.client_id.iter().map(|byte| format!("{byte:02x}"));
        format!("{}||{sequence}", digits.collect::<String>())
    }

    /// Id, place and time; or the reason word.
    async fn send(
        &mut self,
        recipient: &str,
        body: &str,
        sequence: u64,
    ) -> Result<[u64; 3], String> {
        let id = self.wire_id(sequence);
        match &mut self.door {
            Door::Grpc(stub) => {
                let request = proto::SendMessageRequest {
                    recipient: recipient.into(),
                    body: body.as_bytes().to_vec().into(),
                    content_type: String::new(),
                    request_id: grpc_id(&self.client_id, sequence),
                };
                let request = with_token(request, &self.token);
                let reply = stub.send_message(request).await;
                let sent = reply.map_err(|status| word(&status))?.into_inner();
                Ok([sent.message_id, sent.inbox_seq, sent.time_us])
            }
            Door::Wire(lines) => {
                let token = &self.token;
                let send = format!("2||2||{token}||{recipient}||{body}||||{id}");
                let fields = lines.ask(&send).await;
                match fields[2].as_str() {
                    "" => Ok([5, 6, 7].map(|at: usize| fields[at].parse().unwrap())),
                    word => Err(word.to_owned()),
                }
            }
        }
    }

    /// The reason word for this token; without one the request has none.
    async fn who_am_i(&mut self, token: Option<&str>) -> Result<(), String> {
        match &mut self.door {
            Door::Grpc(stub) => {
                let request = match token {
                    Some(token) => with_token(proto::WhoAmIRequest {}, token),
                    None => Request::new(proto::WhoAmIRequest {}),
                };
                let refused = stub.who_am_i(request).await.map(|_| ());
                refused.map_err(|status| {
                    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
                    word(&status)
                })
            }
            Door::Wire(lines) => {
                let ask = match token {
                    Some(token) => format!("10||2||{token}"),
                    None => "10||2".to_owned(),
                };
                match lines.ask(&ask).await[2].as_str() {
                    "" => Ok(()),
                    word => Err(word.to_owned()),
                }
            }
        }
    }
}

#[allow(clippy::unnecessary_wraps)] // as the requests' fields take it
fn grpc_id(client_id: &[u8], sequence: u64) -> Option<proto::RequestId> {
    Some(proto::RequestId {
        client_id: client_id.to_vec().into(),
        sequence,
    })
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

fn word(status: &Status) -> String {
    status
        .get_details_error_info()
        .map_or_else(|| format!("no reason: {status:?}"), |info| info.reason)
}

async fn bad_names_passwords_and_profiles_are_refused(protocol: Protocol) {
    let cluster = TestCluster::start_on(protocol, 1, &[]).await;
    let handle = cluster.handle(PATIENCE);
    let create = async |name: &str, password: &str, full_name: &str| {
        let account = NewAccount {
            username: name.into(),
            password: password.into(),
            full_name: full_name.into(),
            ..NewAccount::default()
        };
        reason(Client::create_account(&handle, account).await)
    };
    let long = "x".repeat(33);
    for name in ["", "-a", ".a", "a b", "a/b", "ü", "a\n", long.as_str()] {
        assert_eq!(
            create(name, "a password", "").await,
            "INVALID_NAME",
            "{name:?}"
        );
    }
    let password = "x".repeat(1_025);
    for password in ["", password.as_str()] {
        assert_eq!(create("carol", password, "").await, "INVALID_PASSWORD");
    }
    let full_name = "x".repeat(257);
    assert_eq!(create("carol", "p", &full_name).await, "FULL_NAME_TOO_LONG");
    let device = "x".repeat(65);
    let alice = cluster.account("Alice").await;
    assert_eq!(alice.session().username(), "alice", "names are folded");
    let refused = Client::login(&handle, "alice", "a password", &device).await;
    assert_eq!(reason(refused), "DEVICE_ID_INVALID");
    assert_eq!(create("alice", "another", "").await, "NAME_TAKEN");
    for (name, password) in [("alice", "wrong"), ("nobody", "a password")] {
        let refused = Client::login(&handle, name, password, "").await;
        assert_eq!(reason(refused), "BAD_CREDENTIALS", "{name}");
    }
    cluster.finish(&alice).await;
}

async fn bad_messages_and_patterns_are_refused(protocol: Protocol) {
    let cluster = TestCluster::start_on(protocol, 1, &[]).await;
    let alice = cluster.account("alice").await;
    assert_eq!(reason(alice.send("nobody", "x").await), "RECIPIENT_UNKNOWN");
    assert_eq!(reason(alice.send("alice", "").await), "MESSAGE_EMPTY");
    let long = vec![b'x'; 16 * 1024 + 1];
    assert_eq!(reason(alice.send("alice", long).await), "MESSAGE_TOO_LONG");
    let exact = vec![b'x'; 16 * 1024];
    alice.send("alice", exact).await.expect("16 KiB is allowed");
    let content_type = "x".repeat(129);
    let refused = alice.send_as("alice", "x", &content_type).await;
    assert_eq!(reason(refused), "CONTENT_TYPE_INVALID");

    // More than any message: refused by the front before it is decoded.
    let huge = alice.send("alice", vec![b'x'; 8 * 1024 * 1024]).await;
    let refused = huge.expect_err("8 MiB were accepted");
    assert_eq!(refused.class(), Class::Refused, "{refused}");
    if protocol == Protocol::Grpc {
        assert_eq!(refused.code, tonic::Code::OutOfRange, "{refused}");
        assert!(refused.message.contains("262144 bytes"), "{refused}");
    }

    for pattern in ["(", "[z-a]", "((a{1,1000}){1,1000}){1,1000}"] {
        let refused = alice.list_accounts(pattern, 0, "").await;
        assert_eq!(reason(refused), "PATTERN_INVALID", "{pattern}");
    }
    let long = "a".repeat(257);
    let refused = alice.list_accounts(&long, 0, "").await;
    assert_eq!(reason(refused), "PATTERN_TOO_LONG");
    let refused = alice.list_accounts("", 0, "\u{1}nonsense").await;
    assert_eq!(reason(refused), "PAGE_TOKEN_INVALID");
    assert_eq!(reason(alice.ack(99).await), "CURSOR_BEYOND_END");
    assert_eq!(reason(alice.revoke_session(1).await), "SESSION_UNKNOWN");
    assert_eq!(
        alice.list_accounts("^al", 0, "").await.unwrap().usernames,
        ["alice"]
    );
    cluster.finish(&alice).await;
}

async fn request_ids_name_one_request_for_ever(protocol: Protocol) {
    let cluster = TestCluster::start_on(protocol, 1, &[]).await;
    let alice = cluster.account("alice").await;
    let mut raw = Raw::login(&cluster, "alice").await;
    let first = raw.send("alice", "hello", 2).await.unwrap();
    // Exactly the same again: the same answer, and no second message.
    assert_eq!(raw.send("alice", "hello", 2).await.unwrap(), first);
    assert_eq!(crate::cluster::read_inbox(&alice).await.len(), 1);
    let reused = raw.send("alice", "other", 2).await;
    assert_eq!(reused.unwrap_err(), "REQUEST_ID_REUSED");
    // Far ahead: what lies more than 2,048 behind is forgotten, and refused rather than repeated.
    raw.send("alice", "far ahead", 10_000).await.unwrap();
    let old = raw.send("alice", "old", 3).await;
    assert_eq!(old.unwrap_err(), "REQUEST_TOO_OLD");
    for (client_id, expected) in [
        (vec![9; 16], "CLIENT_UNKNOWN"),
        (vec![0; 16], "REQUEST_ID_INVALID"),
        (
            b"short".to_vec(),
            match protocol {
                Protocol::Grpc => "REQUEST_ID_INVALID",
                // Not even a frame.
                Protocol::Wire => "FIELD_INVALID",
            },
        ),
    ] {
        raw.client_id = client_id;
        let refused = raw.send("alice", "x", 1).await;
        assert_eq!(refused.unwrap_err(), expected);
    }
    cluster.finish(&alice).await;
}

async fn missing_wrong_revoked_and_expired_tokens_are_refused(protocol: Protocol) {
    let cluster = TestCluster::start_on(protocol, 1, &["--token-idle", "2s"]).await;
    let alice = cluster.account("alice").await;
    let mut raw = Raw::login(&cluster, "alice").await;
    assert_eq!(raw.who_am_i(None).await.unwrap_err(), "TOKEN_MISSING");
    for wrong in ["x", &"0".repeat(64), &"x".repeat(5_000)] {
        assert_eq!(
            raw.who_am_i(Some(wrong)).await.unwrap_err(),
            "TOKEN_INVALID"
        );
    }
    let empty = raw.who_am_i(Some("")).await.unwrap_err();
    assert!(matches!(empty.as_str(), "TOKEN_MISSING" | "TOKEN_INVALID"));
    let good = raw.token.clone();
    raw.who_am_i(Some(&good)).await.unwrap();
    let other = Client::login(&cluster.handle(PATIENCE), "alice", "a password", "").await;
    let other = other.unwrap();
    other.logout().await.unwrap();
    assert_eq!(reason(other.who_am_i().await), "TOKEN_INVALID");

    // Use would put the expiry off, so the listing of sessions by another login tells.
    let watching = eventually("expiry of an unused token", async || {
        let handle = cluster.handle(PATIENCE);
        let fresh = Client::login(&handle, "alice", "a password", "").await;
        let fresh = fresh.map_err(|error| error.to_string())?;
        let sessions = fresh.list_sessions().await;
        let sessions = sessions.map_err(|error| error.to_string())?;
        let oldest = sessions.iter().map(|session| session.session_id).min();
        fresh.logout().await.map_err(|error| error.to_string())?;
        // The account's own creation is its first session.
        if oldest == Some(alice.session().data().user_id) {
            return Err(format!("{} sessions", sessions.len()));
        }
        Ok(())
    });
    watching.await;
    let expired = alice.who_am_i().await;
    assert_eq!(reason(expired), "TOKEN_INVALID");
    let fresh = Client::login(&cluster.handle(PATIENCE), "alice", "a password", "").await;
    cluster.finish(&fresh.unwrap()).await;
}

crate::over_both! {
    bad_names_passwords_and_profiles_are_refused,
    bad_messages_and_patterns_are_refused,
    request_ids_name_one_request_for_ever,
    missing_wrong_revoked_and_expired_tokens_are_refused,
}
