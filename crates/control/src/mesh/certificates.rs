//! Who may be a proxy: join tokens, certificates and streams. Who asks must prove itself and be placed; each refusal is
//! counted, and told as far as strangers cannot fill logs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use xds::{server::Credentials, svid::Svid};

use super::{Failure, Mesh, revision_of};
use crate::{
    api::{Certificate, CertificateRequest, ControlEvent, JoinToken, Renewal, TokenRequest},
    authority::{Authority, AuthorityError, Request},
    compile::{self, Change},
    denial::Denial,
    overlays::Refusal,
    peer::{self, Proved},
    secret,
    store::{Bearer, Redeemed},
    trust,
};

/// How long a join token may be good for.
const TOKEN_TTL: std::ops::RangeInclusive<u64> = 1_000..=24 * 3600 * 1000;
/// Longest certificate chain that is looked at, in bytes.
const MAX_CHAIN: usize = 64 * 1024;

/// Said to who wants of us what we do not give.
const ELSEWHERE: &str = "certificates of this mesh are issued elsewhere (`identity` of the Mesh), so that no join token lets \
                         anybody in; start the proxy with `--certificate` or `--workload-api`";

/// The identity of a placed proxy.
struct Wanted {
    /// SPIFFE id.
    id: String,
    /// The same without the trust domain: `service/NAME` or `gateway/NAME`.
    subject: String,
    /// Of its certificates.
    lifetime: Duration,
}

impl Mesh {
    /// Hands out a join token.
    pub(crate) async fn create_token(&self, request: &TokenRequest) -> Result<JoinToken, Failure> {
        if !TOKEN_TTL.contains(&request.ttl_ms) {
            return Err(Refusal::Invalid("a join token is good for 1 s at least and 24 h at most".to_owned()).into());
        }
        if self.state().is_issued_elsewhere() {
            return Err(Refusal::Conflict(ELSEWHERE.to_owned()).into());
        }
        let subject = self.subject_of(request)?;
        // A scanner for leaked secrets finds it by its prefix.
        let token = format!("fdj_{}", secret::random_hex(32).map_err(|e| Failure::Internal(e.to_string()))?);
        let ttl = Duration::from_millis(request.ttl_ms);
        let expires = self.store.add_token(&digest(token.as_bytes()), &subject, request.proxy.as_deref(), ttl).await?;
        self.refusals().token_created();
        self.log.say(ControlEvent::TokenCreated { subject, proxy: request.proxy.clone(), expires });
        Ok(JoinToken { token, expires })
    }

    fn subject_of(&self, request: &TokenRequest) -> Result<String, Refusal> {
        let config = Self::config(&self.state())?;
        match (&request.service, &request.gateway) {
            (Some(service), None) if config.services.keys().any(|known| known.as_str() == service) => {
                Ok(format!("service/{service}"))
            }
            (None, Some(gateway)) if config.mesh.gateways.iter().any(|known| known.name.as_str() == gateway) => {
                Ok(format!("gateway/{gateway}"))
            }
            (Some(name), None) => Err(Refusal::Missing(format!("there is no service `{name}`"))),
            (None, Some(name)) => Err(Refusal::Missing(format!("there is no gateway `{name}`"))),
            _ => Err(Refusal::Invalid("a join token is for one service, or for one gateway".to_owned())),
        }
    }

    /// Signs a certificate for a placed proxy that proves itself.
    pub(crate) async fn certificate(
        &self,
        token: Option<&str>,
        request: &CertificateRequest,
    ) -> Result<Certificate, Failure> {
        match self.sign(token, request).await {
            Ok(certificate) => {
                self.refusals().certificate_issued();
                self.log.say(ControlEvent::CertificateIssued {
                    proxy: request.proxy.clone(),
                    spiffe_id: certificate.spiffe_id.clone(),
                    not_after: certificate.not_after,
                });
                Ok(certificate)
            }
            Err(denial) => {
                if let Some(untold) = self.refusals().happened(denial.label(), Instant::now()) {
                    let (proxy, reason) = (cut(&request.proxy), denial.to_string());
                    self.log.say(ControlEvent::CertificateRefused { proxy, reason, untold });
                }
                Err(denial.into())
            }
        }
    }

    /// Everything else is looked at before the token, so that one is not used up in vain.
    async fn sign(&self, token: Option<&str>, request: &CertificateRequest) -> Result<Certificate, Denial> {
        let token = token.filter(|token| !token.is_empty());
        if token.is_none() && request.renews.is_none() {
            return Err(Denial::Nothing);
        }
        let Wanted { id, subject, lifetime } = self.wanted_identity(&request.proxy)?;
        if self.state().is_issued_elsewhere() {
            return Err(Denial::Request(ELSEWHERE.to_owned()));
        }
        let signed = |error: AuthorityError| match error {
            AuthorityError::Request(_) => Denial::Request(error.to_string()),
            other => Denial::Internal(other.to_string()),
        };
        let asked = Request::parse(&request.csr).map_err(signed)?;
        match (&request.renews, token) {
            (Some(renewal), _) => self.check_renewal(renewal, &request.proxy, &request.csr, &id)?,
            (None, Some(token)) => self.redeem(token, &request.proxy, &subject, &asked).await?,
            (None, None) => return Err(Denial::Nothing),
        }
        self.authority().sign_for(&asked, &id, &request.proxy, lifetime).map_err(signed)
    }

    /// What signs now.
    pub(crate) fn authority(&self) -> Arc<Authority> {
        self.authority.borrow().clone()
    }

    /// The folder `ca` changed, or cannot be read any more.
    pub(crate) fn take_authority(self: &Arc<Self>, seen: Result<String, String>) {
        let read = || Authority::new(self.ca.read()?, self.clock);
        match seen.and_then(|_| read().map_err(|error| error.to_string())) {
            Ok(authority) => {
                let roots = authority.roots().to_owned();
                self.log.say(ControlEvent::AuthorityApplied { roots: trust::count(&roots).unwrap_or_default() });
                self.authority.send_replace(Arc::new(authority));
                if self.store.is_shared() {
                    let mesh = self.clone();
                    tokio::spawn(async move {
                        if let Err(error) = mesh.store.set_roots(&roots).await {
                            tracing::error!(%error, "a control plane that starts may be refused: the store has other roots");
                        }
                    });
                }
            }
            Err(reason) => self.log.say(ControlEvent::AuthorityRefused { reason }),
        }
    }

    /// Another SVID of the control plane's own came, or there is none any more.
    pub(crate) fn take_svid(&self, svid: Option<Svid>) {
        let mut state = self.state();
        let foreign = svid.as_ref().is_some_and(|svid| self.foreign_issued(&mut state, svid));
        let other = state.issued != svid;
        state.issued = svid;
        if foreign || other {
            self.publish(&mut state, &Change::Everything);
        }
        let roots = state.issued.as_ref().filter(|_| other).map(|svid| trust::count(&svid.roots).unwrap_or_default());
        drop(state);
        if let Some(roots) = roots {
            self.log.say(ControlEvent::IdentityApplied { roots });
        }
    }

    /// Whether newer ones come; a reason is told once.
    pub(crate) fn svid_failing(&self, failing: Option<String>) {
        let told = std::mem::replace(&mut self.state().issue_failing, failing.clone());
        if let Some(reason) = failing.filter(|reason| told.as_ref() != Some(reason)) {
            self.log.say(ControlEvent::IdentityFailing { reason });
        }
    }

    fn wanted_identity(&self, proxy: &str) -> Result<Wanted, Denial> {
        let state = self.state();
        let none = || Denial::Unknown("no manifests were applied yet".to_owned());
        let config = state.config.as_ref().ok_or_else(none)?;
        let missing = || Denial::Unknown(format!("proxy {} is not placed", cut(proxy)));
        let placement = state.placements.proxies.iter().find(|p| p.proxy == *proxy).ok_or_else(missing)?;
        let unknown = || Denial::Unknown(format!("the manifests do not know what proxy {proxy} stands before"));
        let id = compile::proxy_id(config, placement).ok_or_else(unknown)?;
        let subject =
            id.strip_prefix(&format!("spiffe://{}/", config.mesh.trust_domain)).ok_or_else(unknown)?.to_owned();
        Ok(Wanted { id, subject, lifetime: config.mesh.certificate_lifetime })
    }

    /// The SPIFFE id that a placed proxy must prove; `None` if it is not placed.
    pub(super) fn id_of(&self, proxy: &str) -> Option<String> {
        self.wanted_identity(proxy).ok().map(|wanted| wanted.id)
    }

    fn check_renewal(&self, renewal: &Renewal, proxy: &str, csr: &str, id: &str) -> Result<(), Denial> {
        let broken = |reason: String| Denial::Certificate(reason);
        if renewal.certificate.len() > MAX_CHAIN {
            return Err(broken(format!("it has more than {MAX_CHAIN} bytes")));
        }
        let chain: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(renewal.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| broken(error.to_string()))?;
        let has = self.authority().verify(&chain).map_err(broken)?;
        if *has != *id {
            return Err(Denial::OtherIdentity { has: cut(&has), wanted: id.to_owned() });
        }
        let leaf = chain.first().ok_or(Denial::Nothing)?;
        if let Some(proved) = Proved::of(leaf).filter(|proved| !proved.is_for(proxy)) {
            return Err(Denial::OtherIdentity { has: cut(&proved.words()), wanted: format!("{id} {proxy}") });
        }
        let signature = secret::unhex(&renewal.signature).ok_or(Denial::Unproven)?;
        let message = format!("{}{csr}", Renewal::PREFIX);
        if peer::signed(leaf, message.as_bytes(), &signature) { Ok(()) } else { Err(Denial::Unproven) }
    }

    async fn redeem(&self, token: &str, proxy: &str, subject: &str, asked: &Request) -> Result<(), Denial> {
        let bearer = Bearer { subject, proxy, key: &digest(asked.key()) };
        let redeemed = self.store.redeem_token(&digest(token.as_bytes()), bearer).await;
        match redeemed.map_err(|error| Denial::Internal(error.to_string()))? {
            Redeemed::Done => Ok(()),
            Redeemed::Unknown => Err(Denial::UnknownToken),
            Redeemed::Used => Err(Denial::UsedToken),
            Redeemed::Expired => Err(Denial::ExpiredToken),
            Redeemed::Other(of) => Err(Denial::OtherToken { of }),
        }
    }

    /// Whether a stream's peer is the proxy that it says it is.
    pub(super) fn authenticate(&self, credentials: Credentials<'_>) -> Result<String, String> {
        let proxy = &credentials.node.id;
        self.admit(&credentials).map_err(|denial| {
            self.stream_refused(proxy, &denial);
            denial.to_string()
        })?;
        self.want(proxy);
        Ok(proxy.clone())
    }

    fn admit(&self, credentials: &Credentials<'_>) -> Result<(), Denial> {
        let proxy = &credentials.node.id;
        let peer = Proved::parse(credentials.peer.ok_or(Denial::Nothing)?);
        let wanted = self.wanted_identity(proxy)?.id;
        if peer.id != wanted {
            return Err(Denial::OtherIdentity { has: cut(&peer.id), wanted });
        }
        // A replica has the same id: it must not take the place of another.
        if !peer.is_for(proxy) && !self.state().is_issued_elsewhere() {
            return Err(Denial::OtherIdentity { has: cut(&peer.words()), wanted: format!("{wanted} {proxy}") });
        }
        let revision = self.state().revision;
        if let Some(held) = revision_of(credentials.version).filter(|held| self.restored && *held > revision) {
            return Err(Denial::Newer(format!(
                "it holds revision {held}, which is newer than the store, that was restored from a backup; it keeps that \
                 until one as new is applied, or the backup is restored with --force"
            )));
        }
        Ok(())
    }

    /// Counts a stream that was refused, and tells it.
    pub(crate) fn stream_refused(&self, proxy: &str, denial: &Denial) {
        if let Some(untold) = self.refusals().happened(denial.label(), Instant::now()) {
            self.log.say(ControlEvent::ProxyRefused { proxy: cut(proxy), reason: denial.to_string(), untold });
        }
    }

    /// Who a peer proved to be in its TLS handshake.
    pub(crate) fn peer(chain: Option<&[CertificateDer<'_>]>) -> Option<Arc<str>> {
        chain?.first().and_then(Proved::of).map(|proved| proved.words().into())
    }
}

impl From<Denial> for Failure {
    fn from(denial: Denial) -> Self {
        let reason = denial.to_string();
        match denial {
            Denial::Unknown(_) => Self::Refused(Refusal::Missing(reason)),
            Denial::Request(_) => Self::Refused(Refusal::Invalid(reason)),
            Denial::Newer(_) => Self::Refused(Refusal::Conflict(reason)),
            Denial::Internal(_) => Self::Internal(reason),
            _ => Self::Unauthorized(reason),
        }
    }
}

/// What a stranger sends is cut before it is kept.
fn cut(text: &str) -> String {
    text.chars().take(128).collect()
}

fn digest(bytes: &[u8]) -> String {
    secret::hex(&Sha256::digest(bytes))
}
