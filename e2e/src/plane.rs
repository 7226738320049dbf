//! Which programs the proxies of a mesh are.

use std::path::PathBuf;

use crate::process::workspace;

/// The data plane of a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPlane {
    /// Our proxies.
    Firedrill,
    /// Stock Envoys.
    Envoy,
    /// These are stock Envoys, the others are ours.
    Mixed(&'static str),
}

impl DataPlane {
    /// What `up` is told; `None`, and a word on it, if there is no Envoy here.
    pub fn args(self) -> Option<Vec<String>> {
        let choice = match self {
            Self::Firedrill => return Some(Vec::new()),
            Self::Envoy => "envoy".to_owned(),
            Self::Mixed(names) => format!("envoy={names}"),
        };
        let Some(envoy) = envoy() else {
            println!("skipped: no Envoy; make tools");
            return None;
        };
        let program = envoy.to_str().expect("UTF-8").to_owned();
        Some(vec!["--data-plane".into(), choice, "--envoy".into(), program, "--patience".into(), "55".into()])
    }
}

/// By the environment, or where `make tools` puts it.
pub fn envoy() -> Option<PathBuf> {
    let path = std::env::var_os("FIREDRILL_ENVOY").map_or_else(|| workspace().join(".venv/bin/envoy"), PathBuf::from);
    path.is_file().then_some(path)
}
