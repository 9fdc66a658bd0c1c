//! What the two processes of a handover say to each other, as text. Either may be the older binary, so the first word
//! says which of these it speaks.

use std::str::FromStr;

/// Goes up when a process that knows only this one would misunderstand.
const VERSION: u32 = 1;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// The first: what will come.
    Hello {
        /// So many [`Self::Listener`].
        listeners: usize,
        /// Handovers before this one, for the count to go on.
        handovers: u64,
    },
    /// With a socket that SSPs connect to.
    Listener,
    /// With the one that operators connect to.
    Admin,
    /// The new process accepts.
    Ready,
    /// The new process cannot take over.
    Failed(String),
    /// The old process accepts no more.
    Yours,
}

/// Not what one of us says.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misunderstood {
    #[error("the other process speaks handover {0}, this one {VERSION}")]
    Version(u32),
    #[error("the other process said {0:?}")]
    Word(String),
}

impl Message {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Hello { listeners, handovers } => {
                format!("corebid-handover {VERSION} listeners={listeners} handovers={handovers}")
            }
            Self::Listener => "listener".to_owned(),
            Self::Admin => "admin".to_owned(),
            Self::Ready => "ready".to_owned(),
            Self::Failed(why) => format!("failed {why}"),
            Self::Yours => "yours".to_owned(),
        }
    }
}

impl FromStr for Message {
    type Err = Misunderstood;

    fn from_str(text: &str) -> Result<Self, Misunderstood> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let understood = match word {
            "corebid-handover" => return hello(rest).ok_or_else(|| other_version(text, rest)),
            "failed" => Self::Failed(rest.to_owned()),
            "listener" => Self::Listener,
            "admin" => Self::Admin,
            "ready" => Self::Ready,
            "yours" => Self::Yours,
            _ => return Err(Misunderstood::Word(text.to_owned())),
        };
        Ok(understood)
    }
}

fn hello(rest: &str) -> Option<Message> {
    let rest = rest.strip_prefix(&format!("{VERSION} listeners="))?;
    let (listeners, handovers) = rest.split_once(" handovers=")?;
    Some(Message::Hello {
        listeners: listeners.parse().ok()?,
        handovers: handovers.parse().ok()?,
    })
}

fn other_version(text: &str, rest: &str) -> Misunderstood {
    let version = rest.split(' ').next().and_then(|version| version.parse().ok());
    match version {
        Some(version) if version != VERSION => Misunderstood::Version(version),
        _ => Misunderstood::Word(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        for message in [
            Message::Hello {
                listeners: 16,
                handovers: 3,
            },
            Message::Listener,
            Message::Admin,
            Message::Ready,
            Message::Failed("corebid.toml:1:1: two\nlines".to_owned()),
            Message::Failed(String::new()),
            Message::Yours,
        ] {
            assert_eq!(message.text().parse(), Ok(message));
        }
    }

    #[test]
    fn what_is_not_ours_is_not() {
        let word = |text: &str| Err(Misunderstood::Word(text.to_owned()));
        let check = |text: &str, expected: Result<Message, Misunderstood>| {
            assert_eq!(text.parse::<Message>(), expected, "{text}");
        };
        check("corebid-handover 2 sockets=1", Err(Misunderstood::Version(2)));
        for text in [
            "",
            "hello",
            "corebid-handover",
            "corebid-handover 1",
            "corebid-handover 1 listeners=x handovers=1",
            "corebid-handover 1 listeners=1",
        ] {
            check(text, word(text));
        }
    }
}
