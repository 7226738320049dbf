//! A check by `grpc.health.v1.Health/Check`.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use http::{HeaderMap, Request, StatusCode};
use xds::snapshot::{HealthCheck, RoutingPriority};

use crate::{
    link::{Link, Stream},
    upstream::{cluster::Cluster, health::Finding, host::Host},
};

/// The answer is two bytes in a message of seven; what is longer is not one.
const LONGEST_ANSWER: usize = 1024;

/// Over a connection of its own.
pub(super) async fn find(cluster: &Arc<Cluster>, host: &Arc<Host>, policy: &HealthCheck, service: &str) -> Finding {
    let link = match Link::connect(cluster, host, (RoutingPriority::Default, u32::MAX), policy.timeout).await {
        Ok(link) => link,
        Err(error) => return Finding::Unreachable(error.to_string()),
    };
    let tls = matches!(link.stream, Stream::Tls(_));
    if tls && !link.h2 {
        return Finding::Unreachable("the endpoint does not speak HTTP/2".into());
    }
    let authority = cluster.view().config.service.clone();
    match call(link.stream, &authority, tls, service).await {
        Ok(finding) => finding,
        Err(error) => Finding::Unreachable(error.to_string()),
    }
}

async fn call(stream: Stream, authority: &str, tls: bool, service: &str) -> Result<Finding, h2::Error> {
    let (sender, connection) = h2::client::handshake(stream).await?;
    let asking = async move {
        let mut sender = sender.ready().await?;
        let scheme = if tls { "https" } else { "http" };
        let request = Request::post(format!("{scheme}://{authority}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "firedrill-check")
            .body(());
        let Ok(request) = request else {
            return Ok(Finding::Unreachable("the service's name cannot be sent".into()));
        };
        let (response, mut body) = sender.send_request(request, false)?;
        body.send_data(question(service), true)?;
        let (head, mut body) = response.await?.into_parts();
        if head.status != StatusCode::OK {
            return Ok(Finding::Unexpected(format!("status {}", head.status.as_u16())));
        }
        let answer = read(&mut body).await?;
        let trailers = body.trailers().await?.unwrap_or_default();
        Ok(judge(&head.headers, &answer, &trailers))
    };
    // The connection is driven for as long as there is an answer to wait for.
    tokio::select! {
        answered = asking => answered,
        ended = connection => match ended {
            Err(error) => Err(error),
            Ok(()) => Ok(Finding::Unreachable("connection ended".into())),
        },
    }
}

async fn read(body: &mut RecvStream) -> Result<BytesMut, h2::Error> {
    let mut answer = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        let room = LONGEST_ANSWER - answer.len();
        answer.put_slice(&data[..data.len().min(room)]);
    }
    Ok(answer)
}

/// A message of `HealthCheckRequest`: `string service = 1`.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

/// `HealthCheckResponse` is `ServingStatus status = 1`, where 1 is `SERVING`.
fn judge(head: &HeaderMap, answer: &[u8], trailers: &HeaderMap) -> Finding {
    let status = trailers.get("grpc-status").or_else(|| head.get("grpc-status"));
    let status = status.and_then(|status| status.to_str().ok()).unwrap_or("missing");
    if status != "0" {
        return Finding::Unexpected(format!("gRPC status {status}"));
    }
    match answer {
        [0, 0, 0, 0, 2, 0x08, 1] => Finding::Passed,
        [0, 0, 0, 0, 2, 0x08, 2] | [0, 0, 0, 0, 0] => Finding::Unexpected("not serving".into()),
        _ => Finding::Unexpected("an answer that is no health".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("fx")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'f', b'x']);
        assert_eq!(&question(&"x".repeat(200))[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
        let none = HeaderMap::new();
        let with = |status: &str| HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
        let serving = [0, 0, 0, 0, 2, 8, 1];
        for (head, answer, trailers, expected) in [
            (&none, &serving[..], &with("0"), Finding::Passed),
            (&none, &[0, 0, 0, 0, 2, 8, 2], &with("0"), Finding::Unexpected("not serving".into())),
            (&with("5"), &[], &none, Finding::Unexpected("gRPC status 5".into())),
            (&none, &serving, &none, Finding::Unexpected("gRPC status missing".into())),
            (&none, &[1, 2], &with("0"), Finding::Unexpected("an answer that is no health".into())),
        ] {
            assert_eq!(judge(head, answer, trailers), expected);
        }
    }
}
