//! Tells others our bundle over HTTPS, as whom our certificate says we are. Anybody may ask: roots are no secret.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use xds::arrivals::Arrivals;

use crate::{ads::ACCEPT_PAUSE, authority::OwnTls, mesh::Mesh};

/// Connections at once. A newcomer beyond that ends the oldest one of the source with the most.
const CONNECTIONS: usize = 64;
/// Bound on a connection, which carries one request.
const LIMIT: Duration = Duration::from_secs(10);

/// Answers for ever.
pub(crate) async fn serve(mesh: Arc<Mesh>, listener: TcpListener, tls: watch::Receiver<Option<OwnTls>>) {
    let arrivals = Arrivals::new(CONNECTIONS);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the bundle endpoint cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Before the first manifests there is no trust domain, hence no certificate.
        let Some(tls) = tls.borrow().as_ref().map(|own| own.bundle.clone()) else { continue };
        let (mesh, arrival) = (mesh.clone(), arrivals.admit(peer.ip()));
        tokio::spawn(async move {
            let served = tokio::select! {
                served = timeout(LIMIT, connection(mesh, stream, TlsAcceptor::from(tls))) => served,
                () = arrival.shed() => return,
            };
            match served {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(error, "a connection to the bundle endpoint failed"),
                Err(_) => tracing::debug!("a connection to the bundle endpoint took too long"),
            }
        });
    }
}

async fn connection(mesh: Arc<Mesh>, stream: TcpStream, tls: TlsAcceptor) -> Result<(), String> {
    let stream = tls.accept(stream).await.map_err(|e| e.to_string())?;
    let service = service_fn(move |request: Request<Incoming>| {
        let mesh = mesh.clone();
        async move { Ok::<_, Infallible>(answer(mesh, request).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.keep_alive(false).serve_connection(TokioIo::new(stream), service).await.map_err(|e| e.to_string())
}

async fn answer(mesh: Arc<Mesh>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, text) = if request.uri().path() != "/" {
        (StatusCode::NOT_FOUND, "the bundle is at /\n".to_owned())
    } else if request.method() != Method::GET {
        (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned())
    } else {
        let told = tokio::task::spawn_blocking(move || mesh.own_bundle().and_then(|bundle| bundle.json())).await;
        match told.unwrap_or_else(|e| Err(e.to_string())) {
            Ok(json) => (StatusCode::OK, json),
            Err(error) => {
                tracing::error!(error, "the trust bundle is not told to others");
                (StatusCode::INTERNAL_SERVER_ERROR, "there is no bundle now\n".to_owned())
            }
        }
    };
    let kind = if status == StatusCode::OK { "application/json" } else { "text/plain" };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
