//! Changes that keep the form: protobuf with lengths that fit, whatever the schema, and numbers of
//! MessagePack. A changed byte seldom gets past a length that does not fit any more.

use super::change::{changed_bytes, interesting, varint};
use rand::Rng;
use rand::rngs::SmallRng;

/// Messages in messages are looked into so deep.
const DEPTH_MAX: u32 = 6;

enum Value {
    Number(u64),
    Eight([u8; 8]),
    Four([u8; 4]),
    Bytes(Vec<u8>),
}

struct Field {
    number: u64,
    value: Value,
}

/// Changes one field of a message that follows `prefix` bytes. False: there is none.
pub fn change_message(input: &mut Vec<u8>, prefix: usize, rng: &mut SmallRng) -> bool {
    let Some(mut fields) = input.get(prefix..).and_then(parse) else {
        return false;
    };
    change_fields(&mut fields, DEPTH_MAX, rng);
    input.truncate(prefix);
    input.extend(encode(&fields));
    true
}

/// The same with one of several messages, each after its length.
pub fn change_one_of_many(input: &mut Vec<u8>, prefix: usize, rng: &mut SmallRng) -> bool {
    let mut messages = Vec::new();
    let mut rest = input.get(prefix..).unwrap_or_default();
    while let Some(length) = take_varint(&mut rest) {
        let Some((message, after)) = rest.split_at_checked(length as usize) else {
            break;
        };
        messages.push(message.to_vec());
        rest = after;
    }
    if messages.is_empty() {
        return false;
    }
    let at = rng.random_range(0..messages.len());
    let done = change_message(&mut messages[at], 0, rng);
    input.truncate(prefix);
    for message in messages {
        input.extend(varint(message.len() as u64));
        input.extend(message);
    }
    done
}

/// Puts a number of MessagePack into the place of one byte, which may be a small number.
pub fn put_number(input: &mut Vec<u8>, at: usize, rng: &mut SmallRng) {
    let number = interesting(input.len(), rng);
    let mut packed = vec![0xcf];
    packed.extend(number.to_be_bytes());
    input.splice(at..=at, packed);
}

fn change_fields(fields: &mut Vec<Field>, depth: u32, rng: &mut SmallRng) {
    if fields.is_empty() {
        return;
    }
    let at = rng.random_range(0..fields.len());
    match rng.random_range(0..12) {
        0 => drop(fields.remove(at)),
        1 => {
            let copy = Field {
                number: fields[at].number,
                value: match &fields[at].value {
                    Value::Number(number) => Value::Number(*number),
                    Value::Eight(bytes) => Value::Eight(*bytes),
                    Value::Four(bytes) => Value::Four(*bytes),
                    Value::Bytes(bytes) => Value::Bytes(bytes.clone()),
                },
            };
            fields.insert(at, copy);
        }
        2 => fields[at].number = rng.random_range(1..48),
        _ => change_value(&mut fields[at].value, depth, rng),
    }
}

fn change_value(value: &mut Value, depth: u32, rng: &mut SmallRng) {
    match value {
        Value::Number(number) => *number = interesting(64, rng),
        Value::Eight(bytes) => *bytes = interesting(64, rng).to_le_bytes(),
        Value::Four(bytes) => *bytes = (interesting(64, rng) as u32).to_le_bytes(),
        Value::Bytes(bytes) => {
            let inner = if depth > 0 { parse(bytes) } else { None };
            match inner {
                Some(mut fields) if !fields.is_empty() && rng.random_ratio(9, 10) => {
                    change_fields(&mut fields, depth - 1, rng);
                    *bytes = encode(&fields);
                }
                _ => changed_bytes(bytes, rng),
            }
        }
    }
}

fn parse(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(take_varint(&mut bytes)?),
            1 => {
                let (eight, rest) = bytes.split_first_chunk()?;
                bytes = rest;
                Value::Eight(*eight)
            }
            2 => {
                let length = usize::try_from(take_varint(&mut bytes)?).ok()?;
                let (inner, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Value::Bytes(inner.to_vec())
            }
            5 => {
                let (four, rest) = bytes.split_first_chunk()?;
                bytes = rest;
                Value::Four(*four)
            }
            _ => return None,
        };
        let number = key >> 3;
        fields.push(Field { number, value });
    }
    Some(fields)
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Field { number, value } in fields {
        let key = |kind: u64| varint(number << 3 | kind);
        match value {
            Value::Number(number) => bytes.extend([key(0), varint(*number)].concat()),
            Value::Eight(eight) => bytes.extend([&key(1)[..], eight].concat()),
            Value::Four(four) => bytes.extend([&key(5)[..], four].concat()),
            Value::Bytes(inner) => {
                bytes.extend(key(2));
                bytes.extend(varint(inner.len() as u64));
                bytes.extend(inner);
            }
        }
    }
    bytes
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
