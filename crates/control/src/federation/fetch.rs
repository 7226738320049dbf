//! Asks a trust domain for its bundle over HTTPS (SPIFFE Federation, profile `https_spiffe`): who serves it proves to be the
//! expected SPIFFE id by the bundle that is known already.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use model::config::BundleEndpoint;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use xds::{
    snapshot::{TrustBundle, TrustDomain},
    spiffe::{Roots, ServerVerifier, provider},
};

use crate::bundle::{Bundle, MAX_BUNDLE};

/// Bound on the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks once. `roots` is what is known of the trust domain, PEM. Answers the bundle, also as it was written.
///
/// # Errors
/// Why there is no bundle.
pub(super) async fn fetch(endpoint: &BundleEndpoint, roots: &str) -> Result<(String, Bundle), String> {
    let failed = |reason: String| format!("{}: {reason}", endpoint.url);
    match tokio::time::timeout(TIMEOUT, exchange(endpoint, roots)).await {
        Ok(answer) => {
            let read = |text: String| Bundle::parse(&text).map(|bundle| (text, bundle));
            answer.and_then(read).map_err(failed)
        }
        Err(_) => Err(failed(format!("no answer within {} s", TIMEOUT.as_secs()))),
    }
}

fn tls(endpoint: &BundleEndpoint, roots: &str) -> Result<Arc<ClientConfig>, String> {
    let name = endpoint.id.trust_domain().to_owned();
    let known = TrustDomain { name: name.clone(), roots: roots.to_owned() };
    let bundle = TrustBundle { name, domains: vec![known], ..TrustBundle::default() };
    let roots = Roots::read(&bundle).map_err(|e| e.to_string())?;
    let verifier = ServerVerifier::new(roots, vec![endpoint.id.to_string()]);
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let mut config = config
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    // A resumed session would be believed by an older bundle.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

async fn exchange(endpoint: &BundleEndpoint, roots: &str) -> Result<String, String> {
    let url = &endpoint.url;
    let name = ServerName::try_from(url.host.clone()).map_err(|e| e.to_string())?;
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(|e| e.to_string())?;
    let unproven = |e: std::io::Error| format!("{e}; who serves there must prove to be {}", endpoint.id);
    let stream = TlsConnector::from(tls(endpoint, roots)?).connect(name, stream).await.map_err(unproven)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let request = Request::get(&url.path).header(header::HOST, url.authority()).body(Empty::<Bytes>::new());
    let read = async {
        let answer = sender.send_request(request.map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it answers {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_BUNDLE).collect().await.map_err(|e| e.to_string())?;
        String::from_utf8(body.to_bytes().into()).map_err(|e| e.to_string())
    };
    let read = read.await;
    driver.abort();
    read
}
