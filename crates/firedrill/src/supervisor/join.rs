//! How a proxy that is started here gets into the mesh: each start has a join token of its own.

use std::{path::PathBuf, time::Duration};

use control::{
    api::TokenRequest,
    client::{Client, ClientError},
};

/// How long a token is good for: a proxy uses it in its first second.
const TTL: Duration = Duration::from_secs(120);
/// Bound on asking for one. A proxy that was in the mesh already starts by its certificate.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a token is asked for.
#[derive(Clone, Debug)]
pub struct Join {
    /// State folder of the control plane.
    pub state: PathBuf,
    /// Proxy and what it stands before.
    pub proxy: String,
    /// The service of its workload; empty for a gateway.
    pub service: String,
}

impl Join {
    /// A new token. None comes while the control plane is down: then a proxy lives on its certificate, and one that has
    /// none ends, and is started again.
    pub async fn token(&self) -> Option<String> {
        match tokio::time::timeout(PATIENCE, self.ask()).await {
            Ok(Ok(token)) => return Some(token),
            Ok(Err(error)) => tracing::warn!(proxy = self.proxy, %error, "no join token"),
            Err(_) => tracing::warn!(proxy = self.proxy, "no join token in time"),
        }
        None
    }

    async fn ask(&self) -> Result<String, ClientError> {
        let sidecar = !self.service.is_empty();
        let request = TokenRequest {
            service: sidecar.then(|| self.service.clone()),
            gateway: (!sidecar).then(|| self.proxy.clone()),
            proxy: Some(self.proxy.clone()),
            ttl_ms: TTL.as_millis() as u64,
        };
        Client::from_state(&self.state)?.create_token(&request).await.map(|given| given.token)
    }
}
