//! SPIFFE names, valid by construction (SPIFFE-ID, section 2).

use std::fmt;

/// Longest id, in bytes.
const LONGEST: usize = 2048;
/// Longest trust domain, in bytes.
const LONGEST_DOMAIN: usize = 255;

/// Whether a text is a trust domain of ours: `bank.example`.
pub fn is_trust_domain(text: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty() && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
    };
    text.len() <= LONGEST_DOMAIN && text.split('.').all(part)
}

/// The identity of a workload: `spiffe://partner.example/service/fx`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpiffeId(String);

/// Why a text is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write `spiffe://TRUST-DOMAIN/PATH`, with a-z, A-Z, 0-9, `.`, `-` and `_` in each part of the path")]
pub struct IdError;

impl SpiffeId {
    /// Checks the text.
    ///
    /// # Errors
    /// When it is no id of a workload.
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(fits);
        let (domain, path) = text.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).unwrap_or_default();
        if text.len() <= LONGEST && is_trust_domain(domain) && path.split('/').all(segment) {
            Ok(Self(text))
        } else {
            Err(IdError)
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain that it is of.
    pub fn trust_domain(&self) -> &str {
        self.0.split('/').nth(2).unwrap_or_default()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_a_workload_of_a_trust_domain() {
        for (text, domain) in [
            ("spiffe://bank.example/service/fx", "bank.example"),
            ("spiffe://b/ns/Default/sa/a_b.c-d", "b"),
            ("spiffe://b/...", "b"),
        ] {
            assert_eq!(SpiffeId::new(text).unwrap().trust_domain(), domain);
        }
        for text in [
            "",
            "bank.example/service/fx",
            "https://bank.example/fx",
            "spiffe://bank.example",
            "spiffe://bank.example/",
            "spiffe://bank.example/fx/",
            "spiffe://bank.example//fx",
            "spiffe://bank.example/../fx",
            "spiffe://Bank.example/fx",
            "spiffe://bank.example:80/fx",
            "spiffe://u@bank.example/fx",
            "spiffe://bank..example/fx",
            "spiffe:///fx",
            "spiffe://bank.example/f x",
            "spiffe://bank.example/fx?a",
            "spiffe://bank.example/%66x",
        ] {
            assert!(SpiffeId::new(text).is_err(), "{text}");
        }
        assert!(SpiffeId::new(format!("spiffe://b/{}", "a".repeat(LONGEST))).is_err());
    }
}
