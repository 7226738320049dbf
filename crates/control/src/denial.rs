//! Why a proxy is not let in. What is secret is in none of it.

use thiserror::Error;

/// A reason.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Denial {
    #[error("it has neither a join token nor a certificate; get a token with `firedrill token create`")]
    Nothing,
    #[error("the join token is none of this mesh; get one with `firedrill token create`")]
    UnknownToken,
    #[error("the join token was used already; get another one with `firedrill token create`")]
    UsedToken,
    #[error("the join token has expired; get another one with `firedrill token create`")]
    ExpiredToken,
    #[error("the join token is of {of}, not of this proxy")]
    OtherToken { of: String },
    #[error("its certificate is not accepted: {0}")]
    Certificate(String),
    #[error("its certificate is of {has}, and the proxy of this name is {wanted}")]
    OtherIdentity { has: String, wanted: String },
    #[error("the request is not signed by the key of the certificate that it renews")]
    Unproven,
    #[error("{0}")]
    Unknown(String),
    #[error("{0}")]
    Request(String),
    #[error("{0}")]
    Newer(String),
    #[error("{0}")]
    Internal(String),
}

impl Denial {
    /// As it is counted in metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::UnknownToken => "unknown_token",
            Self::UsedToken => "used_token",
            Self::ExpiredToken => "expired_token",
            Self::OtherToken { .. } => "other_token",
            Self::Certificate(_) => "certificate",
            Self::OtherIdentity { .. } => "other_identity",
            Self::Unproven => "unproven",
            Self::Unknown(_) => "unknown_proxy",
            Self::Request(_) => "request",
            Self::Newer(_) => "newer_revision",
            Self::Internal(_) => "internal",
        }
    }
}
