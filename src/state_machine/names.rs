//! The rule for user names.

use crate::limits::USER_NAME_MAX;

/// Folds a user name to lower case and checks it against `[a-z0-9][a-z0-9._-]{0,31}`. `None`: it
/// is not a name. Only ASCII letters are folded, so that no other alphabet's letter (the Kelvin
/// sign, say) becomes one of ours.
pub fn validate_name(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let first = *name.as_bytes().first()?;
    let good = name.len() <= USER_NAME_MAX
        && alphanumeric(first)
        && name
            .bytes()
            .all(|b| alphanumeric(b) || matches!(b, b'.' | b'_' | b'-'));
    good.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::validate_name;

    #[test]
    fn names_are_folded_and_held_to_the_rule() {
        let long = "a".repeat(32);
        for (given, folded) in [("Alice", "alice"), ("0-._z", "0-._z"), (&long, &long)] {
            assert_eq!(validate_name(given).as_deref(), Some(folded));
        }
        let too_long = "a".repeat(33);
        for bad in [
            "",
            ".a",
            "-a",
            "_a",
            "a b",
            "ä",
            "a\u{212a}",
            "a|b",
            "a\n",
            &too_long,
        ] {
            assert_eq!(validate_name(bad), None, "{bad:?}");
        }
    }
}
