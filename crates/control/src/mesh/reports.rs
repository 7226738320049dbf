//! The way to what a proxy reports: over its Unix socket if it runs on this machine with this state folder, else over TLS to
//! its admin address, where both sides prove who they are. What anybody else says at that address counts for nothing:
//! reports decide failovers.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{Request, body::Bytes, header};
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::TlsConnector;

use super::Mesh;
use crate::{authority::OwnTls, client};

/// Name of the socket in a proxy's folder.
const SOCKET: &str = "admin.sock";
/// What the agents of our proxies are called, on stock Envoys too.
const OURS: &str = "firedrill";

/// Why a proxy told nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AskError {
    /// Nobody there who proved to be the proxy, or not in time.
    Silent(String),
    /// It is a proxy that has no reports, or answered something else.
    Foreign(String),
}

/// How proxies are reached.
pub(crate) struct Reports {
    /// `proxies` of the state folder.
    folder: PathBuf,
    /// The control plane's own certificate, once there is one.
    pub(crate) own: watch::Sender<Option<OwnTls>>,
}

impl Reports {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, own: watch::Sender::new(None) }
    }
}

impl Mesh {
    /// Asks a proxy.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        proxy: &str,
        path: &str,
        limit: Duration,
    ) -> Result<T, AskError> {
        if let Some(agent) = self.foreign_agent(proxy) {
            return Err(AskError::Foreign(format!("{agent} has no reports")));
        }
        match tokio::time::timeout(limit, self.exchange(proxy, path)).await {
            Ok(Ok((200, bytes))) => serde_json::from_slice(&bytes).map_err(|e| AskError::Foreign(e.to_string())),
            Ok(Ok((status, _))) => Err(AskError::Foreign(format!("{path} answered {status}"))),
            Ok(Err(reason)) => Err(AskError::Silent(reason)),
            Err(_) => Err(AskError::Silent(format!("no answer within {} ms", limit.as_millis()))),
        }
    }

    /// The program of a proxy that proved its identity on its stream, and is none of ours.
    fn foreign_agent(&self, proxy: &str) -> Option<String> {
        let agent = self.ads.proxy(proxy)?.node?.agent;
        (!agent.is_empty() && !agent.starts_with(OURS)).then_some(agent)
    }

    async fn exchange(&self, proxy: &str, path: &str) -> Result<(u16, Bytes), String> {
        let admin = self.state().placements.proxies.iter().find(|p| p.proxy == proxy).map(|p| p.admin);
        let admin = admin.ok_or_else(|| format!("proxy {proxy} is not placed"))?;
        let request = Request::get(path)
            .header(header::HOST, admin.to_string())
            .body(Full::new(Bytes::new()))
            .map_err(|e| e.to_string())?;
        let socket = self.reports.folder.join(proxy).join(SOCKET);
        match xds::local::connect(&socket).await {
            Ok(stream) => client::exchange(stream, request).await,
            // None there, or left by a proxy that is gone: it may run elsewhere.
            Err(local) => match self.remote(proxy, admin).await {
                Ok(stream) => client::exchange(stream, request).await,
                Err(remote) => Err(format!("{remote} ({}: {local})", socket.display())),
            },
        }
    }

    async fn remote(
        &self,
        proxy: &str,
        admin: SocketAddr,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
        let id = self.id_of(proxy).ok_or_else(|| format!("proxy {proxy} has no identity"))?;
        let own = self.reports.own.borrow().clone().ok_or("this control plane has no certificate yet")?;
        let config = own.towards(&id).map_err(|e| e.to_string())?;
        let stream = TcpStream::connect(admin).await.map_err(|e| format!("{admin}: {e}"))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let connecting = TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(admin.ip().into()), stream);
        connecting.await.map_err(|e| format!("{admin} did not prove to be {id}: {e}"))
    }
}
