//! Simulated proxies: each joins with a token, holds its own certificate, follows ADS with the client that proxies have, and
//! answers for its admin interface. All but the data plane is as in a proxy.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Instant,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::Method;
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::json;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
};
use tokio_rustls::TlsConnector;
use xds::{
    client::{Client, Transport, Update, Verdict},
    digest::Parts,
    news::News,
    node::NodeInfo,
    snapshot::Snapshot,
};

use super::{
    mesh::{REGIONS, Size, Workload, name},
    plane::{self, ADS, Plane},
    wire::{Count, Counted},
};
use crate::failure::Failure;

/// Proxies that join at once.
const JOINING: usize = 16;

/// What a proxy has in force.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    /// How many snapshots were.
    pub count: u64,
    pub version: String,
    pub snapshot: Arc<Snapshot>,
    /// Of the snapshot: kept up with it, as a proxy does.
    pub digest: Parts,
}

/// What is waited for: an endpoint of a cluster at this address.
#[derive(Clone, Debug)]
pub struct Awaited {
    pub cluster: String,
    pub address: SocketAddr,
}

/// A proxy.
#[derive(Debug)]
pub struct Member {
    pub workload: Workload,
    pub in_force: watch::Receiver<InForce>,
}

/// All of them.
#[derive(Debug)]
pub struct Crowd {
    pub members: Vec<Member>,
    pub count: Arc<Count>,
    awaited: Arc<Mutex<Option<Awaited>>>,
    /// Who saw what is awaited, and when.
    pub seen: mpsc::Receiver<(usize, Instant)>,
}

/// A proxy that may connect.
struct Joined {
    workload: Workload,
    tls: Arc<ClientConfig>,
}

impl Crowd {
    /// Joins all and connects them at once.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn connect(size: Size, plane: &Plane) -> Result<(Self, Instant), Failure> {
        let joining = stream::iter(size.connected()).map(|workload| join(plane, workload));
        let joined: Vec<Joined> = joining.buffered(JOINING).try_collect().await?;
        let (count, awaited) = (Arc::new(Count::default()), Arc::new(Mutex::default()));
        // Each is told of one change at a time.
        let (saw, seen) = mpsc::channel(joined.len());
        let begin = Instant::now();
        let members = joined.into_iter().enumerate().map(|(number, joined)| {
            let (now, in_force) = watch::channel(InForce::default());
            let workload = joined.workload;
            let follower = Follower { number, now, awaited: Arc::clone(&awaited), saw: saw.clone() };
            tokio::spawn(follower.follow(start(joined, Arc::clone(&count))));
            Member { workload, in_force }
        });
        Ok((Self { members: members.collect(), count: Arc::clone(&count), awaited, seen }, begin))
    }

    /// What [`Crowd::seen`] tells of from now on.
    pub fn wait_for(&self, awaited: Option<Awaited>) {
        *self.awaited.lock().unwrap_or_else(PoisonError::into_inner) = awaited;
    }

    /// Waits until every proxy has a snapshot.
    pub async fn complete(&mut self) {
        for member in &mut self.members {
            // The follower lives as long as we do.
            let _ = member.in_force.wait_for(|in_force| in_force.count > 0).await;
        }
    }
}

async fn join(plane: &Plane, workload: Workload) -> Result<Joined, Failure> {
    let failed = |error: String| Failure::Program(format!("{} cannot join: {error}", workload.name()));
    let request = json!({ "service": name(workload.service), "proxy": workload.name(), "ttlMs": 60_000 });
    let token = plane.call(Method::POST, "/v1/tokens", Some(&request)).await?;
    let token = token["token"].as_str().unwrap_or_default();
    let key = KeyPair::generate().map_err(|e| failed(e.to_string()))?;
    let csr = CertificateParams::default().serialize_request(&key).and_then(|csr| csr.pem());
    let request = json!({ "proxy": workload.name(), "csr": csr.map_err(|e| failed(e.to_string()))? });
    let given = plane::call(token, Method::POST, "/v1/certificates", Some(&request)).await?;
    let text = |field: &str| given[field].as_str().unwrap_or_default().as_bytes().to_vec();
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&text("roots")) {
        roots.add(root.map_err(|e| failed(e.to_string()))?).map_err(|e| failed(e.to_string()))?;
    }
    let chain = CertificateDer::pem_slice_iter(&text("certificate")).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).map_err(|e| failed(e.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| failed(e.to_string()))?.with_root_certificates(roots);
    let tls = builder.with_client_auth_cert(chain.map_err(|e| failed(e.to_string()))?, key);
    let mut tls = tls.map_err(|e| failed(e.to_string()))?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Joined { workload, tls: Arc::new(tls) })
}

fn start(Joined { workload, tls }: Joined, count: Arc<Count>) -> Client {
    let node = NodeInfo {
        id: workload.name(),
        service: name(workload.service),
        region: REGIONS[workload.region].to_owned(),
        agent: format!("firedrill {}", env!("CARGO_PKG_VERSION")),
        ..NodeInfo::default()
    };
    let config = xds::client::ClientConfig {
        node,
        token: String::new(),
        authority: "control".to_owned(),
        transport: Transport::Delta,
        loads: None,
    };
    xds::client::start(config, move || connect(Arc::clone(&tls), Arc::clone(&count)))
}

async fn connect(
    tls: Arc<ClientConfig>,
    count: Arc<Count>,
) -> io::Result<tokio_rustls::client::TlsStream<Counted<TcpStream>>> {
    let stream = TcpStream::connect(ADS).await?;
    stream.set_nodelay(true)?;
    let counts = Arc::new(AtomicBool::new(false));
    let stream = Counted::new(stream, count, Arc::clone(&counts));
    let name = ServerName::try_from("control").map_err(io::Error::other)?;
    let stream = TlsConnector::from(tls).connect(name, stream).await?;
    counts.store(true, std::sync::atomic::Ordering::Relaxed);
    Ok(stream)
}

/// What a proxy does with what it is told.
struct Follower {
    number: usize,
    now: watch::Sender<InForce>,
    awaited: Arc<Mutex<Option<Awaited>>>,
    saw: mpsc::Sender<(usize, Instant)>,
}

impl Follower {
    async fn follow(self, mut client: Client) {
        while let Some(update) = client.updates.recv().await {
            let Update::Snapshot { version, snapshot } = update else { continue };
            if self.awaits(&snapshot) && self.saw.send((self.number, Instant::now())).await.is_err() {
                return;
            }
            let verdict = Verdict { version: version.clone(), refused: None };
            if client.verdicts.send(verdict).await.is_err() {
                return;
            }
            let digest = {
                let before = self.now.borrow();
                before.digest.followed_by(&News::of(&before.snapshot, &snapshot), &snapshot)
            };
            self.now.send_modify(|now| *now = InForce { count: now.count + 1, version, snapshot, digest });
        }
    }

    fn awaits(&self, snapshot: &Snapshot) -> bool {
        let awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Awaited { cluster, address }) = awaited.as_ref() else { return false };
        let mut sets = snapshot.endpoints.iter().filter(|set| set.cluster == *cluster);
        sets.any(|set| set.localities.iter().flat_map(|l| &l.endpoints).any(|e| e.address == *address))
    }
}
