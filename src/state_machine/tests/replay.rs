//! The same log gives the same replies and the same digest, however and wherever slices are
//! written and the replica is restarted.

use super::*;
use crate::state_machine::check_level_of;
use crate::types::{FORMATION_LEVEL, InboxSeq};

/// A small seeded generator; the tests must not depend on a crate's idea of one.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

const NAMES: [&str; 5] = ["alice", "bob", "carol", "dave", "erin"];

/// Draws commands that are mostly right, often wrong, and now and then repeated.
struct Commands {
    seeded: Seeded,
    /// Tokens that were valid once, with their clients.
    sessions: Vec<(TokenHash, ClientId)>,
    users: Vec<UserId>,
    past: Vec<Command>,
    sequences: BTreeMap<ClientId, u64>,
}

impl Commands {
    fn new(seed: u64) -> Self {
        Self {
            seeded: Seeded(seed),
            sessions: vec![(token("never"), client("never"))],
            users: vec![UserId(1)],
            past: Vec::new(),
            sequences: BTreeMap::new(),
        }
    }

    fn observe(&mut self, command: &Command, applied: &Applied) {
        if let (
            Some(Reply::LoggedIn { account, .. }),
            Operation::CreateAccount { token, .. } | Operation::IssueToken { token, .. },
        ) = (&applied.reply, &command.operation)
        {
            self.sessions.push((token.hash, token.client));
            self.users.push(account.user);
        }
        // A token that was found invalid is seldom tried again.
        if let (Some(Reply::Refused(Refusal::TokenInvalid)), Some(auth)) =
            (&applied.reply, &command.auth)
            && auth.token != token("never")
        {
            self.sessions.retain(|(token, _)| *token != auth.token);
        }
    }

    fn session(&mut self) -> (TokenHash, ClientId) {
        let recent = self.sessions.len().min(12) as u64;
        let back = self.seeded.below(recent) as usize;
        self.sessions[self.sessions.len() - 1 - back]
    }

    fn new_token(&mut self) -> NewToken {
        let device = format!("device{}", self.seeded.below(9));
        let mut new = new_token(&device, &format!("secret{}", self.past.len()));
        new.client = client(&format!("client{}", self.seeded.below(24)));
        new
    }

    fn sequence(&mut self, client: ClientId) -> u64 {
        let next = self.sequences.entry(client).or_insert(0);
        match self.seeded.below(40) {
            0 => *next += 2_000 + self.seeded.below(100),
            1..4 => return self.seeded.below(*next + 1),
            _ => *next += 1,
        }
        *next
    }

    fn next(&mut self) -> Command {
        if !self.past.is_empty() && self.seeded.below(10) == 0 {
            return self.seeded.pick(&self.past).clone();
        }
        let (session, mut by) = self.session();
        let operation = self.operation();
        if let Operation::CreateAccount { token, .. } | Operation::IssueToken { token, .. } =
            &operation
        {
            by = token.client;
        }
        let front = self.seeded.below(4) == 0;
        if front {
            by = client(&format!("front{}", self.seeded.below(70)));
        } else if self.seeded.below(20) == 0 {
            by = client(&format!("client{}", self.seeded.below(24)));
        }
        let request = RequestId {
            client: by,
            sequence: self.sequence(by),
        };
        let command = Command {
            auth: Some(Auth { token: session }),
            request: (self.seeded.below(8) != 0).then_some(request),
            operation,
            front,
        };
        self.past.push(command.clone());
        command
    }

    fn tokens(&mut self) -> Vec<TokenHash> {
        (0..10).map(|_| self.session().0).collect()
    }

    fn operation(&mut self) -> Operation {
        let name = (*self.seeded.pick(&NAMES)).to_owned();
        match self.seeded.below(40) {
            0..4 => Operation::CreateAccount {
                name,
                full_name: "full".into(),
                password_hash: "hash".into(),
                token: self.new_token(),
            },
            4..8 => Operation::IssueToken {
                user: *self.seeded.pick(&self.users),
                password_version: 1 + self.seeded.below(2) as u32,
                token: self.new_token(),
            },
            8 => Operation::RevokeOwnToken,
            9 => Operation::RevokeSession {
                session: self.seeded.below(100),
            },
            10..16 => Operation::Acknowledge {
                up_to: InboxSeq(self.seeded.below(60)),
            },
            16 => Operation::ChangePassword {
                password_hash: "other hash".into(),
                password_version: 1,
            },
            17 => Operation::UpdateProfile { full_name: name },
            18 if self.seeded.below(3) == 0 => Operation::DeleteAccount,
            19 => Operation::ExtendTokens {
                tokens: self.tokens(),
            },
            20 => Operation::ExpireTokens {
                tokens: self.tokens(),
                idle_us: 200_000,
            },
            21 => Operation::ExpireMessages {
                users: self.users.clone(),
                before: WallTime(1_000 * SECOND + self.seeded.below(400) * 1_000),
            },
            _ => Operation::SendMessage {
                recipient: name,
                body: vec![0xee; self.seeded.below(2_000) as usize],
                content_type: "t".into(),
            },
        }
    }
}

/// Applies a random log without ever writing a slice.
fn reference(seed: u64, entries: usize) -> (Rig, Vec<(Applied, Hash)>) {
    let mut rig = Rig::new();
    let mut commands = Commands::new(seed);
    let mut outcomes = Vec::new();
    outcomes.push((
        Applied {
            reply: None,
            notices: Vec::new(),
        },
        rig.machine.digest(),
    ));
    let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
    for i in 0..entries {
        let applied = if i % 97 == 96 {
            rig.apply_entry(rig.seal(Kind::TermStart, &[]))
        } else if i == entries / 4 {
            rig.raise(LEVEL)
        } else {
            let command = commands.next();
            let applied = rig.apply(&command);
            commands.observe(&command, &applied);
            applied
        };
        if let Some(Reply::Refused(refusal)) = applied.reply {
            *refusals.entry(format!("{refusal:?}")).or_default() += 1;
        }
        outcomes.push((applied, rig.machine.digest()));
        if i % 50 == 0 {
            rig.check();
        }
    }
    rig.check();
    let refused: usize = refusals.values().sum();
    assert!(
        refused * 5 < entries * 4,
        "too little was done: {refusals:?}"
    );
    (rig, outcomes)
}

#[test]
fn the_digest_is_what_a_scan_finds_and_draining_changes_nothing() {
    let (mut kept, mut met) = (0, 0);
    for seed in 0..20 {
        let (mut rig, outcomes) = reference(seed, 600);
        let mut drained = Rig::new();
        drained.drain();
        for (entry, (applied, digest)) in rig.log.iter().zip(&outcomes).skip(1) {
            let again = drained.apply_entry(entry.clone());
            assert_eq!((&again, drained.machine.digest()), (applied, *digest));
            drained.drain();
        }
        drained.check();
        rig.drain();
        assert!(rig.trees.records == drained.trees.records, "seed {seed}");
        let creations = |key: &&(Tree, bytes::Bytes)| key.0 == Tree::Users && key.1[0] == b'g';
        kept += rig.trees.records.keys().filter(creations).count();
        let told = rig.log.iter().zip(&outcomes);
        met += told
            .filter(|(entry, told)| is_late_creation(entry, &told.0))
            .count();
    }
    assert!(kept > 0 && met > 0, "{kept} creations kept, {met} met");
}

fn is_late_creation(entry: &Entry, applied: &Applied) -> bool {
    let command = Command::decode(entry.payload()).map(|command| command.operation);
    matches!(command, Some(Operation::CreateAccount { .. }))
        && applied.reply == Some(Reply::Refused(Refusal::UserUnknown))
}

#[test]
fn slices_at_any_point_and_a_restart_give_the_same_replies_and_digest() {
    for seed in 100..130 {
        let (mut rig, outcomes) = reference(seed, 500);
        let mut seeded = Seeded(seed);
        let mut machine = StateMachine::open(None).unwrap();
        let mut trees = Trees::default();
        let mut steps = 0;
        while machine.applied() < rig.machine.applied() {
            steps += 1;
            match seeded.below(40) {
                0 => {
                    // Crash: what was not written is applied again.
                    machine = StateMachine::open(trees.slice.as_ref()).unwrap();
                }
                1 | 2 => {
                    let behind = seeded.below(3);
                    let recorded = Index(machine.applied().0.saturating_sub(behind));
                    if let Some(slice) = machine.next_slice(recorded, seeded.below(2) == 0) {
                        assert!(slice.applied <= recorded);
                        assert_eq!(slice.digest, outcomes[slice.applied.0 as usize - 1].1);
                        trees.write(slice);
                        // A crash may come between the write and its completion.
                        if seeded.below(4) == 0 {
                            machine = StateMachine::open(trees.slice.as_ref()).unwrap();
                        } else {
                            machine.slice_written();
                        }
                    }
                }
                _ => {
                    let at = machine.applied().0 as usize;
                    let applied = machine.apply(&trees, &rig.log[at]).unwrap();
                    assert_eq!(
                        (&applied, machine.digest()),
                        (&outcomes[at].0, outcomes[at].1)
                    );
                }
            }
            assert!(steps < 100_000, "seed {seed} makes no progress");
        }
        assert_eq!(machine.scan_digest(&trees).unwrap(), machine.digest());
        assert_eq!(machine.digests(), rig.machine.digests());
        while let Some(slice) = machine.next_slice(machine.applied(), true) {
            trees.write(slice);
            machine.slice_written();
        }
        rig.drain();
        assert!(rig.trees.records == trees.records, "seed {seed}");
    }
}

#[test]
fn digests_are_kept_at_the_last_four_multiples_across_a_restart() {
    let mut rig = Rig::new();
    let mut alice = rig.create("alice");
    while rig.machine.applied().0 < 6_000 {
        rig.run(&alice.next(send("alice", "x")));
        if rig.machine.applied().0 == 3_072 {
            let digest = rig.machine.digest();
            assert_eq!(rig.machine.digests().last(), Some(&(Index(3_072), digest)));
        }
    }
    let kept = rig.machine.digests();
    let at: Vec<u64> = kept.iter().map(|(index, _)| index.0).collect();
    assert_eq!(at, [2_048, 3_072, 4_096, 5_120]);
    rig.drain();
    let machine = StateMachine::open(rig.trees.slice.as_ref()).unwrap();
    assert_eq!(machine.digests(), kept);
}

#[test]
fn membership_and_level_come_from_the_log_and_survive_a_restart() {
    let mut rig = Rig::new();
    let replace = crate::types::entry::ReplaceIncarnation {
        id: ReplicaId(1),
        old: Incarnation([1; 16]),
        new: Incarnation([2; 16]),
    };
    let before = rig.machine.digest();
    let payload = rmp_serde::to_vec(&replace).unwrap();
    rig.apply_entry(rig.seal(Kind::ReplaceIncarnation, &payload));
    assert_eq!(rig.machine.members()[&ReplicaId(1)], Incarnation([2; 16]));
    assert_ne!(rig.machine.digest(), before);
    rig.drain();
    let machine = StateMachine::open(rig.trees.slice.as_ref()).unwrap();
    assert_eq!(machine.members(), rig.machine.members());
    assert_eq!(
        (machine.level(), machine.applied()),
        (FORMATION_LEVEL, Index(2))
    );

    let beyond = rmp_serde::to_vec(&Level(LEVEL.0 + 1)).unwrap();
    let entry = rig.seal(Kind::RaiseLevel, &beyond);
    let error = rig.machine.apply(&rig.trees, &entry).unwrap_err();
    assert!(error.to_string().contains("newer version"), "{error}");

    // A build that knows it goes on, and its state is no other's from here on.
    rig.machine = StateMachine::open_knowing(rig.trees.slice.as_ref(), Level(LEVEL.0 + 1)).unwrap();
    let before = rig.machine.digest();
    rig.apply_entry(entry);
    assert_eq!(rig.machine.level(), Level(LEVEL.0 + 1));
    assert_ne!(rig.machine.digest(), before);
    rig.drain();
    let slice = rig.trees.slice.unwrap();
    assert!(check_level_of(&slice, Level(LEVEL.0 + 1)).is_ok());
    for error in [
        check_level_of(&slice, LEVEL),
        StateMachine::open(Some(&slice)).map(|_| ()),
    ] {
        let error = error.unwrap_err().to_string();
        let above = format!("is at level {}", LEVEL.0 + 1);
        assert!(error.contains(&above), "{error}");
    }
}

#[test]
fn a_slice_whose_totals_are_not_its_digests_or_of_a_newer_version_is_refused() {
    let mut rig = Rig::new();
    rig.create("alice");
    rig.drain();
    let slice = rig.trees.slice.unwrap();
    let mut wrong = slice.clone();
    wrong.digest = Hash([1; 32]);
    assert!(StateMachine::open(Some(&wrong)).is_err());
    let mut newer = slice.clone();
    newer.machine = [&[9], &slice.machine[1..]].concat().into();
    let error = StateMachine::open(Some(&newer)).err().unwrap().to_string();
    assert!(error.contains("newer version"), "{error}");
}

#[test]
fn an_undecodable_command_stops_the_replica() {
    let mut rig = Rig::new();
    let entry = rig.seal(Kind::Command, b"\xc1 not a command");
    let error = rig.machine.apply(&rig.trees, &entry).unwrap_err();
    assert!(error.to_string().contains("entry 2"), "{error}");
    // Every replica meets it: damage would make all of them put their stores aside.
    assert!(matches!(error, crate::storage::StorageError::Unusable(_)));
}

#[test]
#[should_panic(expected = "in order")]
fn an_entry_out_of_order_is_a_defect() {
    let mut rig = Rig::new();
    let entry = rig.log[0].clone();
    let _ = rig.machine.apply(&rig.trees, &entry);
}

#[test]
fn the_largest_message_and_the_longest_lists_fit_into_an_entry() {
    use crate::limits::{
        BODY_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, ENTRY_PAYLOAD_BYTES_MAX, EXTEND_TOKENS_MAX,
    };
    let command = |operation| Command {
        auth: Some(Auth {
            token: TokenHash([0xff; 32]),
        }),
        request: Some(request("alice", u64::MAX)),
        operation,
        front: true,
    };
    let message = command(Operation::SendMessage {
        recipient: "a".repeat(32),
        body: vec![0xff; BODY_BYTES_MAX],
        content_type: "t".repeat(CONTENT_TYPE_BYTES_MAX),
    });
    let tokens = command(Operation::ExtendTokens {
        tokens: vec![TokenHash([0xff; 32]); EXTEND_TOKENS_MAX],
    });
    for command in [message, tokens] {
        let bytes = command.encode();
        assert!(bytes.len() <= ENTRY_PAYLOAD_BYTES_MAX, "{}", bytes.len());
        assert_eq!(Command::decode(&bytes), Some(command));
    }
}

#[test]
fn a_command_without_its_later_fields_decodes() {
    let old: (Option<Auth>, Option<RequestId>, Operation) =
        (None, Some(request("alice", 3)), Operation::DeleteAccount);
    let decoded = Command::decode(&rmp_serde::to_vec(&old).unwrap()).unwrap();
    assert!(!decoded.front);
    assert_eq!(decoded.request, Some(request("alice", 3)));
}
