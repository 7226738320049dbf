//! Certificates for proxies: who asks must prove its join token and be placed; each refusal is told.

use super::{Failure, Mesh};
use crate::{
    api::{Certificate, CertificateRequest, ControlEvent},
    authority::AuthorityError,
    compile,
    overlays::Refusal,
};

impl Mesh {
    /// Signs a certificate for a placed proxy that proves its join token.
    pub(crate) fn certificate(
        &self,
        token: Option<&str>,
        request: &CertificateRequest,
    ) -> Result<Certificate, Failure> {
        let proxy = &request.proxy;
        let outcome = self.sign(token, request);
        match &outcome {
            Ok(certificate) => self.log.say(ControlEvent::CertificateIssued {
                proxy: proxy.clone(),
                spiffe_id: certificate.spiffe_id.clone(),
                not_after: certificate.not_after,
            }),
            Err(Failure::Unauthorized(reason) | Failure::Internal(reason)) => self.refused(proxy, reason),
            Err(Failure::Refused(Refusal::Invalid(reason) | Refusal::Missing(reason) | Refusal::Conflict(reason))) => {
                self.refused(proxy, reason);
            }
            Err(Failure::Manifests(_) | Failure::Stale(_)) => {}
        }
        outcome
    }

    fn refused(&self, proxy: &str, reason: &str) {
        let Some(untold) = self.refusals().happened(std::time::Instant::now()) else { return };
        // What a stranger sends is cut before it is kept.
        let proxy: String = proxy.chars().take(128).collect();
        self.log.say(ControlEvent::CertificateRefused { proxy, reason: reason.to_owned(), untold });
    }

    fn sign(&self, token: Option<&str>, request: &CertificateRequest) -> Result<Certificate, Failure> {
        let token = token.ok_or_else(|| Failure::Unauthorized("a join token is missing".to_owned()))?;
        if !self.join.accepts(&request.proxy, token) {
            return Err(Failure::Unauthorized("the join token is not of this proxy".to_owned()));
        }
        let (id, lifetime) = {
            let state = self.state();
            let config = Self::config(&state)?;
            let missing = || Refusal::Missing(format!("proxy {} is not placed", request.proxy));
            let placement = state.placements.proxies.iter().find(|p| p.proxy == request.proxy).ok_or_else(missing)?;
            let unknown =
                || Refusal::Missing(format!("the manifests do not know what proxy {} stands before", request.proxy));
            (compile::proxy_id(&config, placement).ok_or_else(unknown)?, config.mesh.certificate_lifetime)
        };
        self.authority.sign(&request.csr, &id, lifetime).map_err(|error| match error {
            AuthorityError::Request(_) => Refusal::Invalid(error.to_string()).into(),
            other => Failure::Internal(other.to_string()),
        })
    }
}
