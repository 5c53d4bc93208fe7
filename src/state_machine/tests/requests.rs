//! A request is applied at most once.

use super::*;
use crate::limits::{CLIENTS_MAX, FRONT_REPLIES_MAX, FRONTS_MAX, REPLIES_MAX};
use crate::types::InboxSeq;

#[test]
fn a_repeated_request_gets_its_reply_and_has_no_effect() {
    let mut rig = Rig::new();
    let (mut alice, _) = (rig.create("alice"), rig.create("bob"));
    let command = alice.next(send("bob", "once"));
    let first = rig.run(&command);
    assert!(matches!(first, Reply::Sent { .. }));
    let digest = rig.machine.digest();
    let again = rig.apply(&command);
    assert_eq!(again.reply, Some(first));
    assert_eq!(again.notices, []);
    assert_eq!(rig.machine.digest(), digest);
    // A refusal is remembered as well: the name's existence does not change the past.
    let unknown = alice.next(send("carol", "hello"));
    assert_eq!(rig.run(&unknown), refused(Refusal::RecipientUnknown));
    rig.create("carol");
    assert_eq!(rig.run(&unknown), refused(Refusal::RecipientUnknown));
    rig.check();
}

#[test]
fn one_id_with_another_body_is_refused() {
    let mut rig = Rig::new();
    let mut alice = rig.create("alice");
    rig.run(&alice.next(send("alice", "one")));
    let digest = rig.machine.digest();
    let others = [
        send("alice", "two"),
        Operation::UpdateProfile {
            full_name: "x".into(),
        },
        Operation::DeleteAccount,
    ];
    for operation in others {
        let other = alice.with(alice.sequence, operation);
        assert_eq!(rig.run(&other), refused(Refusal::RequestIdReused));
    }
    assert_eq!(rig.machine.digest(), digest);
}

#[test]
fn what_is_asked_of_the_own_session_is_part_of_the_request() {
    let mut rig = Rig::new();
    let mut alice = rig.create("alice");
    let change = |hash: &str, version| Operation::ChangePassword {
        password_hash: hash.into(),
        password_version: version,
    };
    let first = alice.next(change("made of old and new", 1));
    assert_eq!(rig.run(&first), Reply::Done);
    assert_eq!(rig.run(&first), Reply::Done);
    // A repetition that finds its own change in force: the front sees another version.
    let late = alice.with(alice.sequence, change("made of old and new", 2));
    assert_eq!(rig.run(&late), Reply::Done);
    let reused = alice.with(alice.sequence, change("made of others", 2));
    assert_eq!(rig.run(&reused), refused(Refusal::RequestIdReused));
    let whoami = rig.query(&Query::WhoAmI { token: alice.token });
    assert!(matches!(
        whoami,
        Answer::WhoAmI { password_version: 2, password_hash, .. }
            if password_hash.0 == "made of old and new"
    ));

    // Another session of the same client, on another device.
    let mut login = alice.login("phone", "second", 2);
    if let Operation::IssueToken { token, .. } = &mut login.operation {
        token.client = alice.client;
    }
    login.request = Some(request("alice", 50));
    rig.run(&login);
    let mut other = alice.clone();
    other.token = token("second");
    rig.run(&alice.with(60, send("alice", "x")));
    let acknowledge = Operation::Acknowledge { up_to: InboxSeq(1) };
    let mine = rig.run(&alice.with(61, acknowledge.clone()));
    assert!(matches!(mine, Reply::Acknowledged { .. }));
    let theirs = rig.run(&other.with(61, acknowledge));
    assert_eq!(theirs, refused(Refusal::RequestIdReused));
    assert_eq!(
        rig.run(&alice.with(62, Operation::RevokeOwnToken)),
        Reply::Done
    );
    let theirs = rig.run(&other.with(62, Operation::RevokeOwnToken));
    assert_eq!(theirs, refused(Refusal::RequestIdReused));
    let answer = rig.query(&Query::Check {
        token: token("second"),
    });
    assert!(
        matches!(answer, Answer::WhoAmI { .. }),
        "nobody has revoked it"
    );
    // Nor is a login from another device the same login.
    if let Operation::IssueToken { token: new, .. } = &mut login.operation {
        (new.hash, new.device) = (token("third"), "tablet".into());
    }
    assert_eq!(rig.run(&login), refused(Refusal::RequestIdReused));
    rig.check();
}

#[test]
fn sequences_may_come_out_of_order_but_not_below_the_floor() {
    let mut rig = Rig::new();
    let alice = rig.create("alice");
    let run = |rig: &mut Rig, sequence| rig.run(&alice.with(sequence, send("alice", "x")));
    assert!(matches!(run(&mut rig, 10), Reply::Sent { .. }));
    assert!(matches!(run(&mut rig, 5), Reply::Sent { .. }));
    assert!(matches!(run(&mut rig, REPLIES_MAX + 4), Reply::Sent { .. }));
    // The floor is 5 now: known, not known, too old.
    let known = run(&mut rig, 5);
    assert!(matches!(known, Reply::Sent { inbox_seq, .. } if inbox_seq.0 == 2));
    assert!(matches!(run(&mut rig, 6), Reply::Sent { inbox_seq, .. } if inbox_seq.0 == 4));
    assert_eq!(run(&mut rig, 4), refused(Refusal::RequestTooOld));
    assert_eq!(run(&mut rig, 0), refused(Refusal::RequestTooOld));
    rig.check();
    // A jump to the end of the numbers leaves nothing behind but costs little at once.
    assert!(matches!(run(&mut rig, u64::MAX), Reply::Sent { .. }));
    assert_eq!(run(&mut rig, 10), refused(Refusal::RequestTooOld));
    rig.check();
}

#[test]
fn replies_below_the_floor_are_removed() {
    let mut rig = Rig::new();
    let mut alice = rig.create("alice");
    let (from, to) = crate::state_machine::records::keys::of_user(b"r", alice.id);
    // Records of 32 replies each.
    let groups = |rig: &mut Rig| {
        rig.drain();
        rig.trees.within(Tree::Sessions, &from, &to).count() as u64
    };
    for _ in 0..REPLIES_MAX + 200 {
        rig.run(&alice.next(Operation::UpdateProfile {
            full_name: "x".into(),
        }));
    }
    assert_eq!(groups(&mut rig), REPLIES_MAX / 32 + 1);
    rig.check();
    alice.sequence += 10_000;
    for _ in 0..64 {
        rig.run(&alice.next(Operation::RevokeSession { session: 0 }));
    }
    assert!(groups(&mut rig) <= 3);
    rig.check();
}

#[test]
fn a_client_that_is_not_registered_is_never_run() {
    let mut rig = Rig::new();
    let alice = rig.create("alice");
    let mut stranger = alice.clone();
    stranger.client = client("stranger");
    let digest = rig.machine.digest();
    let reply = rig.run(&stranger.next(send("alice", "x")));
    assert_eq!(reply, refused(Refusal::ClientUnknown));
    // Nor is a login that would register another client than the one that asks.
    let mut login = alice.login("default", "second", 1);
    login.request = Some(request("stranger", 1));
    assert_eq!(rig.run(&login), refused(Refusal::ClientUnknown));
    assert_eq!(rig.machine.digest(), digest);
}

#[test]
fn the_least_recent_client_is_dropped_and_what_it_ran_is_not_run_again() {
    let mut rig = Rig::new();
    let mut alice = rig.create("alice");
    let old = alice.with(7, send("alice", "old"));
    rig.run(&old);
    for i in 1..CLIENTS_MAX {
        rig.run(&alice.login("default", &format!("c{i}"), 1));
    }
    // The first one is used again: c1 is now the least recent.
    alice.sequence = 8;
    rig.run(&alice.next(send("alice", "x")));
    rig.run(&alice.login("default", "new", 1));
    assert!(matches!(rig.run(&old), Reply::Sent { .. }));
    let mut c1 = alice.clone();
    c1.client = client("c1");
    c1.token = token("c1");
    let dropped = rig.run(&c1.with(2, send("alice", "x")));
    assert_eq!(dropped, refused(Refusal::ClientUnknown));
    rig.check();

    let tokens = vec![alice.token];
    let mut used = alice.with(0, Operation::ExtendTokens { tokens });
    used.request = None;
    assert_eq!(rig.run(&used), Reply::Done);
    // All others push alice's first client out; it comes back with a later login.
    for i in 0..CLIENTS_MAX {
        rig.run(&alice.login("default", &format!("d{i}"), 1));
    }
    assert_eq!(rig.run(&old), refused(Refusal::ClientUnknown));
    let mut back = alice.login("default", "back", 1);
    back.request = Some(request("alice", 20));
    if let Operation::IssueToken { token, .. } = &mut back.operation {
        token.client = client("alice");
    }
    assert!(matches!(rig.run(&back), Reply::LoggedIn { .. }));
    assert_eq!(rig.run(&old), refused(Refusal::RequestTooOld));
    assert!(matches!(
        rig.run(&alice.with(21, send("alice", "x"))),
        Reply::Sent { .. }
    ));
    rig.check();
}

#[test]
fn a_repeated_login_issues_a_new_token_and_the_same_entry_twice_does_not() {
    let mut rig = Rig::new();
    let alice = rig.create("alice");
    let login = alice.login("default", "first", 1);
    let first = rig.run(&login);
    let digest = rig.machine.digest();
    assert_eq!(rig.run(&login), first);
    assert_eq!(rig.machine.digest(), digest);
    let mut repeated = login.clone();
    if let Operation::IssueToken { token: new, .. } = &mut repeated.operation {
        new.hash = token("second");
    }
    let second = rig.run(&repeated);
    assert!(matches!(second, Reply::LoggedIn { .. }));
    assert_ne!(second, first);
    for secret in ["first", "second"] {
        let token = token(secret);
        assert!(matches!(
            rig.query(&Query::Check { token }),
            Answer::WhoAmI { .. }
        ));
    }
    rig.check();
}

#[test]
fn a_login_without_a_request_id_is_the_same_when_its_token_is() {
    let mut rig = Rig::new();
    let alice = rig.create("alice");
    let mut login = alice.login("default", "first", 1);
    login.request = None;
    let first = rig.run(&login);
    assert_eq!(rig.run(&login), first);
    rig.check();
}

fn by_front(front: &str, sequence: u64, token: TokenHash, operation: Operation) -> Command {
    Command {
        auth: Some(Auth { token }),
        request: Some(request(front, sequence)),
        operation,
        front: true,
    }
}

#[test]
fn a_fronts_ids_need_no_registration_and_run_once() {
    let mut rig = Rig::new();
    let (alice, bob) = (rig.create("alice"), rig.create("bob"));
    let command = by_front("front", 1, alice.token, send("bob", "once"));
    let first = rig.run(&command);
    assert!(matches!(first, Reply::Sent { .. }));
    assert_eq!(rig.run(&command), first);
    // One front speaks for many accounts: an id is one command of one of them.
    let other = by_front("front", 1, bob.token, send("bob", "once"));
    assert_eq!(rig.run(&other), refused(Refusal::RequestIdReused));
    // Even what ends the token or the account is answered again.
    let logout = by_front("front", 2, alice.token, Operation::RevokeOwnToken);
    assert_eq!(rig.run(&logout), Reply::Done);
    assert_eq!(rig.run(&logout), Reply::Done);
    let delete = by_front("front", 3, bob.token, Operation::DeleteAccount);
    assert_eq!(rig.run(&delete), Reply::Done);
    assert_eq!(rig.run(&delete), Reply::Done);
    rig.check();
}

#[test]
fn a_front_creates_and_logs_in_without_registering_a_client() {
    let mut rig = Rig::new();
    let mut create = create("alice", Some(request("front", 1)), token("alice"));
    create.front = true;
    let first = rig.run(&create);
    let Reply::LoggedIn { account, .. } = &first else {
        panic!("{first:?}");
    };
    assert_eq!(rig.run(&create), first);
    let own = Command {
        auth: Some(Auth {
            token: token("alice"),
        }),
        request: Some(request("alice", 2)),
        operation: send("alice", "x"),
        front: false,
    };
    assert_eq!(rig.run(&own), refused(Refusal::ClientUnknown));
    let login = Command {
        auth: None,
        request: Some(request("front", 2)),
        operation: Operation::IssueToken {
            user: account.user,
            password_version: 1,
            token: new_token("default", "second"),
        },
        front: true,
    };
    let second = rig.run(&login);
    assert!(matches!(second, Reply::LoggedIn { .. }));
    assert_eq!(rig.run(&login), second);
    rig.check();
}

#[test]
fn fronts_are_bounded_and_never_push_out_a_registered_client() {
    let mut rig = Rig::new();
    let mut alice = rig.create("alice");
    for i in 0..FRONTS_MAX + 5 {
        let front = format!("front{i}");
        rig.run(&by_front(&front, 1, alice.token, send("alice", "x")));
    }
    assert!(matches!(
        rig.run(&alice.next(send("alice", "x"))),
        Reply::Sent { .. }
    ));
    rig.check();
    let jump = FRONT_REPLIES_MAX + 10;
    let last = format!("front{}", FRONTS_MAX + 4);
    rig.run(&by_front(&last, jump, alice.token, send("alice", "x")));
    let old = rig.run(&by_front(&last, 5, alice.token, send("alice", "x")));
    assert_eq!(old, refused(Refusal::RequestTooOld));
    rig.check();
}
