//! Creation, login, password, profile, deletion.

use super::*;
use crate::state_machine::Notice;
use crate::types::InboxSeq;

#[test]
fn an_account_is_created_logged_in_and_found_by_name() {
    let mut rig = Rig::new();
    let applied = rig.apply(&create("alice", Some(request("alice", 1)), token("alice")));
    let user = UserId(2);
    let Some(Reply::LoggedIn { account, session }) = applied.reply else {
        panic!("{applied:?}");
    };
    assert_eq!((account.user, session), (user, 2));
    assert_eq!(account.full_name, "alice in full");
    let name = "alice".to_owned();
    assert_eq!(applied.notices, [Notice::AccountCreated { name, user }]);
    let Answer::Credentials(Some(found)) = rig.query(&Query::Credentials {
        name: "alice".into(),
    }) else {
        panic!("no credentials");
    };
    assert_eq!((found.user, found.password_version), (user, 1));
    assert_eq!(found.password_hash.0, "hash of alice");
    let names = rig.machine.names(&rig.trees).unwrap();
    assert_eq!(names, [("alice".to_owned(), user)]);
    rig.check();
}

#[test]
fn a_taken_name_is_refused_and_its_creation_repeated_is_recognised() {
    let mut rig = Rig::new();
    let alice = rig.create("alice");
    let digest = rig.machine.digest();
    let other = create("alice", Some(request("mallory", 1)), token("x"));
    assert_eq!(rig.run(&other), refused(Refusal::NameTaken));
    let nameless = create("alice", None, token("y"));
    assert_eq!(rig.run(&nameless), refused(Refusal::NameTaken));
    // The service made another token for the repetition: the first one's secret is lost.
    let again = create("alice", Some(request("alice", 1)), token("new"));
    let already = Reply::AlreadyCreated { user: alice.id };
    assert_eq!(rig.run(&again), already);
    // The very same entry once more: its own reply.
    let same = create("alice", Some(request("alice", 1)), token("alice"));
    let Reply::LoggedIn { account, session } = rig.run(&same) else {
        panic!("not the first reply");
    };
    assert_eq!((account.user, session), (alice.id, alice.session));
    assert_eq!(rig.machine.digest(), digest);

    // What the service does next: a login under the creation's id.
    let mut login = alice.login("default", "new", 1);
    login.request = Some(request("alice", 1));
    if let Operation::IssueToken { token, .. } = &mut login.operation {
        token.client = client("alice");
    }
    assert!(matches!(rig.run(&login), Reply::LoggedIn { .. }));
    assert!(matches!(
        rig.query(&Query::Check {
            token: token("new")
        }),
        Answer::WhoAmI { .. }
    ));
    rig.check();
}

#[test]
fn a_login_is_judged_by_the_password_version_at_its_index() {
    let mut rig = Rig::new();
    let mut alice = rig.create("alice");
    let right = rig.run(&alice.login("phone", "second", 1));
    assert!(matches!(right, Reply::LoggedIn { .. }));
    let change = alice.next(Operation::ChangePassword {
        password_hash: "new hash".into(),
        password_version: 1,
    });
    let applied = rig.apply(&change);
    assert_eq!(applied.reply, Some(Reply::Done));
    assert_eq!(applied.notices, [Notice::Revoked(token("second"))]);
    // Verified against the old password, applied after the change.
    let late = rig.run(&alice.login("phone", "third", 1));
    assert_eq!(late, refused(Refusal::PasswordChanged));
    let right = rig.run(&alice.login("phone", "fourth", 2));
    assert!(matches!(right, Reply::LoggedIn { .. }));
    let late_change = alice.next(Operation::ChangePassword {
        password_hash: "another".into(),
        password_version: 1,
    });
    assert_eq!(rig.run(&late_change), refused(Refusal::PasswordChanged));
    // The token that changed the password goes on.
    let whoami = rig.query(&Query::WhoAmI { token: alice.token });
    let Answer::WhoAmI {
        password_version,
        password_hash,
        ..
    } = whoami
    else {
        panic!("{whoami:?}");
    };
    assert_eq!((password_version, &password_hash.0[..]), (2, "new hash"));
    rig.check();
}

#[test]
fn a_login_to_no_account_and_from_a_ninth_device_in_use_is_refused() {
    let mut rig = Rig::new();
    let alice = rig.create("alice");
    let mut nobody = alice.clone();
    nobody.id = UserId(99);
    assert_eq!(
        rig.run(&nobody.login("phone", "n", 1)),
        refused(Refusal::UserUnknown)
    );
    for i in 0..7 {
        let reply = rig.run(&alice.login(&format!("device{i}"), &format!("secret{i}"), 1));
        assert!(matches!(reply, Reply::LoggedIn { .. }));
    }
    let ninth = rig.run(&alice.login("device9", "ninth", 1));
    assert_eq!(ninth, refused(Refusal::TooManyDevices));
    let known = rig.run(&alice.login("device0", "again", 1));
    assert!(matches!(known, Reply::LoggedIn { .. }));
    // Of two devices that nobody is logged in on, the one whose last login is longer ago goes.
    for secret in ["secret0", "again", "secret1"] {
        let mut on_device = alice.clone();
        on_device.token = token(secret);
        let out = Operation::RevokeOwnToken;
        let logout = Command {
            auth: Some(Auth {
                token: on_device.token,
            }),
            request: None,
            operation: out,
            front: false,
        };
        assert_eq!(rig.run(&logout), Reply::Done);
    }
    let ninth = rig.run(&alice.login("device9", "ninth", 1));
    assert!(matches!(ninth, Reply::LoggedIn { .. }));
    let key = super::super::records::keys::head(alice.id);
    let view = rig.machine.view(&rig.trees);
    let head: super::super::records::Head = view.read(Tree::Users, &key).unwrap().unwrap();
    assert!(head.device("device1").is_none() && head.device("device0").is_some());
    rig.check();
}

#[test]
fn a_profile_changes() {
    let mut rig = Rig::new();
    let mut alice = rig.create("alice");
    let full_name = "Alice Liddell".to_owned();
    let update = alice.next(Operation::UpdateProfile { full_name });
    assert_eq!(rig.run(&update), Reply::Done);
    let Answer::WhoAmI { account, .. } = rig.query(&Query::WhoAmI { token: alice.token }) else {
        panic!("not logged in");
    };
    assert_eq!(account.full_name, "Alice Liddell");
    rig.check();
}

#[test]
fn a_deleted_account_is_gone_and_its_name_is_free_but_not_its_id_or_inbox() {
    let mut rig = Rig::new();
    let (mut alice, mut bob) = (rig.create("alice"), rig.create("bob"));
    assert!(matches!(
        rig.run(&bob.next(send("alice", "secret"))),
        Reply::Sent { .. }
    ));
    rig.run(&alice.login("phone", "second", 1));
    let applied = rig.apply(&alice.next(Operation::DeleteAccount));
    assert_eq!(applied.reply, Some(Reply::Done));
    let gone = Notice::AccountDeleted {
        name: "alice".into(),
        user: alice.id,
    };
    let revoked = [alice.token, token("second")].map(Notice::Revoked);
    assert_eq!(applied.notices[..2], revoked);
    assert_eq!(applied.notices[2], gone);

    let check = Query::Check { token: alice.token };
    assert_eq!(rig.query(&check), Answer::Refused(Refusal::TokenInvalid));
    let unknown = rig.run(&bob.next(send("alice", "hello?")));
    assert_eq!(unknown, refused(Refusal::RecipientUnknown));
    rig.check();

    let again = create("alice", Some(request("alice", 1)), token("reborn"));
    let Reply::LoggedIn { account, .. } = rig.run(&again) else {
        panic!("the name is not free");
    };
    assert!(account.user > alice.id);
    let inbox = rig.query(&Query::Inbox {
        token: token("reborn"),
        after: None,
        limit: 10,
    });
    let Answer::Inbox {
        messages, cursor, ..
    } = inbox
    else {
        panic!("{inbox:?}");
    };
    assert!(messages.is_empty());
    assert_eq!(cursor.last, InboxSeq(0));
    rig.check();
}

#[test]
fn the_rows_of_a_deleted_account_are_removed_a_few_at_a_time() {
    let mut rig = Rig::new();
    let (mut alice, mut bob) = (rig.create("alice"), rig.create("bob"));
    let body = "x".repeat(3_000);
    for _ in 0..60 {
        rig.run(&bob.next(send("alice", &body)));
        rig.run(&alice.next(send("bob", "y")));
    }
    rig.drain();
    rig.run(&alice.next(Operation::DeleteAccount));
    let rows = |rig: &mut Rig| {
        rig.drain();
        let of_alice = alice.id.0.to_be_bytes();
        let mut keys = rig.trees.records.keys();
        let of = |tree, at| {
            move |(t, key): &&(Tree, Bytes)| *t == tree && key[at..].starts_with(&of_alice)
        };
        keys.by_ref().filter(of(Tree::Inboxes, 0)).count()
            + rig
                .trees
                .records
                .keys()
                .filter(of(Tree::Sessions, 1))
                .count()
    };
    assert!(rows(&mut rig) > 50);
    for _ in 0..30 {
        rig.run(&bob.next(send("bob", "z")));
        rig.check();
    }
    assert_eq!(rows(&mut rig), 0);
    assert_eq!(rig.machine.cleanups(), 0);
    rig.check();
}

#[test]
fn what_nobody_can_see_is_removed_without_any_client() {
    let mut rig = Rig::new();
    let (mut alice, mut bob) = (rig.create("alice"), rig.create("bob"));
    let body = "x".repeat(3_000);
    for _ in 0..600 {
        rig.run(&bob.next(send("alice", &body)));
    }
    rig.run(&alice.next(Operation::DeleteAccount));
    let mut entries = 0;
    while rig.machine.cleanups() > 0 {
        let clean_up = Command {
            auth: None,
            request: None,
            operation: Operation::clean_up(),
            front: false,
        };
        let before = rig.machine.digest();
        assert_eq!(rig.run(&clean_up), Reply::Done);
        assert_eq!(rig.machine.digest(), before, "outside the digest");
        entries += 1;
    }
    assert!(entries < 12, "{entries}: many rows at once");
    rig.drain();
    let (from, to) = crate::state_machine::records::keys::of_user(b"", alice.id);
    assert_eq!(rig.trees.within(Tree::Inboxes, &from, &to).count(), 0);
    rig.check();
}

#[test]
fn a_late_attempt_does_not_create_an_account_that_was_deleted_since() {
    for (level, revives) in [(1, true), (2, false)] {
        let mut rig = Rig::new();
        rig.raise(Level(level));
        let mut alice = rig.create("alice");
        let deletion = alice.next(Operation::DeleteAccount);
        assert_eq!(rig.run(&deletion), Reply::Done);
        rig.check();
        let late = create("alice", Some(request("alice", 1)), token("late"));
        let outcome = rig.run(&late);
        if revives {
            assert!(matches!(outcome, Reply::LoggedIn { .. }), "before level 2");
            rig.check();
            continue;
        }
        assert_eq!(outcome, refused(Refusal::UserUnknown));
        let other = create("bob", Some(request("alice", 1)), token("bob"));
        assert_eq!(rig.run(&other), refused(Refusal::RequestIdReused));
        // Somebody else's account of that name is none of its business, nor is its deletion.
        let mut next = create("alice", Some(request("next", 1)), token("next"));
        if let Operation::CreateAccount { token, .. } = &mut next.operation {
            token.client = client("next");
        }
        assert!(matches!(rig.run(&next), Reply::LoggedIn { .. }));
        assert_eq!(rig.run(&late), refused(Refusal::UserUnknown));
        rig.check();
        rig.drain();
        rig.check();
        rig.machine = StateMachine::open(rig.trees.slice.as_ref()).unwrap();
        assert_eq!(rig.run(&late), refused(Refusal::UserUnknown));
        rig.check();
    }
}

#[test]
fn two_accounts_of_one_request_id_leave_one_record_and_a_digest_that_adds_up() {
    let mut rig = Rig::new();
    rig.raise(Level(2));
    rig.create("alice");
    let mut bob = create("bob", Some(request("alice", 1)), token("bob"));
    if let Operation::CreateAccount { token, .. } = &mut bob.operation {
        token.client = client("alice");
    }
    assert!(matches!(rig.run(&bob), Reply::LoggedIn { .. }));
    for name in ["alice", "bob"] {
        let deletion = Command {
            auth: Some(Auth { token: token(name) }),
            request: None,
            operation: Operation::DeleteAccount,
            front: false,
        };
        assert_eq!(rig.run(&deletion), Reply::Done);
        rig.check();
        if name == "alice" {
            // bob lives, and was created by this request.
            assert!(matches!(rig.run(&bob), Reply::LoggedIn { .. }));
        }
    }
    assert_eq!(rig.run(&bob), refused(Refusal::RequestIdReused));
    rig.check();
}
