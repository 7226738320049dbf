//! Access logs over gRPC (ALS): an Envoy tells of each request once it is over, and is never held up: what does not fit its
//! own buffer is dropped there, and counted in its statistics.

use std::sync::Arc;

use envoy_types::pb::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse, access_log_service_server::AccessLogService,
    stream_access_logs_message::LogEntries,
};
use tonic::{Request, Response, Status, Streaming};

use super::shared::Shared;
use crate::access;

/// Takes requests as they are told. It is called on the stream's task and must not wait.
pub(super) type Sink = dyn Fn(access::Request) + Send + Sync;

pub(super) struct Als {
    pub shared: Arc<Shared>,
    pub sink: Arc<Sink>,
}

#[tonic::async_trait]
impl AccessLogService for Als {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let mut messages = request.into_inner();
        let mut closing = self.shared.closing();
        let mut listener = String::new();
        loop {
            let message = tokio::select! {
                message = messages.message() => message?,
                _ = closing.wait_for(|closing| *closing) => None,
            };
            let Some(message) = message else { return Ok(Response::new(StreamAccessLogsResponse {})) };
            if let Some(identifier) = message.identifier {
                listener = identifier.log_name;
            }
            // Connections of TCP are logged by nobody here.
            if let Some(LogEntries::HttpLogs(entries)) = message.log_entries {
                entries.log_entry.iter().for_each(|entry| (self.sink)(access::Request::from_proto(&listener, entry)));
            }
        }
    }
}
