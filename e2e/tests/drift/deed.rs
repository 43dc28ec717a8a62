//! What somebody does to what is not theirs.

use e2e::rules::Others;
use std::fmt;

/// A deed of somebody else's on the node.
#[derive(Clone, Debug)]
pub(crate) struct Deed {
    /// The command.
    command: String,
    /// What it is given to read, if anything.
    lines: Option<String>,
    /// By which they take back what of it is their own and stays.
    back: Option<String>,
    /// Whether the kernel tells of it.
    pub(crate) is_told: bool,
}

impl Deed {
    /// A command by itself.
    pub(crate) fn of(command: impl Into<String>) -> Self {
        Deed {
            command: command.into(),
            lines: None,
            back: None,
            is_told: true,
        }
    }

    /// A command that reads lines.
    pub(crate) fn fed(command: &str, lines: impl Into<String>) -> Self {
        Deed {
            lines: Some(lines.into()),
            ..Deed::of(command)
        }
    }

    /// The same with the command by which they take back what of it is their own and stays.
    pub(crate) fn with_back(self, command: impl Into<String>) -> Self {
        Deed {
            back: Some(command.into()),
            ..self
        }
    }

    /// The same where nothing tells of it, so that only a look at everything finds it.
    pub(crate) fn untold(self) -> Self {
        Deed {
            is_told: false,
            ..self
        }
    }

    /// Does it in the calling thread's namespace; says what the program complains about.
    pub(crate) fn try_by(&self, others: &Others) -> Result<(), String> {
        match &self.lines {
            Some(lines) => others.try_feed(&self.command, lines),
            None => others.try_run(&self.command).map(drop),
        }
    }

    /// The same where it has to succeed.
    pub(crate) fn by(&self, others: &Others) {
        self.try_by(others)
            .unwrap_or_else(|complaint| panic!("{self}: {complaint}"));
    }

    /// Takes back what of it is their own and stays.
    pub(crate) fn take_back(&self, others: &Others) {
        if let Some(command) = &self.back {
            others.run(command);
        }
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.lines {
            Some(lines) => write!(out, "{}: {lines}", self.command),
            None => out.write_str(&self.command),
        }
    }
}
