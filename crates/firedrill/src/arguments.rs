//! Arguments that several commands share.

/// How results are printed: for people, or for programs, with stable field names.
#[allow(missing_docs, reason = "clap would make each help text ten lines longer")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// State folder of a mesh on this machine.
#[derive(Clone, Debug, clap::Args)]
pub struct State {
    /// State folder of the mesh: keys, ledger, logs
    #[arg(long = "state", value_name = "DIR", default_value = ".firedrill")]
    pub path: std::path::PathBuf,
}
