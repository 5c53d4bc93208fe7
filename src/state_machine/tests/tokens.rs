//! Verification, sessions, revocation, extension, expiry.

use super::*;
use crate::limits::TOKENS_MAX;
use crate::state_machine::{Notice, SessionInfo};

fn valid(rig: &Rig, token: TokenHash) -> bool {
    match rig.query(&Query::Check { token }) {
        Answer::WhoAmI { .. } => true,
        Answer::Refused(Refusal::TokenInvalid) => false,
        other => panic!("{other:?}"),
    }
}

fn sessions(rig: &Rig, token: TokenHash) -> Vec<SessionInfo> {
    match rig.query(&Query::Sessions { token }) {
        Answer::Sessions(sessions) => sessions,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_a_registered_token_is_valid() {
    let mut rig = Rig::new();
    let alice = rig.create("alice");
    assert!(valid(&rig, alice.token));
    assert!(!valid(&rig, token("wrong")));
    let mut forged = alice.clone();
    forged.token = token("wrong");
    let digest = rig.machine.digest();
    let reply = rig.run(&forged.next(send("alice", "x")));
    assert_eq!(reply, refused(Refusal::TokenInvalid));
    let bare = internal(Operation::DeleteAccount);
    assert_eq!(rig.run(&bare), refused(Refusal::TokenInvalid));
    assert_eq!(rig.machine.digest(), digest);
}

#[test]
fn a_logged_out_token_is_judged_at_apply() {
    let mut rig = Rig::new();
    let mut alice = rig.create("alice");
    let applied = rig.apply(&alice.next(Operation::RevokeOwnToken));
    assert_eq!(applied.reply, Some(Reply::Done));
    assert_eq!(applied.notices, [Notice::Revoked(alice.token)]);
    assert!(!valid(&rig, alice.token));
    let late = rig.run(&alice.next(send("alice", "x")));
    assert_eq!(late, refused(Refusal::TokenInvalid));
    rig.check();
}

#[test]
fn sessions_are_listed_and_revoked_by_their_public_id() {
    let mut rig = Rig::new();
    let (mut alice, mut bob) = (rig.create("alice"), rig.create("bob"));
    rig.run(&alice.login("phone", "phone", 1));
    let listed = sessions(&rig, alice.token);
    let devices: Vec<&str> = listed.iter().map(|s| &s.device[..]).collect();
    assert_eq!(devices, ["default", "phone"]);
    assert_eq!((listed[0].current, listed[1].current), (true, false));
    let session = listed[1].id;
    // Nobody revokes another account's session.
    let foreign = rig.run(&bob.next(Operation::RevokeSession { session }));
    assert_eq!(foreign, refused(Refusal::SessionUnknown));
    let applied = rig.apply(&alice.next(Operation::RevokeSession { session }));
    assert_eq!(applied.reply, Some(Reply::Done));
    assert_eq!(applied.notices, [Notice::Revoked(token("phone"))]);
    assert!(!valid(&rig, token("phone")));
    assert!(valid(&rig, alice.token));
    rig.check();
}

#[test]
fn one_token_too_many_drops_the_least_recently_used() {
    let mut rig = Rig::new();
    let alice = rig.create("alice");
    for i in 1..TOKENS_MAX {
        rig.run(&alice.login("default", &format!("t{i}"), 1));
    }
    rig.now.0 += SECOND;
    let tokens = vec![alice.token];
    rig.run(&internal(Operation::ExtendTokens { tokens }));
    let applied = rig.apply(&alice.login("default", "last", 1));
    assert_eq!(applied.notices, [Notice::Revoked(token("t1"))]);
    assert!(valid(&rig, alice.token) && valid(&rig, token("last")));
    assert_eq!(sessions(&rig, alice.token).len(), TOKENS_MAX);
    rig.check();
}

#[test]
fn idle_tokens_expire_and_used_ones_do_not() {
    let mut rig = Rig::new();
    let (alice, bob) = (rig.create("alice"), rig.create("bob"));
    let idle_us = 100 * SECOND;
    let idle = |rig: &mut Rig| {
        let (now, trees) = (rig.now, rig.trees.clone());
        rig.machine.idle_tokens(&trees, now, idle_us, 10).unwrap()
    };
    rig.now.0 += 60 * SECOND;
    let tokens = vec![bob.token, token("gone")];
    rig.run(&internal(Operation::ExtendTokens { tokens }));
    assert!(idle(&mut rig).is_empty());
    rig.now.0 += 60 * SECOND;
    assert_eq!(idle(&mut rig), [alice.token]);
    let tokens = vec![alice.token, bob.token, token("gone")];
    let expire = Operation::ExpireTokens { tokens, idle_us };
    let applied = rig.apply(&internal(expire));
    assert_eq!(applied.notices, [Notice::Revoked(alice.token)]);
    assert!(valid(&rig, bob.token) && !valid(&rig, alice.token));
    rig.check();
}

#[test]
fn the_search_for_idle_tokens_goes_round() {
    let mut rig = Rig::new();
    for i in 0..25 {
        rig.create(&format!("user{i}"));
        if i == 10 {
            rig.drain();
        }
    }
    rig.now.0 += 100 * SECOND;
    let (now, trees) = (rig.now, rig.trees.clone());
    let mut search = || rig.machine.idle_tokens(&trees, now, SECOND, 10).unwrap();
    let mut seen: Vec<TokenHash> = (0..3).flat_map(|_| search()).collect();
    assert_eq!(seen.len(), 25);
    seen.dedup();
    assert_eq!(seen.len(), 25, "each once, in order");
    assert_eq!(search(), seen[..10], "and again from the start");
}
