//! Every message survives its frame; what is wrong is told so.

use super::field::{Body, Private, RequestId};
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::BoxedStrategy;

/// A strategy for values of a kind.
pub(super) trait Sample: Sized {
    fn sample() -> BoxedStrategy<Self>;
}

fn text() -> BoxedStrategy<String> {
    // Delimiters, escapes and line ends often, anything else sometimes.
    let awkward =
        prop::sample::select(vec!["|", "||", "\\", "\n", "\r", "\\p", "-", "\u{1e}", "ä"]);
    let letter = prop_oneof![
        awkward.prop_map(str::to_owned),
        any::<char>().prop_map(String::from)
    ];
    vec(letter, 0..12)
        .prop_map(|letters| letters.concat())
        .boxed()
}

impl Sample for String {
    fn sample() -> BoxedStrategy<Self> {
        text()
    }
}
impl Sample for Private {
    fn sample() -> BoxedStrategy<Self> {
        text().prop_map(Self).boxed()
    }
}
impl Sample for Body {
    fn sample() -> BoxedStrategy<Self> {
        let text = text().prop_map(String::into_bytes);
        prop_oneof![text, vec(any::<u8>(), 0..40)]
            .prop_map(Self)
            .boxed()
    }
}
impl Sample for Option<RequestId> {
    fn sample() -> BoxedStrategy<Self> {
        any::<Option<([u8; 16], u64)>>()
            .prop_map(|id| {
                id.map(|(client_id, sequence)| RequestId {
                    client_id,
                    sequence,
                })
            })
            .boxed()
    }
}
macro_rules! samples {
    ($($number:ty)*) => {$(
        impl Sample for $number {
            fn sample() -> BoxedStrategy<Self> {
                any::<Self>().boxed()
            }
        }
    )*};
}
samples! { u16 u64 bool Option<u32> Option<u64> }
impl<T: Sample + std::fmt::Debug + 'static> Sample for Vec<T> {
    fn sample() -> BoxedStrategy<Self> {
        vec(T::sample(), 0..4).boxed()
    }
}

fn requests() -> BoxedStrategy<Request> {
    let one = v1::Request::sample().prop_map(Request::V1);
    prop_oneof![one, v2::Request::sample().prop_map(Request::V2)].boxed()
}

fn answers() -> BoxedStrategy<Reply> {
    let failure = (1..100u64, "[A-Z_]{1,20}", v2::Explanation::sample()).prop_map(
        |(opcode, reason, explanation)| {
            (
                opcode,
                Err(v2::Failure {
                    reason,
                    explanation,
                }),
            )
        },
    );
    let success = v2::Reply::sample().prop_map(|reply| (reply.opcode(), Ok(reply)));
    (any::<u16>(), text(), prop_oneof![failure, success])
        .prop_map(|(replica, primary, (opcode, outcome))| {
            let answer = v2::Answer {
                replica,
                primary,
                outcome,
            };
            Reply::V2(opcode, answer)
        })
        .boxed()
}

fn replies() -> BoxedStrategy<Reply> {
    prop_oneof![
        4 => answers(),
        4 => v1::Reply::sample().prop_map(Reply::V1),
        1 => (6..=u64::MAX).prop_map(Reply::OpcodeUnknown),
        1 => (any::<u64>(), 3..=u64::MAX).prop_map(|(o, v)| Reply::VersionUnsupported(o, v)),
        1 => prop::sample::select(FrameError::ALL).prop_map(Reply::Unread),
    ]
    .boxed()
}

fn encoded(request: &Request) -> Vec<u8> {
    let mut frame = Vec::new();
    request.encode(&mut frame);
    assert_eq!(frame.pop(), Some(b'\n'));
    frame
}

proptest! {
    #[test]
    fn every_request_survives_its_frame(request in requests()) {
        let frame = encoded(&request);
        prop_assert!(!frame.contains(&b'\n') && !frame.contains(&b'\r'));
        prop_assert_eq!(Request::decode(&frame), Ok(request));
    }

    #[test]
    fn every_reply_survives_its_frame(reply in replies()) {
        let mut frame = Vec::new();
        reply.encode(&mut frame);
        prop_assert_eq!(frame.pop(), Some(b'\n'));
        prop_assert!(!frame.contains(&b'\n') && !frame.contains(&b'\r'));
        prop_assert_eq!(Reply::decode(&frame), Ok(reply));
    }

    #[test]
    fn a_changed_or_cut_frame_is_refused(request in requests(), at: prop::sample::Index, to: u8) {
        let frame = encoded(&request);
        let at = at.index(frame.len());
        // A field that is `-` looks like a canary once the frame is cut behind it; such a frame
        // has no line end, and is not even looked at.
        if !frame[..at].ends_with(b"||-") {
            prop_assert!(Request::decode(&frame[..at]).is_err());
        }
        let mut changed = frame.clone();
        changed[at] = to;
        prop_assume!(changed != frame);
        prop_assert!(Request::decode(&changed).is_err());
    }

    #[test]
    fn any_bytes_are_taken_without_harm(data in vec(any::<u8>(), 0..300)) {
        fuzzing::request(&data);
        fuzzing::reply(&data);
        fuzzing::lines(&data);
    }

    #[test]
    fn any_text_that_looks_like_a_frame_is_taken_without_harm(
        fields in vec(prop_oneof![text(), "[0-9]{0,3}"], 0..12),
        first in prop::sample::select(vec!["0||1", "5||2", "11||2", "3||2", "-||-", "x||2"]),
    ) {
        let line = format!("{first}||{}||-", fields.join("||"));
        fuzzing::request(line.as_bytes());
        fuzzing::reply(line.as_bytes());
    }

    #[test]
    fn reads_of_any_size_give_the_same_frames(
        size: u8,
        pieces in vec(prop::sample::select(vec!["a", "\n", "\r", "\r\n", "0123456789012345678901234567"]), 0..40),
    ) {
        let mut data = vec![size % 80];
        data.extend(pieces.concat().bytes());
        fuzzing::lines(&data);
    }
}

fn broken(line: &str) -> (Option<(u64, u64)>, FrameError) {
    let broken = Request::decode(line.as_bytes()).unwrap_err();
    (broken.head, broken.error)
}

#[test]
fn what_a_person_types_is_understood() {
    for (line, expected) in [
        ("8||2||-", v2::Request::Ping(v2::Ping::default())),
        (
            "8||2||hi||-",
            v2::Request::Ping(v2::Ping { echo: "hi".into() }),
        ),
        ("9||2||-", v2::Request::Versions(v2::Versions {})),
        (
            "1||2||alice||secret||-",
            v2::Request::Login(v2::Login {
                username: "alice".into(),
                password: "secret".into(),
                ..v2::Login::default()
            }),
        ),
    ] {
        assert_eq!(Request::decode(line.as_bytes()), Ok(Request::V2(expected)));
    }
    let login = "1||1||alice||a\\pb\\\\c\\n||-";
    let Ok(Request::V1(v1::Request::Login(login))) = Request::decode(login.as_bytes()) else {
        panic!("not a login");
    };
    assert_eq!(login.password.0, "a|b\\c\n");
}

#[test]
fn what_is_wrong_is_told_with_the_head_where_it_can_be_read() {
    use FrameError::*;
    for (line, head, error) in [
        ("hello", None, FrameInvalid),
        ("", None, FrameInvalid),
        ("x||1||-", None, FrameInvalid),
        ("1||||-", None, FrameInvalid),
        ("+1||1||-", None, FrameInvalid),
        ("18446744073709551616||1||-", None, FrameInvalid),
        ("8||18446744073709551616||-", None, FrameInvalid),
        ("65536||1||-", Some((65_536, 1)), OpcodeUnknown),
        ("8||65536||-", Some((8, 65_536)), VersionUnsupported),
        (
            "8||18446744073709551615||-",
            Some((8, u64::MAX)),
            VersionUnsupported,
        ),
        ("8||2", Some((8, 2)), FrameInvalid),
        ("8||2|||-", Some((8, 2)), FrameInvalid),
        ("8||2||", Some((8, 2)), CanaryWrong),
        ("8||2||12345678", Some((8, 2)), CanaryWrong),
        ("8||3||-", Some((8, 3)), VersionUnsupported),
        ("8||0||-", Some((8, 0)), VersionUnsupported),
        ("6||1||-", Some((6, 1)), OpcodeUnknown),
        ("77||2||-", Some((77, 2)), OpcodeUnknown),
        ("1||1||alice||-", Some((1, 1)), FieldCount),
        ("1||1||alice||b||c||-", Some((1, 1)), FieldCount),
        ("8||2||a||b||-", Some((8, 2)), FieldCount),
        ("6||2||token||-", Some((6, 2)), FieldCount),
        ("6||2||token||x||-", Some((6, 2)), FieldInvalid),
        ("8||2||a|b||-", Some((8, 2)), FieldInvalid),
        ("8||2||a\\qb||-", Some((8, 2)), FieldInvalid),
        ("8||2||a\\||-", Some((8, 2)), FieldInvalid),
        ("7||2||t||00||1||-", Some((7, 2)), FieldInvalid),
        ("7||2||t||||1||-", Some((7, 2)), FieldInvalid),
    ] {
        assert_eq!(broken(line), (head, error), "{line}");
    }
    let latin = Request::decode(b"8||2||\xe4||-").unwrap_err();
    assert_eq!((latin.head, latin.error), (Some((8, 2)), NotUtf8));
    let latin = Request::decode(b"\xe48||2||-").unwrap_err();
    assert_eq!((latin.head, latin.error), (None, NotUtf8));
}

#[test]
fn a_list_that_claims_more_than_the_frame_has_costs_nothing() {
    for line in [
        "11||2||||1||||18446744073709551615||0||-",
        "11||2||||1||||18446744073709551615||18446744073709551615||-",
        "11||2||||1||||1000000||1000000||-",
        "11||2||||1||||1||0||-",
        "11||2||||1||||2||5||1||d||2||3||0||-",
    ] {
        assert!(Reply::decode(line.as_bytes()).is_err(), "{line}");
    }
}

#[test]
fn a_reader_of_fewer_fields_skips_what_it_does_not_know() {
    // An item of seven fields where five are known, and three more fields at the end.
    let line = "11||2||||1||||2||7||1||d||2||3||0||new||new||4||e||5||6||1||new||new||a||b||c||-";
    let Ok(Reply::V2(11, answer)) = Reply::decode(line.as_bytes()) else {
        panic!("not understood");
    };
    let Ok(v2::Reply::ListSessions(list)) = answer.outcome else {
        panic!("not sessions");
    };
    let ids: Vec<_> = list
        .sessions
        .iter()
        .map(|s| (s.session_id, s.current))
        .collect();
    assert_eq!(ids, [(1, false), (4, true)]);
}

#[test]
fn secrets_and_bodies_do_not_show_in_a_trace() {
    let request = v2::SendMessage {
        token: "tell-tale".into(),
        body: Body(b"tell-tale".to_vec()),
        ..v2::SendMessage::default()
    };
    assert!(!format!("{request:?}").contains("tell"));
}

#[test]
fn the_words_differ_and_look_like_words() {
    let words: std::collections::BTreeSet<_> = FrameError::ALL.iter().map(|e| e.word()).collect();
    assert_eq!(words.len(), FrameError::ALL.len());
    assert!(words.iter().all(|w| {
        w.chars()
            .all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit())
    }));
}
