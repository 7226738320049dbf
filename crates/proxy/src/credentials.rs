//! How a proxy comes by its certificate: the control plane signs it, or somebody else issues it.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::watch;
use xds::{
    clock::Stamp,
    codec::KeyPair,
    event::EventKind,
    svid::{self, Known, Svid},
};

use crate::{
    certify::{Api, Certifier, CertifyError, ControlTrust},
    events::EventLog,
    tls::identity::{Identity, IdentityError, Validity},
};

/// Where a proxy's certificate comes from.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// The control plane signs it.
    Signed {
        /// Of the control plane's API.
        api: Api,
        /// Join token for the first one; empty: there is one in the state folder.
        token: String,
    },
    /// Files, or a Workload API.
    Issued(Issued),
}

/// An SVID that somebody else issues.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Where.
    pub source: svid::Source,
    /// The only id that is taken; `None`: whichever comes.
    pub id: Option<String>,
}

/// Where a certificate is used.
pub(crate) struct Uses {
    /// For traffic, and towards the control plane.
    pub identity: Identity,
    /// Is told whom the control plane is known by.
    pub trust: Arc<watch::Sender<Option<ControlTrust>>>,
    /// Is given each certificate with its key, where another process beside us uses them too.
    pub beside: Option<watch::Sender<Option<KeyPair>>>,
    /// Is told what comes of somebody else, and that nothing does.
    pub events: Arc<EventLog>,
}

impl Credentials {
    /// Obtains certificates in time, for ever. Answers when nothing lets the proxy in any more.
    pub(crate) async fn keep(self, name: String, folder: PathBuf, uses: Uses) -> CertifyError {
        match self {
            Self::Signed { api, token } => {
                let Uses { identity, trust, beside, .. } = uses;
                Certifier { name, api, token, folder, identity, beside }.run(trust).await
            }
            Self::Issued(Issued { source, id }) => {
                follow(svid::follow(source, id), &uses, None).await;
                std::future::pending().await
            }
        }
    }
}

/// Uses what comes after `used`, for as long as anything can. Connections that are up keep what they have.
pub(crate) async fn follow(mut known: watch::Receiver<Known>, uses: &Uses, mut used: Option<Svid>) {
    while known.changed().await.is_ok() {
        let Known { svid, mut failing } = known.borrow_and_update().clone();
        let mended = failing.is_none() && uses.identity.failing().is_some();
        if let Some(svid) = svid.filter(|svid| mended || used.as_ref() != Some(svid)) {
            if let Err(error) = take(&svid, uses) {
                failing = Some(error.to_string());
            }
            used = Some(svid);
        }
        if uses.identity.fail(failing.clone())
            && let Some(reason) = failing
        {
            tracing::warn!(reason, "no newer certificate comes");
            uses.events.push(EventKind::IdentityFailing { reason });
        }
    }
}

/// Uses an SVID from now on.
///
/// # Errors
/// If the TLS library cannot.
pub(crate) fn take(svid: &Svid, uses: &Uses) -> Result<(), IdentityError> {
    let Svid { id, certificate, key, roots, .. } = svid.clone();
    let Validity { until, .. } = uses.identity.set_pem(&certificate, &key)?;
    let until = Stamp(until.saturating_mul(1_000_000_000));
    uses.events.push(EventKind::IdentityApplied { id: id.to_string(), until });
    if let Some(beside) = &uses.beside {
        beside.send_replace(Some(KeyPair { certificate, key }));
    }
    let new = Some(ControlTrust { roots, spiffe_id: id.to_string() });
    uses.trust.send_if_modified(|present| {
        let changed = *present != new;
        *present = new;
        changed
    });
    Ok(())
}
