//! The control plane's own SVID where somebody else issues the mesh's: by files, or by a Workload API. Its roots, and those of trust
//! domains that come with it, are whom traffic trusts then.

use std::{path::PathBuf, sync::Arc};

use model::config::{Config, Identity};
use tokio::sync::watch;
use xds::svid::{self, Files, Known, Source, Svid};

use crate::{compile::control_id, mesh::Mesh};

/// Name of the control plane where files are named by proxies.
const CONTROL: &str = "control";

/// Where the control plane's own SVID comes from, and its id; `None`: the built-in authority signs.
fn source(config: &Config) -> Option<(Source, String)> {
    let source = match &config.mesh.identity {
        Identity::Builtin => return None,
        Identity::Files(files) => {
            let [certificate, key, bundle] = files.of(CONTROL).map(PathBuf::from);
            Source::Files(Files { certificate, key, bundle: Some(bundle) })
        }
        Identity::Spire { socket } => Source::WorkloadApi(socket.into()),
    };
    Some((source, control_id(config)))
}

/// Follows it, for ever, as the manifests in force say; tells what came last.
pub(crate) async fn follow(mesh: Arc<Mesh>, issued: watch::Sender<Option<Svid>>) {
    let mut changes = mesh.changes();
    let mut followed = None;
    let mut known: Option<watch::Receiver<Known>> = None;
    loop {
        let wanted = mesh.state().config.as_deref().and_then(source);
        if wanted != followed {
            known = wanted.clone().map(|(source, id)| svid::follow(source, Some(id)));
            followed = wanted;
            mesh.take_svid(None);
            issued.send_replace(None);
        }
        let told = async {
            match &mut known {
                Some(known) => known.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            // A source is followed for as long as somebody listens.
            told = told => if told.is_err() { followed = None },
        }
        let Some(Known { svid, failing }) = known.as_mut().map(|known| known.borrow_and_update().clone()) else {
            continue;
        };
        if svid.is_some() {
            // Manifests may have named another trust domain that it came with.
            mesh.take_svid(svid.clone());
            issued.send_if_modified(|present| std::mem::replace(present, svid.clone()) != svid);
        }
        mesh.svid_failing(failing);
    }
}
