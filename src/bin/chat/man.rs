//! The manual page: one for everything, so that it refers to no page that does not exist.

use clap::Command;
use clap_mangen::Man;
use std::io::{Error, Write};

/// The whole page in roff.
pub fn page(command: Command) -> Result<Vec<u8>, Error> {
    let mut command = command.disable_help_subcommand(true);
    // Names of subcommands with those of their parents, and global flags where they apply.
    command.build();
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    page.write_all(b".SH COMMANDS\n")?;
    for subcommand in command.get_subcommands() {
        describe(subcommand, &mut page)?;
    }
    page.write_all(b".SH NOTES\n")?;
    page.write_all(&body(|out| man.render_extra_section(out))?)?;
    man.render_version_section(&mut page)?;
    Ok(page)
}

/// A subcommand with its own options, and then its own subcommands.
fn describe(command: &Command, page: &mut Vec<u8>) -> Result<(), Error> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    // `chat-send` is how clap calls what is typed as `chat send`.
    let typed = command.get_bin_name().unwrap_or(name);
    let own = command.clone().mut_args(|argument| {
        let is_own = !argument.is_global_set() && argument.get_id() != "help";
        argument.hide(!is_own)
    });
    let own_man = Man::new(own.clone());
    writeln!(page, ".SS {}", typed.replace('-', "\\-"))?;
    page.write_all(&body(|out| own_man.render_synopsis_section(out))?)?;
    page.write_all(b".PP\n")?;
    page.write_all(&body(|out| own_man.render_description_section(out))?)?;
    if own.get_arguments().any(|argument| !argument.is_hide_set()) {
        page.write_all(&body(|out| own_man.render_options_section(out))?)?;
    }
    for subcommand in command.get_subcommands() {
        describe(subcommand, page)?;
    }
    Ok(())
}

/// A section without its heading.
fn body(render: impl FnOnce(&mut dyn Write) -> Result<(), Error>) -> Result<Vec<u8>, Error> {
    let mut section = Vec::new();
    render(&mut section)?;
    let lines = section.split_inclusive(|byte| *byte == b'\n');
    let kept = lines.filter(|line| !line.starts_with(b".SH "));
    Ok(kept.collect::<Vec<_>>().concat())
}

#[cfg(test)]
mod tests {
    use crate::args::Args;
    use clap::CommandFactory;

    #[test]
    fn every_command_and_option_is_there_and_no_page_that_is_not() {
        let page = String::from_utf8(super::page(Args::command()).unwrap()).unwrap();
        let plain = page
            .replace("\\-", "-")
            .replace("\\fB", "")
            .replace("\\fR", "");
        for word in [
            ".SS chat create-account",
            "--full-name",
            ".SS chat send",
            "--lines",
            ".SS chat listen",
            "--timeout",
            "--ack",
            ".SS chat sessions revoke",
            "--server",
            "3  no replica answered",
        ] {
            assert!(plain.contains(word), "no {word:?} in\n{plain}");
        }
        let numbers: String = plain.lines().filter(|line| line.contains("(1)")).collect();
        assert_eq!(numbers, "", "a reference to another page");
        assert_eq!(plain.matches(".TH ").count(), 1);
        // Once, not with each command.
        assert_eq!(plain.matches(".TP\n--protocol").count(), 1, "{plain}");
    }
}
