//! Which program each proxy of a mesh is.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// The data plane of a mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DataPlane {
    /// Our own proxies.
    #[default]
    Firedrill,
    /// Stock Envoys.
    Envoy {
        /// The program.
        program: PathBuf,
        /// Names of the proxies that are Envoys, the others are ours; `None` is all.
        proxies: Option<BTreeSet<String>>,
    },
}

impl DataPlane {
    /// The Envoy that a proxy is; `None` if it is ours.
    pub fn envoy(&self, proxy: &str) -> Option<&Path> {
        match self {
            Self::Envoy { program, proxies } if proxies.as_ref().is_none_or(|all| all.contains(proxy)) => Some(program),
            _ => None,
        }
    }

    /// Names that were asked for.
    pub fn named(&self) -> impl Iterator<Item = &String> {
        match self {
            Self::Envoy { proxies: Some(names), .. } => Some(names.iter()),
            _ => None,
        }
        .into_iter()
        .flatten()
    }
}

/// What stands on a command line: `firedrill`, `envoy`, or `envoy=NAME,NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Our own proxies.
    #[default]
    Firedrill,
    /// All Envoys.
    Envoy,
    /// These Envoys, the others ours.
    Some(BTreeSet<String>),
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "firedrill" => Ok(Self::Firedrill),
            None if text == "envoy" => Ok(Self::Envoy),
            Some(("envoy", names)) if names.split(',').all(|name| !name.trim().is_empty()) => {
                Ok(Self::Some(names.split(',').map(|name| name.trim().to_owned()).collect()))
            }
            _ => Err("`firedrill`, `envoy` or `envoy=PROXY,PROXY` is needed".to_owned()),
        }
    }
}

impl Choice {
    /// The data plane by a program that nobody looked at: to judge what it is to do.
    pub fn unseen(&self) -> DataPlane {
        let program = PathBuf::from("envoy");
        match self {
            Self::Firedrill => DataPlane::Firedrill,
            Self::Envoy => DataPlane::Envoy { program, proxies: None },
            Self::Some(names) => DataPlane::Envoy { program, proxies: Some(names.clone()) },
        }
    }

    /// The data plane, of which the program was looked at.
    ///
    /// # Errors
    /// A sentence: there is no such program, it is no Envoy, or it is too old.
    pub fn with(&self, program: &Path) -> Result<DataPlane, String> {
        let proxies = match self {
            Self::Firedrill => return Ok(DataPlane::Firedrill),
            Self::Envoy => None,
            Self::Some(names) => Some(names.clone()),
        };
        proxy::envoy::version(program)?;
        // The agents are started elsewhere.
        let program = match program.components().count() {
            0 | 1 => program.to_owned(),
            _ => program.canonicalize().map_err(|error| format!("`{}`: {error}", program.display()))?,
        };
        Ok(DataPlane::Envoy { program, proxies })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_and_says_who_is_an_envoy() {
        assert_eq!("firedrill".parse(), Ok(Choice::Firedrill));
        assert_eq!("envoy".parse(), Ok(Choice::Envoy));
        for bad in ["nginx", "envoy=", "envoy=a,,b", "firedrill=a", ""] {
            assert!(bad.parse::<Choice>().unwrap_err().contains("is needed"), "{bad}");
        }
        let Ok(Choice::Some(names)) = "envoy=edge, fx-east-0".parse() else { panic!("names") };
        let plane = DataPlane::Envoy { program: "envoy".into(), proxies: Some(names) };
        assert_eq!(plane.named().cloned().collect::<Vec<_>>(), ["edge", "fx-east-0"]);
        assert_eq!((plane.envoy("edge"), plane.envoy("fx-west-0")), (Some(Path::new("envoy")), None));
        let all = DataPlane::Envoy { program: "envoy".into(), proxies: None };
        assert!(all.envoy("fx-west-0").is_some() && DataPlane::Firedrill.envoy("edge").is_none());
    }

    #[test]
    fn a_program_that_is_none_is_refused() {
        let reason = Choice::Envoy.with(Path::new("/nowhere/envoy")).unwrap_err();
        assert!(reason.contains("/nowhere/envoy") && reason.contains("cannot be started"), "{reason}");
        assert_eq!(Choice::Firedrill.with(Path::new("/nowhere/envoy")), Ok(DataPlane::Firedrill));
    }
}
