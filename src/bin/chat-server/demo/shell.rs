//! Words of a command line that is to be pasted.

use std::borrow::Cow;

/// As a shell takes it for one word: quoted if it has to be.
pub fn word(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into();
    }
    format!("'{}'", text.replace('\'', r"'\''")).into()
}

#[cfg(test)]
mod tests {
    use super::word;

    #[test]
    fn a_shell_gives_back_what_was_quoted() {
        for text in [
            "/tmp/chat-demo-1/replica-1",
            "1=127.0.0.1:7500,2=127.0.0.1:7501",
            "",
            "/tmp/my data",
            "it's; `rm` $HOME \\ \"*\"",
            "~/x",
            "a\nb",
        ] {
            let script = format!("printf %s {}", word(text));
            let shell = std::process::Command::new("sh")
                .args(["-c", &script])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&shell.stdout), text);
        }
        assert_eq!(word("/tmp/a_b-1.log"), "/tmp/a_b-1.log");
    }
}
