//! A join token is sent only to a control plane that has proved itself.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use proxy::{Api, ControlSource, Credentials, Drain, Options, Source};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use xds::clock::Clock;

use crate::{authority::Authority, support::*};

const TOKEN: &str = "fdj_only-for-the-control-plane";

fn options(folder: &Path, address: SocketAddr, roots: String) -> Options {
    Options {
        name: "p1".into(),
        service: "client".into(),
        admin: SocketAddr::new(ip(), 15000),
        workers: 1,
        state: folder.to_owned(),
        source: Source::Control(ControlSource {
            ads: SocketAddr::new(ip(), 7001),
            credentials: Credentials::Signed { api: Api::Address { address, roots }, token: TOKEN.into() },
            region: "east".into(),
            transport: xds::client::Transport::default(),
        }),
        access_log: None,
        trace: None,
        started: || (),
        give_back: || (),
        drain: Drain::default(),
        log: None,
        clock: Clock::anchored(),
    }
}

/// A server at the control plane's address: with a certificate, or in plaintext. What each connection says is sent on.
fn server(identity: Option<(String, String)>) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind((ip(), 7000)).unwrap();
    let address = listener.local_addr().unwrap();
    let config = identity.map(|(certificate, key)| {
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Arc::new(config.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap())
    });
    let (say, said) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let mut heard = Vec::new();
            match &config {
                // Whatever it says first, it is asked to go on in plaintext.
                None => {
                    let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
                    let _ = stream.read_to_end(&mut heard);
                }
                Some(config) => {
                    let mut connection = rustls::ServerConnection::new(config.clone()).unwrap();
                    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
                    let _ = tls.read_to_end(&mut heard);
                }
            }
            if say.send(String::from_utf8_lossy(&heard).into_owned()).is_err() {
                return;
            }
        }
    });
    (address, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_sent_only_to_a_control_plane_that_proves_itself() {
    let (ours, other) = (Authority::new(), Authority::new());
    let impostors = [
        None,
        // Of another authority, by the right name; and of ours, but a workload's.
        Some(other.issue_names("spiffe://bank.example/control", &["control"])),
        Some(ours.issue("accounts")),
    ];
    for (number, identity) in impostors.into_iter().enumerate() {
        let (address, said) = server(identity);
        let folder = tempfile::tempdir().unwrap();
        let (stop, thread) = launch(options(folder.path(), address, ours.pem()));
        for _ in 0..2 {
            let heard = said.recv_timeout(Duration::from_secs(30)).unwrap();
            assert!(!heard.contains(TOKEN) && !heard.contains("Bearer"), "impostor {number} heard {heard:?}");
        }
        stop.send(()).unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap().unwrap();
    }
    let (address, said) = server(Some(ours.issue_names("spiffe://bank.example/control", &["control"])));
    let folder = tempfile::tempdir().unwrap();
    let (stop, thread) = launch(options(folder.path(), address, ours.pem()));
    let heard = said.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(heard.contains(&format!("authorization: Bearer {TOKEN}")), "{heard:?}");
    stop.send(()).unwrap();
    tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap().unwrap();
}
