//! A control plane in this process, and proxies that are nothing but an ADS client.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use control::{
    Options,
    api::{
        ApplyRequest, Certificate, CertificateRequest, ControlEvent, Events, LeaseRequest, Logged, ManifestFile,
        Placement, Placements, Renewal, Role, TokenRequest,
    },
    client::{Client, ClientError, read_run_file},
    store::StoreAddress,
};
use rcgen::{CertificateParams, KeyPair, SigningKey as _};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{net::TcpStream, sync::oneshot, task::JoinHandle, time::timeout};
use tokio_rustls::TlsConnector;
use xds::{
    client::{Transport, Update, Verdict},
    clock::Clock,
    node::NodeInfo,
};

/// Longer than anything should take; a test that waits for it fails.
pub const LONG: Duration = Duration::from_secs(30);

pub const MANIFEST: &str = "
apiVersion: firedrill.dev/v1
kind: Mesh
metadata: {name: shop}
spec:
  trustDomain: shop.example
  regions: [east, west]
  gateways: [{name: edge, listen: \"127.0.0.1:8080\", routes: [{service: web}]}]
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {name: web}
spec:
  protocol: http
  endpoints:
    - {region: east, run: [web]}
    - {region: west, run: [web]}
---
apiVersion: firedrill.dev/v1
kind: RecoveryPlan
metadata: {name: web-west}
spec:
  services: [web]
  activePassive: {primary: east, standby: [west], tier: hot}
  failover:
    trigger: manual
    steps:
      - shift: {to: west}
      - run: {name: promote, in: west, command: [/bin/sh, -c, 'echo $FIREDRILL_REGION $FIREDRILL_ENDPOINTS_WEB'], undo: [/bin/sh, -c, 'echo undone']}
  failback: {trigger: manual, ramp: [10%, 100%], dwell: 100ms}
";

pub struct Plane {
    pub client: Client,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), control::RunError>>,
}

impl Plane {
    pub async fn start(state: &Path) -> Self {
        Self::start_on(state, StoreAddress::of_state(state)).await
    }

    pub async fn start_on(state: &Path, store: StoreAddress) -> Self {
        Self::start_at(state, store, "127.0.0.1:0".parse().unwrap()).await
    }

    /// Where proxies connect.
    pub fn ads(&self, state: &Path) -> SocketAddr {
        read_run_file(state).unwrap().ads
    }

    pub async fn start_at(state: &Path, store: StoreAddress, ads: SocketAddr) -> Self {
        Self::start_with(state, store, ads, None).await
    }

    /// With its bundle endpoint there.
    pub async fn start_bundle(state: &Path, bundle: SocketAddr) -> Self {
        Self::start_with(state, StoreAddress::of_state(state), "127.0.0.1:0".parse().unwrap(), Some(bundle)).await
    }

    async fn start_with(state: &Path, store: StoreAddress, ads: SocketAddr, bundle: Option<SocketAddr>) -> Self {
        let _ = std::fs::remove_file(state.join("run/control.json"));
        let free = "127.0.0.1:0".parse().unwrap();
        let clock = Clock::anchored();
        let options = Options { state_dir: state.to_owned(), store, api: free, ads, bundle, clock };
        let (stop, stopped) = oneshot::channel();
        let mut task = tokio::spawn(control::run(options, async { drop(stopped.await) }));
        let ready = async {
            loop {
                if let Ok(client) = Client::from_state(state)
                    && client.ready().await.is_ok()
                {
                    return client;
                }
                if task.is_finished() {
                    panic!("the control plane did not start: {:?}", (&mut task).await);
                }
                tokio::task::yield_now().await;
            }
        };
        let client = timeout(LONG, ready).await.unwrap();
        Self { client, stop: Some(stop), task }
    }

    /// With the shop applied and placed.
    pub async fn shop(state: &Path) -> Self {
        let plane = Self::start(state).await;
        plane.client.apply(&apply(MANIFEST)).await.unwrap();
        plane.client.put_placements(&placements()).await.unwrap();
        plane
    }

    pub async fn stop(mut self) {
        drop(self.stop.take());
        timeout(LONG, self.task).await.unwrap().unwrap().unwrap();
    }

    /// As if killed: nothing is drained.
    pub async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.is_err());
    }

    /// Waits for a control event after a position; answers the position after it.
    pub async fn wait_for(&self, mut after: u64, wanted: impl Fn(&ControlEvent) -> bool) -> (u64, ControlEvent) {
        let found = async {
            loop {
                let Events { events, next, .. } = self.client.events(after, Duration::from_secs(10)).await.unwrap();
                for entry in events {
                    if let Logged::Control(event) = entry.what
                        && wanted(&event)
                    {
                        return (entry.sequence, event);
                    }
                }
                after = next;
            }
        };
        timeout(LONG, found).await.unwrap()
    }
}

pub fn apply(text: &str) -> ApplyRequest {
    let files = vec![ManifestFile { path: "shop.yaml".to_owned(), text: text.to_owned() }];
    ApplyRequest { files, author: "ann".to_owned(), message: "because".to_owned(), ..ApplyRequest::default() }
}

pub fn lease(ttl_ms: u64, plan: Option<&str>) -> LeaseRequest {
    let plan = plan.map(str::to_owned);
    LeaseRequest { ttl_ms, reason: "a test".to_owned(), holder: "test".to_owned(), plan }
}

/// Nothing listens at these addresses.
pub fn placements() -> Placements {
    let at = |number: u8, port: u16| ([127, 9, 9, number], port).into();
    let sidecar = |number: u8, region: &str| Placement {
        proxy: format!("web-{region}-0"),
        admin: at(number, 15000),
        role: Role::Sidecar {
            service: "web".to_owned(),
            workload: format!("web-{region}-0"),
            region: region.to_owned(),
            app: at(number, 8080),
            inbound: at(number, 15006),
            outbound: at(number, 15001),
        },
    };
    let gateway = Role::Gateway { gateway: "edge".to_owned(), listen: None };
    let edge = Placement { proxy: "edge".to_owned(), admin: at(4, 15000), role: gateway };
    Placements { proxies: vec![sidecar(2, "east"), sidecar(3, "west"), edge] }
}

/// A token for a proxy of the shop.
pub async fn token(client: &Client, proxy: &str) -> String {
    let own = |name: &str| (proxy == name).then(|| name.to_owned());
    let service = own("edge").is_none().then(|| "web".to_owned());
    let request = TokenRequest { service, gateway: own("edge"), proxy: Some(proxy.to_owned()), ttl_ms: 60_000 };
    client.create_token(&request).await.unwrap().token
}

/// A request for a certificate of a new key.
pub fn csr() -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    (CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap(), key)
}

/// Asks with a join token.
pub async fn ask(client: &Client, proxy: &str, token: &str, csr: &str) -> Result<Certificate, ClientError> {
    let request = CertificateRequest { proxy: proxy.to_owned(), csr: csr.to_owned(), renews: None };
    client.with_token(token).certificate(&request).await
}

/// Asks with a certificate and a key that should be its.
pub async fn renew(
    client: &Client,
    proxy: &str,
    held: &str,
    key: &KeyPair,
    csr: &str,
) -> Result<Certificate, ClientError> {
    let signature = key.sign(format!("{}{csr}", Renewal::PREFIX).as_bytes()).unwrap();
    let signature = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    let renews = Some(Renewal { certificate: held.to_owned(), signature });
    let request = CertificateRequest { proxy: proxy.to_owned(), csr: csr.to_owned(), renews };
    client.with_token("").certificate(&request).await
}

/// A proxy's side of ADS.
pub struct Proxy(xds::client::Client);

impl Proxy {
    pub async fn connect(state: &Path, name: &str) -> Self {
        let client = Client::from_state(state).unwrap();
        let (csr, key) = csr();
        let given = ask(&client, name, &token(&client, name).await, &csr).await.unwrap();
        Self::connect_with(state, name, Some((&given.certificate, &key.serialize_pem())))
    }

    /// With this certificate and key.
    pub fn connect_with(state: &Path, name: &str, identity: Option<(&str, &str)>) -> Self {
        let mut roots = RootCertStore::empty();
        // What a proxy is told with its certificate; not the bundle of traffic.
        roots.add(CertificateDer::from_pem_file(state.join("ca/root.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (connector, ads) = (TlsConnector::from(Arc::new(config)), read_run_file(state).unwrap().ads);
        let node = NodeInfo { id: name.to_owned(), agent: "firedrill 0".to_owned(), ..NodeInfo::default() };
        let config = xds::client::ClientConfig {
            node,
            token: String::new(),
            authority: "control".to_owned(),
            transport: Transport::Delta,
            loads: None,
        };
        Self(xds::client::start(config, move || {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(ads).await?;
                connector.connect(ServerName::try_from("control").unwrap(), stream).await
            }
        }))
    }

    /// Waits for an update that the function makes something of.
    pub async fn wait_for<T>(&mut self, wanted: impl Fn(Update) -> Option<T>) -> T {
        let found = async {
            loop {
                let update = self.0.updates.recv().await.unwrap();
                if let Update::Snapshot { version, .. } = &update {
                    let verdict = Verdict { version: version.clone(), refused: None };
                    self.0.verdicts.send(verdict).await.unwrap();
                }
                if let Some(found) = wanted(update) {
                    return found;
                }
            }
        };
        timeout(LONG, found).await.unwrap()
    }

    /// Waits until exactly these overlays are in force; answers their times to live.
    pub async fn overlays(&mut self, ids: &[&str]) -> Vec<Duration> {
        self.wait_for(|update| match update {
            Update::Overlays(overlays) => {
                let mut have: Vec<&str> = overlays.iter().map(|(o, _)| o.id.as_str()).collect();
                have.sort_unstable();
                (have == ids).then(|| overlays.iter().map(|(_, ttl)| *ttl).collect())
            }
            _ => None,
        })
        .await
    }

    /// Waits for a snapshot in which a cluster has endpoints in exactly these regions.
    pub async fn regions(&mut self, cluster: &str, regions: &[&str]) {
        self.wait_for(|update| match update {
            Update::Snapshot { snapshot, .. } => {
                let set = snapshot.endpoints.iter().find(|set| set.cluster == cluster)?;
                let have: Vec<&str> = set.localities.iter().map(|l| l.region.as_str()).collect();
                (have == regions).then_some(())
            }
            _ => None,
        })
        .await;
    }
}
