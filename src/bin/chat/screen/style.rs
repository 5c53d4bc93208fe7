//! Colours and signs: sixteen-colour names that are readable on light and on dark, and none at
//! all where `NO_COLOR` is set. Nothing is said by colour alone.

use super::app::Look;
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::border;

/// What something is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Words of others.
    Plain,
    /// Headings.
    Strong,
    /// What one looks at only when one wants to.
    Quiet,
    /// This account.
    Me,
    /// The other one.
    Peer,
    /// It went well.
    Good,
    /// It did not.
    Bad,
    /// Can be opened.
    Link,
    /// Under the bar.
    Chosen,
    /// The line at the bottom.
    Bar,
    /// The same, without a connection.
    BarBad,
}

/// How to draw it.
pub fn style(look: Look, role: Role) -> Style {
    let plain = Style::default();
    let (style, colour) = match role {
        Role::Plain => (plain, None),
        Role::Strong => (plain.add_modifier(Modifier::BOLD), None),
        Role::Quiet => (plain.add_modifier(Modifier::DIM), None),
        Role::Me => (plain.add_modifier(Modifier::BOLD), Some(Color::Cyan)),
        Role::Peer => (plain.add_modifier(Modifier::BOLD), Some(Color::Magenta)),
        Role::Good => (plain, Some(Color::Green)),
        Role::Bad => (plain.add_modifier(Modifier::BOLD), Some(Color::Red)),
        Role::Link => (plain.add_modifier(Modifier::UNDERLINED), None),
        Role::Chosen | Role::Bar => (plain.add_modifier(Modifier::REVERSED), None),
        Role::BarBad => (
            plain.add_modifier(Modifier::REVERSED | Modifier::BOLD),
            Some(Color::Red),
        ),
    };
    match colour {
        Some(colour) if look.colour => style.fg(colour),
        _ => style,
    }
}

/// Signs that need more than ASCII, or their stand-ins.
pub struct Signs {
    /// On its way.
    pub sending: &'static str,
    /// On disk on a majority.
    pub accepted: &'static str,
    /// The peer has it.
    pub delivered: &'static str,
    /// Not sent.
    pub failed: &'static str,
    /// Between things on a line.
    pub dot: &'static str,
    /// Before the input.
    pub prompt: &'static str,
    /// Lines.
    pub across: &'static str,
    /// Lines.
    pub down: &'static str,
    /// Where they meet.
    pub meet: &'static str,
    /// Towards the beginning.
    pub above: &'static str,
    /// Towards the end.
    pub below: &'static str,
    /// Something is missing here.
    pub cut: &'static str,
    /// Letters of a password.
    pub hidden: &'static str,
    /// Around boxes.
    pub border: border::Set<'static>,
}

const UNICODE: Signs = Signs {
    sending: "…",
    accepted: "✓",
    delivered: "✓✓",
    failed: "✗",
    dot: "·",
    prompt: "›",
    across: "─",
    down: "│",
    meet: "┴",
    above: "↑",
    below: "↓",
    cut: "…",
    hidden: "•",
    border: border::ROUNDED,
};

const ASCII: Signs = Signs {
    sending: "~",
    accepted: "+",
    delivered: "++",
    failed: "!",
    dot: "-",
    prompt: ">",
    across: "-",
    down: "|",
    meet: "+",
    above: "^",
    below: "v",
    cut: "~",
    hidden: "*",
    border: border::Set {
        top_left: "+",
        top_right: "+",
        bottom_left: "+",
        bottom_right: "+",
        vertical_left: "|",
        vertical_right: "|",
        horizontal_top: "-",
        horizontal_bottom: "-",
    },
};

/// The signs that this terminal shows.
pub fn signs(look: Look) -> &'static Signs {
    if look.unicode { &UNICODE } else { &ASCII }
}
