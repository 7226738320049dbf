//! A check that says something over a new connection and hears the answer, as Envoy's TCP check does.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use xds::snapshot::Exchange;

use crate::{link::Link, upstream::health::Finding};

/// Bytes of an answer in which what it must contain is looked for: a server that talks on for ever is not heard for ever.
const HEARD: usize = 64 * 1024;

/// Whether the endpoint answers as it should.
pub async fn find(mut link: Link, exchange: &Exchange) -> Finding {
    match hear(&mut link.stream, exchange).await {
        Ok(true) => Finding::Passed,
        Ok(false) => Finding::Unreachable("not the expected answer".into()),
        Err(error) => Finding::Unreachable(error.to_string()),
    }
}

async fn hear(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), exchange: &Exchange) -> io::Result<bool> {
    stream.write_all(&exchange.send).await?;
    stream.flush().await?;
    let (mut answer, mut piece) = (Vec::new(), [0; 2048]);
    while answer.len() < HEARD {
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            return Ok(false);
        }
        // What was heard before lacks it, but may hold its beginning.
        let from = (answer.len() + 1).saturating_sub(exchange.receive.len());
        answer.extend_from_slice(&piece[..count]);
        if answer[from..].windows(exchange.receive.len().max(1)).any(|window| window == exchange.receive) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn an_answer_contains_it_anywhere_in_one_piece() {
        let long = vec![b'x'; HEARD];
        let cases: [(&[&[u8]], bool); 8] = [
            (&[b"+PONG\r\n"], true),
            (&[b"hello\r\n+PO", b"NG"], true),
            (&[b"+", b"P", b"O", b"N", b"G"], true),
            (&[b"+PO", b"-", b"NG"], false),
            (&[b"-LOADING\r\n"], false),
            (&[], false),
            (&[&long[5..], b"+PONG"], true),
            (&[&long, b"+PONG"], false),
        ];
        for (pieces, expected) in cases {
            let (mut near, mut far) = duplex(2 * HEARD);
            let mut question = [0; 6];
            let exchange = Exchange { send: b"PING\r\n".to_vec(), receive: b"+PONG".to_vec() };
            let server = async {
                far.read_exact(&mut question).await.unwrap();
                for piece in pieces {
                    far.write_all(piece).await.unwrap();
                }
                drop(far);
            };
            let (heard, ()) = tokio::join!(hear(&mut near, &exchange), server);
            assert_eq!((heard.unwrap(), &question), (expected, b"PING\r\n"), "{:?}", pieces.last());
        }
    }
}
