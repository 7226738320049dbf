//! Names of things, valid by construction: 1–63 of `a-z 0-9 -`, beginning and ending with a letter or digit.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a name: use 1 to 63 of a–z, 0–9 and `-`, beginning and ending with a letter or digit")]
pub struct NameError {
    /// The text.
    pub text: String,
}

fn check(text: &str) -> Result<(), NameError> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
    if (1..=63).contains(&bytes.len()) && bytes.iter().all(|b| inner(*b)) && edge(bytes.first()) && edge(bytes.last()) {
        Ok(())
    } else {
        Err(NameError { text: text.to_owned() })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks the text.
            ///
            /// # Errors
            /// When the text is not a name.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                check(&text)?;
                Ok(Self(text))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A failure domain that can be lost as a whole.
    RegionName
);
name!(
    /// A service of the mesh.
    ServiceName
);
name!(
    /// A gateway of the mesh.
    GatewayName
);
name!(
    /// A recovery plan.
    PlanName
);
name!(
    /// A drill.
    DrillName
);
name!(
    /// A probe of a drill, unique in it.
    ProbeName
);
name!(
    /// The process behind an endpoint: `<service>-<region>-<n>`.
    WorkloadName
);
