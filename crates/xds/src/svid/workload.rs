//! The SPIFFE Workload API: `FetchX509SVID`, a stream over a Unix socket whose every message has all that there is now.

use std::{collections::HashMap, path::Path, pin::pin, sync::Arc, time::Duration};

use tokio::{net::UnixStream, sync::watch, time::timeout};
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Known, Svid, tell};
use crate::{client::Connector, pem};

const FETCH: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
/// Says that no browser was tricked into this request (Workload API, section 3).
const HEADER: &str = "workload.spiffe.io";
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MOST: Duration = Duration::from_secs(30);
/// Who has said nothing for this long is told as failing.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who has said nothing for this long is asked anew.
const HEARD: Duration = Duration::from_secs(60);
/// Largest message, in bytes.
const MAX: usize = 4 << 20;

/// Nothing is asked.
#[derive(Clone, PartialEq, prost::Message)]
struct X509SvidRequest {}

/// Fields that we do not use are passed over, as gRPC's are.
#[derive(Clone, PartialEq, prost::Message)]
struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<X509Svid>,
    /// By trust domain; certificates in DER, one after the other.
    #[prost(map = "string, bytes", tag = "3")]
    federated_bundles: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct X509Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    /// Certificates in DER, leaf first.
    #[prost(bytes = "vec", tag = "2")]
    x509_svid: Vec<u8>,
    /// PKCS #8, DER.
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    /// Roots in DER.
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
}

/// Asks for ever. A stream that ends is opened again, later each time that it says nothing; what came last is kept.
pub(super) async fn follow(socket: &Path, id: Option<&str>, known: &watch::Sender<Known>) {
    let saw = |seen: Result<Svid, String>| {
        tell(known, seen.map_err(|reason| format!("the Workload API at {}: {reason}", socket.display())));
    };
    let mut pause = PAUSE_FIRST;
    loop {
        let mut asked = pin!(ask(socket));
        let first = match timeout(PATIENCE, &mut asked).await {
            Ok(first) => first,
            Err(_) => {
                saw(Err(silent(PATIENCE)));
                // One that attests slowly is heard, too.
                timeout(HEARD - PATIENCE, asked).await.unwrap_or_else(|_| Err(silent(PATIENCE)))
            }
        };
        let reason = match first {
            Ok((mut message, mut stream)) => loop {
                let seen = read(message, id);
                if seen.is_ok() {
                    pause = PAUSE_FIRST;
                }
                saw(seen);
                // An SVID that lasts is followed by silence.
                match next(&mut stream).await {
                    Ok(newer) => message = newer,
                    Err(reason) => break reason,
                }
            },
            Err(reason) => reason,
        };
        saw(Err(reason));
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(PAUSE_MOST);
    }
}

fn silent(time: Duration) -> String {
    format!(
        "it has not answered for {} s; start the agent behind the socket anew, or name another socket. It is asked again",
        time.as_secs()
    )
}

/// Opens the stream, and waits for its first message.
async fn ask(socket: &Path) -> Result<(X509SvidResponse, Streaming<X509SvidResponse>), String> {
    let mut stream = open(socket).await?;
    Ok((next(&mut stream).await?, stream))
}

async fn next(stream: &mut Streaming<X509SvidResponse>) -> Result<X509SvidResponse, String> {
    let message = stream.message().await.map_err(|status| words(&status))?;
    message.ok_or_else(|| "it ended the stream".to_owned())
}

fn words(status: &Status) -> String {
    format!("{} {}", status.code(), status.message())
}

async fn open(socket: &Path) -> Result<Streaming<X509SvidResponse>, String> {
    let path = socket.to_owned();
    let connect = move || UnixStream::connect(path.clone());
    // The address means nothing: the socket is who is asked.
    let endpoint = Endpoint::from_static("http://localhost");
    let connecting = endpoint.connect_with_connector(Connector::new(Arc::new(connect)));
    let channel: Channel = connecting.await.map_err(|e| {
        let cause = std::error::Error::source(&e).map(ToString::to_string);
        format!("{}; does its agent run?", cause.unwrap_or_else(|| e.to_string()))
    })?;
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MAX);
    grpc.ready().await.map_err(|e| e.to_string())?;
    let mut request = Request::new(X509SvidRequest {});
    request.metadata_mut().insert(HEADER, MetadataValue::from_static("true"));
    let codec = ProstCodec::<X509SvidRequest, X509SvidResponse>::default();
    let stream = grpc.server_streaming(request, PathAndQuery::from_static(FETCH), codec).await;
    stream.map(tonic::Response::into_inner).map_err(|status| words(&status))
}

/// Takes the SVID of an id; without one the first, which is the default (Workload API, section 5.3).
fn read(message: X509SvidResponse, id: Option<&str>) -> Result<Svid, String> {
    let X509SvidResponse { svids, federated_bundles } = message;
    let has = svids.iter().map(|svid| svid.spiffe_id.as_str()).collect::<Vec<_>>().join(", ");
    let none = || match id {
        Some(id) => format!("it has no SVID of {id} for us, but {}", if has.is_empty() { "none at all" } else { &has }),
        None => "it has no SVID for us".to_owned(),
    };
    let svid = svids.iter().find(|svid| id.is_none_or(|id| svid.spiffe_id == id)).ok_or_else(none)?;
    let federated = federated_bundles.iter().map(|(domain, roots)| {
        // Some send the trust domain's id.
        let domain = domain.strip_prefix("spiffe://").unwrap_or(domain);
        Ok((domain.to_owned(), certificates(roots)?))
    });
    let federated = federated.collect::<Result<_, String>>()?;
    let key = pem::write("PRIVATE KEY", &svid.x509_svid_key);
    if svid.bundle.is_empty() {
        return Err("it has no roots of our trust domain".to_owned());
    }
    let read = Svid::new(certificates(&svid.x509_svid)?, key, certificates(&svid.bundle)?, federated)?;
    if *read.id != *svid.spiffe_id {
        return Err(format!("it calls us {}, and the certificate {}", svid.spiffe_id, read.id));
    }
    Ok(read)
}

/// Certificates one after the other, as PEM.
fn certificates(mut der: &[u8]) -> Result<String, String> {
    let mut text = String::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der).map_err(|e| format!("a certificate cannot be read: {e}"))?;
        text.push_str(&pem::write("CERTIFICATE", &der[..der.len() - rest.len()]));
        der = rest;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
    use tokio::{net::UnixListener, time::Instant};

    use super::*;
    use crate::svid::testing::Authority;

    const FX: &str = "spiffe://bank.example/service/fx";

    fn ders(pem: &str) -> Vec<u8> {
        CertificateDer::pem_slice_iter(pem.as_bytes()).flat_map(|one| one.unwrap().to_vec()).collect()
    }

    fn svid(authority: &Authority, id: &str) -> X509Svid {
        let (certificate, key) = authority.issue(id);
        let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).unwrap();
        X509Svid {
            spiffe_id: id.to_owned(),
            x509_svid: ders(&certificate),
            x509_svid_key: key.secret_pkcs8_der().to_vec(),
            bundle: ders(&authority.roots()),
        }
    }

    #[test]
    fn the_svid_of_the_id_is_taken_with_its_roots_and_those_of_others() {
        let (authority, partner) = (Authority::new(), Authority::new());
        let other = "spiffe://bank.example/service/other";
        let both = format!("{}{}", partner.roots(), authority.roots());
        let message = X509SvidResponse {
            svids: vec![svid(&authority, other), svid(&authority, FX)],
            federated_bundles: HashMap::from([("spiffe://partner.example".to_owned(), ders(&both))]),
        };
        let read_fx = read(message.clone(), Some(FX)).unwrap();
        assert_eq!((&*read_fx.id, ders(&read_fx.roots)), (FX, ders(&authority.roots())));
        assert_eq!(ders(&read_fx.federated["partner.example"]), ders(&both));
        assert_eq!(&*read(message.clone(), None).unwrap().id, other);
        let third = read(message, Some("spiffe://bank.example/service/third")).unwrap_err();
        assert!(third.contains("but spiffe://bank.example/service/other, spiffe://bank.example/service/fx"), "{third}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_connections_and_never_answers_is_told_as_failing_and_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let (known, mut told) = watch::channel(Known::default());
        let listener = UnixListener::bind(&socket).unwrap();
        let path = socket.clone();
        tokio::spawn(async move { follow(&path, Some(FX), &known).await });
        let began = Instant::now();
        let first = listener.accept().await.unwrap();
        let failing = told.wait_for(|known| known.failing.is_some()).await.unwrap().failing.clone().unwrap();
        assert!(failing.contains(&format!("{}: it has not answered for 10 s; start", socket.display())), "{failing}");
        assert_eq!(began.elapsed().as_secs(), PATIENCE.as_secs());
        assert!(!told.has_changed().unwrap(), "told once");
        let second = listener.accept().await.unwrap();
        assert!(began.elapsed() >= HEARD && began.elapsed() < HEARD + PAUSE_MOST);
        drop(first);
        // Nobody there is another failure.
        drop((listener, second));
        std::fs::remove_file(&socket).unwrap();
        told.wait_for(|known| known.failing.as_ref().is_some_and(|f| f.contains("does its agent run?"))).await.unwrap();
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let authority = Authority::new();
        type Change = fn(&mut X509Svid);
        let cases: [(Change, &str); 6] = [
            (|s| s.x509_svid.clear(), "no certificate"),
            (|s| s.x509_svid.truncate(20), "a certificate cannot be read"),
            (|s| s.x509_svid_key.clear(), "key"),
            (|s| s.bundle.clear(), "no roots"),
            (|s| s.bundle = vec![1, 2, 3], "a certificate cannot be read"),
            (|s| s.spiffe_id = "spiffe://bank.example/service/ledger".to_owned(), "and the certificate"),
        ];
        for (change, expected) in cases {
            let mut one = svid(&authority, FX);
            change(&mut one);
            let error = read(X509SvidResponse { svids: vec![one], ..X509SvidResponse::default() }, None).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(read(X509SvidResponse::default(), None).is_err());
    }
}
