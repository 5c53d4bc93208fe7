//! The service on a model of a replica: the mission's unit tests, and what happens when a replica
//! fails in the middle of a call. Listing, tokens, hashing and validation have theirs beside them.

use super::fake::{Fake, Fault};
use super::*;
use crate::types::UserId;

/// One that retries for longer than a busy machine can take.
pub(super) fn service() -> (Service<Fake>, Fake) {
    service_that_retries_for(Duration::from_secs(60))
}

fn service_that_retries_for(call_retry: Duration) -> (Service<Fake>, Fake) {
    let fake = Fake::new();
    let settings = Settings {
        addresses: Arc::new(|id| Some(format!("replica-{id}:7000"))),
        call_retry,
        hash_cost: HashCost {
            memory_kib: 64,
            passes: 1,
        },
    };
    (Service::new(fake.clone(), settings).unwrap(), fake)
}

fn password(text: &str) -> Password {
    Password(text.to_owned())
}

fn request(sequence: u64) -> Option<RequestId> {
    request_id(&[7; 16], sequence).ok()
}

pub(super) async fn create(service: &Service<Fake>, name: &str) -> Token {
    let request = CreateAccount {
        username: name.to_owned(),
        password: password("secret"),
        ..CreateAccount::default()
    };
    service.create_account(request).await.unwrap().token
}

async fn login(
    service: &Service<Fake>,
    name: &str,
    secret: &str,
) -> Result<LoggedIn, ServiceError> {
    let request = Login {
        username: name.to_owned(),
        password: password(secret),
        ..Login::default()
    };
    service.login(request).await
}

pub(super) fn message(recipient: &str, text: &str) -> SendMessage {
    SendMessage {
        recipient: recipient.to_owned(),
        body: text.as_bytes().to_vec(),
        ..SendMessage::default()
    }
}

pub(super) fn reason<T: std::fmt::Debug>(result: Result<T, ServiceError>) -> Reason {
    result.unwrap_err().reason
}

#[tokio::test]
async fn an_account_is_created_under_its_folded_name_and_its_token_is_good() {
    let (service, fake) = service();
    let request = CreateAccount {
        username: "Alice".to_owned(),
        password: password("secret"),
        full_name: "Alice A.".to_owned(),
        device_id: "phone".to_owned(),
        request_id: None,
    };
    let created = service.create_account(request).await.unwrap();
    assert_eq!(created.account.name, "alice");
    let me = service.who_am_i(&created.token).await.unwrap();
    assert_eq!(
        (me.account, me.device_id.as_str()),
        (created.account, "phone")
    );
    assert_eq!(fake.state().used.last(), Some(&created.token.hash()));
    let wrong = Token::generate();
    assert_eq!(reason(service.who_am_i(&wrong).await), Reason::TokenInvalid);
    assert!(!fake.state().used.contains(&wrong.hash()));
    let again = CreateAccount {
        username: "ALICE".to_owned(),
        password: password("secret"),
        ..CreateAccount::default()
    };
    assert_eq!(
        reason(service.create_account(again).await),
        Reason::NameTaken
    );
}

#[tokio::test]
async fn login_tells_a_wrong_password_and_an_unknown_user_alike() {
    let (service, fake) = service();
    create(&service, "alice").await;
    let writes = fake.state().writes.len();
    let wrong = login(&service, "alice", "Secret").await.unwrap_err();
    let unknown = login(&service, "bob", "secret").await.unwrap_err();
    assert_eq!(wrong, unknown);
    assert_eq!(wrong.reason, Reason::BadCredentials);
    assert_eq!(fake.state().writes.len(), writes, "nothing was proposed");
    let right = login(&service, "Alice", "secret").await.unwrap();
    assert_eq!(
        service.who_am_i(&right.token).await.unwrap().account.name,
        "alice"
    );
}

#[tokio::test]
async fn an_unknown_user_costs_a_hash_as_a_known_one_does() {
    let (service, _) = service();
    create(&service, "alice").await;
    service.inner.passwords.close();
    for name in ["alice", "bob"] {
        let refused = login(&service, name, "guess").await;
        assert_eq!(
            reason(refused),
            Reason::ShuttingDown,
            "{name}: no hash was asked for"
        );
    }
}

#[tokio::test]
async fn a_login_survives_one_password_change_and_not_a_wrong_password_after_it() {
    let (service, fake) = service();
    create(&service, "alice").await;
    let user = UserId(1);
    // The version changed, the password did not: the second look succeeds, under a fresh id.
    fake.state()
        .faults
        .push_back(Fault::PasswordChangesFirst(user));
    let request = Login {
        username: "alice".to_owned(),
        password: password("secret"),
        request_id: request(1),
        ..Login::default()
    };
    service.login(request).await.unwrap();
    let changed_twice = [Fault::PasswordChangesFirst(user); 2];
    fake.state().faults.extend(changed_twice);
    assert_eq!(
        reason(login(&service, "alice", "secret").await),
        Reason::BadCredentials
    );
}

#[tokio::test]
async fn a_repeated_creation_logs_in_whoever_knows_the_password() {
    let (service, _) = service();
    let first = CreateAccount {
        username: "alice".to_owned(),
        password: password("secret"),
        request_id: request(1),
        ..CreateAccount::default()
    };
    let created = service.create_account(first.clone()).await.unwrap();
    let again = service.create_account(first.clone()).await.unwrap();
    assert_eq!(again.account.user, created.account.user);
    assert!(again.token != created.token);
    service.who_am_i(&again.token).await.unwrap();
    let thief = CreateAccount {
        password: password("guess"),
        ..first
    };
    assert_eq!(
        reason(service.create_account(thief).await),
        Reason::NameTaken
    );
}

#[tokio::test]
async fn a_creation_whose_outcome_was_lost_is_found_again_inside_the_call() {
    let (service, fake) = service();
    fake.state().faults.push_back(Fault::ApplyAndLose);
    let token = create(&service, "alice").await;
    assert_eq!(service.list_sessions(&token).await.unwrap().len(), 1);
    let ids: Vec<_> = fake.state().writes.iter().map(|w| w.request).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_message_is_sent_once_whatever_happens_to_its_attempts() {
    let (service, fake) = service();
    let alice = create(&service, "alice").await;
    create(&service, "bob").await;
    for request_id in [None, request(5)] {
        fake.state().writes.clear();
        let refused = Fault::Refuse(WriteError::NotApplied);
        fake.state()
            .faults
            .extend([refused, Fault::ApplyAndLose, refused]);
        let message = SendMessage {
            request_id,
            ..message("Bob", "hello")
        };
        service.send_message(&alice, message).await.unwrap();
        let state = fake.state();
        assert_eq!(state.writes.len(), 4);
        let first = state.writes[0].request;
        assert!(state.writes.iter().all(|w| w.request == first));
        assert!(state.writes.iter().all(|w| w.front == request_id.is_none()));
        assert!(request_id.is_none() || first == request_id);
    }
    let bob = fake.state().by_name("bob").unwrap();
    assert_eq!(fake.state().accounts[&bob].inbox.len(), 2);
}

#[tokio::test]
async fn after_an_unknown_outcome_not_applied_is_never_said() {
    let (service, fake) = service_that_retries_for(Duration::from_millis(50));
    let alice = create(&service, "alice").await;
    let refuse = |error| Fault::Refuse(error);
    for (faults, expected) in [
        (vec![refuse(WriteError::NotApplied); 99], Reason::NotApplied),
        (
            vec![refuse(WriteError::OutcomeUnknown); 99],
            Reason::OutcomeUnknown,
        ),
        (vec![refuse(WriteError::Overloaded)], Reason::Overloaded),
        (vec![refuse(WriteError::ShuttingDown)], Reason::ShuttingDown),
        (
            vec![
                refuse(WriteError::OutcomeUnknown),
                refuse(WriteError::Overloaded),
            ],
            Reason::OutcomeUnknown,
        ),
        (
            [refuse(WriteError::OutcomeUnknown)]
                .into_iter()
                .chain([refuse(WriteError::NotApplied); 99])
                .collect(),
            Reason::OutcomeUnknown,
        ),
        (
            vec![
                refuse(WriteError::OutcomeUnknown),
                Fault::Reply(Refusal::RequestTooOld),
            ],
            Reason::OutcomeUnknown,
        ),
    ] {
        fake.state().faults = faults.into();
        let sent = service.send_message(&alice, message("alice", "x")).await;
        assert_eq!(reason(sent), expected);
        fake.state().faults.clear();
    }
}

#[tokio::test]
async fn a_fronts_own_id_that_came_too_late_is_replaced_and_a_clients_is_not() {
    let (service, fake) = service();
    let alice = create(&service, "alice").await;
    fake.state().writes.clear();
    fake.state()
        .faults
        .push_back(Fault::Reply(Refusal::RequestTooOld));
    let sent = service.send_message(&alice, message("alice", "x")).await;
    sent.unwrap();
    let ids: Vec<_> = fake.state().writes.iter().map(|w| w.request).collect();
    assert_ne!(ids[0], ids[1]);
    fake.state()
        .faults
        .push_back(Fault::Reply(Refusal::RequestTooOld));
    let old = SendMessage {
        request_id: request(1),
        ..message("alice", "x")
    };
    assert_eq!(
        reason(service.send_message(&alice, old).await),
        Reason::RequestTooOld
    );
}

#[tokio::test]
async fn a_request_id_under_another_body_is_refused() {
    let (service, _) = service();
    let alice = create(&service, "alice").await;
    let first = SendMessage {
        request_id: request(1),
        ..message("alice", "one")
    };
    let sent = service.send_message(&alice, first.clone()).await.unwrap();
    assert_eq!(service.send_message(&alice, first).await.unwrap(), sent);
    let other = SendMessage {
        request_id: request(1),
        ..message("alice", "two")
    };
    assert_eq!(
        reason(service.send_message(&alice, other).await),
        Reason::RequestIdReused
    );
    let nobody = service.send_message(&alice, message("nobody", "x")).await;
    assert_eq!(reason(nobody), Reason::RecipientUnknown);
}

#[tokio::test]
async fn bad_fields_are_refused_before_anything_is_asked_of_the_replica() {
    let (service, fake) = service();
    let token = Token::generate();
    let account = |username: &str, full_name: &str, device_id: &str| CreateAccount {
        username: username.to_owned(),
        password: password("x"),
        full_name: full_name.to_owned(),
        device_id: device_id.to_owned(),
        request_id: None,
    };
    for (request, expected) in [
        (account("a b", "", ""), Reason::InvalidName),
        (account("a", &"x".repeat(257), ""), Reason::FullNameTooLong),
        (account("a", "", "a b"), Reason::DeviceIdInvalid),
        (
            CreateAccount {
                password: password(""),
                ..account("a", "", "")
            },
            Reason::InvalidPassword,
        ),
    ] {
        assert_eq!(reason(service.create_account(request).await), expected);
    }
    assert_eq!(
        reason(login(&service, "a", "").await),
        Reason::InvalidPassword
    );
    assert_eq!(reason(login(&service, "", "x").await), Reason::InvalidName);
    let empty = service.send_message(&token, message("a", "")).await;
    assert_eq!(reason(empty), Reason::MessageEmpty);
    let long = "x".repeat(limits::BODY_BYTES_MAX + 1);
    let long = service.send_message(&token, message("a", &long)).await;
    assert_eq!(reason(long), Reason::MessageTooLong);
    let to_nobody = service.send_message(&token, message("a/b", "x")).await;
    assert_eq!(reason(to_nobody), Reason::InvalidName);
    let list = |pattern: String, page_token: &str| ListAccounts {
        pattern,
        page_size: 0,
        page_token: page_token.to_owned(),
    };
    let long = service
        .list_accounts(&token, list("a".repeat(257), ""))
        .await;
    assert_eq!(reason(long), Reason::PatternTooLong);
    let forged = service
        .list_accounts(&token, list(String::new(), "x"))
        .await;
    assert_eq!(reason(forged), Reason::PageTokenInvalid);
    let profile = service.update_profile(&token, "x".repeat(257), None).await;
    assert_eq!(reason(profile), Reason::FullNameTooLong);
    assert!(fake.state().writes.is_empty());
    assert!(fake.state().reads.is_empty());
}

#[tokio::test]
async fn listing_needs_a_token_and_gives_pages() {
    let (service, _) = service();
    let token = create(&service, "alice").await;
    for name in ["alina", "bob"] {
        create(&service, name).await;
    }
    let ask = ListAccounts {
        pattern: "^al".to_owned(),
        page_size: 1,
        ..ListAccounts::default()
    };
    let first = service.list_accounts(&token, ask.clone()).await.unwrap();
    assert_eq!(first.usernames, ["alice"]);
    let next = ListAccounts {
        page_token: first.next_page_token,
        ..ask.clone()
    };
    let second = service.list_accounts(&token, next).await.unwrap();
    assert_eq!(second.usernames, ["alina"]);
    assert_eq!(second.next_page_token, "");
    let bad = ListAccounts {
        pattern: "(".to_owned(),
        ..ask.clone()
    };
    assert_eq!(
        reason(service.list_accounts(&token, bad).await),
        Reason::PatternInvalid
    );
    assert_eq!(
        reason(service.list_accounts(&Token::generate(), ask).await),
        Reason::TokenInvalid
    );
}

#[tokio::test]
async fn changing_the_password_needs_the_old_one_and_revokes_the_other_tokens() {
    let (service, fake) = service();
    let mine = create(&service, "alice").await;
    let other = login(&service, "alice", "secret").await.unwrap().token;
    let change = |old: &str, new: &str, request_id| ChangePassword {
        old: password(old),
        new: password(new),
        request_id,
    };
    let wrong = service
        .change_password(&mine, change("guess", "next", None))
        .await;
    assert_eq!(reason(wrong), Reason::BadCredentials);
    // The outcome is lost: the call finds out by itself, and so does a repetition.
    fake.state().faults.push_back(Fault::ApplyAndLose);
    let asked = change("secret", "next", request(1));
    service.change_password(&mine, asked.clone()).await.unwrap();
    service.change_password(&mine, asked).await.unwrap();
    service.who_am_i(&mine).await.unwrap();
    assert_eq!(reason(service.who_am_i(&other).await), Reason::TokenInvalid);
    assert_eq!(
        reason(login(&service, "alice", "secret").await),
        Reason::BadCredentials
    );
    login(&service, "alice", "next").await.unwrap();
    // The same id with other passwords, though both are good, is another request.
    let reused = change("next", "third", request(1));
    assert_eq!(
        reason(service.change_password(&mine, reused).await),
        Reason::RequestIdReused
    );
    // The same password once more is a change as well, and its repetition is one.
    let same = change("next", "next", request(2));
    fake.state().faults.push_back(Fault::ApplyAndLose);
    service.change_password(&mine, same.clone()).await.unwrap();
    service.change_password(&mine, same).await.unwrap();
}

#[tokio::test]
async fn sessions_are_listed_revoked_and_logged_out() {
    let (service, fake) = service();
    let mine = create(&service, "alice").await;
    let other = login(&service, "alice", "secret").await.unwrap().token;
    let sessions = service.list_sessions(&mine).await.unwrap();
    assert_eq!(sessions.len(), 2);
    let not_mine = sessions.iter().find(|s| !s.current).unwrap().id;
    service.revoke_session(&mine, not_mine, None).await.unwrap();
    assert_eq!(reason(service.who_am_i(&other).await), Reason::TokenInvalid);
    let again = service.revoke_session(&mine, not_mine, None).await;
    assert_eq!(reason(again), Reason::SessionUnknown);
    fake.state().faults.push_back(Fault::ApplyAndLose);
    service.logout(&mine, None).await.unwrap();
    assert_eq!(
        reason(service.logout(&mine, None).await),
        Reason::TokenInvalid
    );
}

#[tokio::test]
async fn deleting_needs_the_password_and_survives_a_lost_outcome() {
    let (service, fake) = service();
    let token = create(&service, "alice").await;
    let wrong = service
        .delete_account(&token, &password("guess"), None)
        .await;
    assert_eq!(reason(wrong), Reason::BadCredentials);
    let revoked_meanwhile = [
        Fault::Refuse(WriteError::OutcomeUnknown),
        Fault::Reply(Refusal::TokenInvalid),
    ];
    fake.state().faults.extend(revoked_meanwhile);
    let unsure = service
        .delete_account(&token, &password("secret"), None)
        .await;
    assert_eq!(
        reason(unsure),
        Reason::TokenInvalid,
        "the account is still there"
    );
    let gone_and_lost = [Fault::ApplyAndLose, Fault::Reply(Refusal::TokenInvalid)];
    fake.state().faults.extend(gone_and_lost);
    service
        .delete_account(&token, &password("secret"), None)
        .await
        .unwrap();
    assert!(fake.state().accounts.is_empty());
}

#[tokio::test]
async fn reads_are_tried_again_until_they_are_answered_or_time_is_up() {
    let (service, fake) = service();
    let token = create(&service, "alice").await;
    fake.state().read_faults.push_back(ReadError::Unavailable);
    service.who_am_i(&token).await.unwrap();
    let (service, fake) = service_that_retries_for(Duration::from_millis(50));
    let unavailable = [ReadError::Unavailable; 99];
    fake.state().read_faults.extend(unavailable);
    assert_eq!(reason(service.who_am_i(&token).await), Reason::Unavailable);
    fake.state().read_faults = [ReadError::Overloaded].into();
    assert_eq!(reason(service.who_am_i(&token).await), Reason::Overloaded);
}

#[tokio::test]
async fn no_secret_shows_in_a_trace_of_requests_commands_or_replies() {
    let (service, fake) = service();
    let request = CreateAccount {
        username: "alice".to_owned(),
        password: password("hunter2"),
        request_id: request(1),
        ..CreateAccount::default()
    };
    let mut trace = vec![format!("{request:?}")];
    let created = service.create_account(request).await.unwrap();
    let send = message("alice", "between us");
    trace.push(format!("{created:?} {send:?}"));
    service.send_message(&created.token, send).await.unwrap();
    let change = ChangePassword {
        old: password("hunter2"),
        new: password("hunter3"),
        request_id: None,
    };
    trace.push(format!("{change:?}"));
    service
        .change_password(&created.token, change)
        .await
        .unwrap();
    let state = fake.state();
    for command in &state.writes {
        trace.push(format!("{:?}", command.operation));
    }
    let trace = trace.join("\n");
    assert!(trace.contains("alice"), "the trace says something");
    for secret in [
        "hunter",
        "between",
        "argon2",
        &created.token.reveal()[3..19],
    ] {
        assert!(!trace.contains(secret), "{secret} in {trace}");
    }
}

#[tokio::test]
async fn the_primary_is_named_by_its_client_address() {
    let (service, fake) = service();
    assert_eq!(service.replica(), ReplicaId(1));
    assert_eq!(service.primary_address().as_deref(), Some("replica-2:7000"));
    fake.state().primary = None;
    assert!(!service.serves());
    assert_eq!(service.primary_address(), None);
}
