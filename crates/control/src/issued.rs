//! The control plane's own SVID where somebody else issues the mesh's: by files, or by a Workload API. Its roots, and those of trust
//! domains that come with it, are whom traffic trusts then; they are kept in the state folder for those who ask that.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use model::config::{Config, Identity, IdentityFiles};
use tokio::sync::watch;
use xds::svid::{self, Files, Known, Source, Svid};

use crate::{bundle, compile::control_id, mesh::Mesh};

/// Where the control plane's own SVID comes from, and its id; `None`: the built-in authority signs.
fn source(config: &Config) -> Option<(Source, String)> {
    let source = match &config.mesh.identity {
        Identity::Builtin => return None,
        Identity::Files(files) => {
            let [certificate, key, bundle] = files.of(IdentityFiles::CONTROL).map(PathBuf::from);
            Source::Files(Files { certificate, key, bundle: Some(bundle) })
        }
        Identity::Spire { socket } => Source::WorkloadApi(socket.into()),
    };
    Some((source, control_id(config)))
}

/// Follows it, for ever, as the manifests in force say; tells what came last.
pub(crate) async fn follow(mesh: Arc<Mesh>, state_dir: PathBuf, issued: watch::Sender<Option<Svid>>) {
    let mut changes = mesh.changes();
    // `None`: there are no manifests to follow.
    let mut followed = None;
    let mut known: Option<watch::Receiver<Known>> = None;
    loop {
        let wanted = mesh.state().config.as_deref().map(source);
        if wanted != followed {
            if let Some(wanted) = &wanted {
                keep(&state_dir, wanted.as_ref().map(|_| ""));
            }
            known = wanted.clone().flatten().map(|(source, id)| svid::follow(source, Some(id)));
            followed = wanted;
            mesh.take_svid(None);
            mesh.svid_failing(None);
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
        if let Some(svid) = svid {
            keep(&state_dir, Some(&svid.roots));
            // Manifests may have named another trust domain that it came with.
            mesh.take_svid(Some(svid.clone()));
            issued.send_if_modified(|present| present.replace(svid.clone()).as_ref() != Some(&svid));
        }
        mesh.svid_failing(failing);
    }
}

/// Keeps roots for those who ask the state folder, if they are others.
fn keep(state_dir: &Path, roots: Option<&str>) {
    let same = bundle::issued(state_dir).is_ok_and(|kept| kept.as_deref() == roots);
    if !same && let Err(error) = bundle::keep_issued(state_dir, roots) {
        tracing::error!(error, "`firedrill ca` and meshes that are federated hear of other roots than are in force");
    }
}
