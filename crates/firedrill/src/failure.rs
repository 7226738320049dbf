//! How a command ends: exit codes, and failures as sentences for the person who must act.

use std::{fmt, process::ExitCode};

/// Exit codes; a contract with scripts and pipelines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; for a drill: passed.
    Success = 0,
    /// An objective was missed, or a verification left a doubt.
    Failed = 1,
    /// Wrong usage, or an invalid manifest.
    Usage = 2,
    /// A drill was aborted by a guard or a person.
    Aborted = 3,
    /// A drill was refused before any fault.
    Refused = 4,
    /// A drill crashed, or the program itself failed.
    Internal = 5,
    /// A measured value is within its error bound of the objective.
    Inconclusive = 6,
}

impl Exit {
    /// What a drill's verdict means for the exit code.
    pub fn of(verdict: evidence::record::Verdict) -> Self {
        use evidence::record::Verdict;
        match verdict {
            Verdict::Passed => Self::Success,
            Verdict::Failed => Self::Failed,
            Verdict::Aborted => Self::Aborted,
            Verdict::Refused => Self::Refused,
            Verdict::Crashed => Self::Internal,
            Verdict::Inconclusive => Self::Inconclusive,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what was asked, and what to do about it.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
    help: Option<String>,
}

impl Failure {
    /// The command line or a manifest is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The program, or something that it needs, failed.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Exit::Internal, message)
    }

    /// With any exit code.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), help: None }
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Exit code of the process.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl miette::Diagnostic for Failure {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }
}

/// Exit code of a failed command: its own if it is a [`Failure`], else internal.
pub fn exit_of(report: &miette::Report) -> Exit {
    report.downcast_ref::<Failure>().map_or(Exit::Internal, Failure::exit)
}
