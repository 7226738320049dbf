//! A WebSocket (RFC 6455) by hand: as much as an echo needs.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// RFC 6455, 1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A request for an upgrade.
pub fn asks(protocol: &str) -> String {
    format!(
        "GET /chat HTTP/1.1\r\nHost: fx\r\nUpgrade: {protocol}\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// Takes up the upgrade that was asked for with [`KEY`].
pub async fn accept(stream: &mut TcpStream) -> std::io::Result<()> {
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    stream.write_all(format!("{answer}Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n").as_bytes()).await
}

/// A head with its empty line, in lower case but for values; empty at the end of the connection.
pub async fn head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) if head.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8(head).unwrap())
}

/// One frame's kind and payload (RFC 6455, 5.2).
pub async fn frame(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let (kind, length) = (stream.read_u8().await? & 0xf, stream.read_u8().await?);
    let size = match length & 0x7f {
        126 => u64::from(stream.read_u16().await?),
        127 => stream.read_u64().await?,
        size => u64::from(size),
    };
    let mut mask = [0; 4];
    if length & 0x80 != 0 {
        stream.read_exact(&mut mask).await?;
    }
    let mut payload = vec![0; usize::try_from(size).unwrap()];
    stream.read_exact(&mut payload).await?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok((kind, payload))
}

/// A frame as an endpoint sends it, or a caller: masked.
pub fn framed(kind: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut frame = vec![0x80 | kind];
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        short @ 0..126 => frame.push(masked | u8::try_from(short).unwrap()),
        long => {
            frame.push(masked | 127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend(mask.iter().flatten());
    let mask = mask.unwrap_or_default();
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Kinds of frames.
pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;

/// Echoes messages, and answers the closing, which ends it.
pub async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let (kind, payload) = frame(&mut stream).await?;
        stream.write_all(&framed(kind, &payload, None)).await?;
        if kind == CLOSE {
            return Ok(());
        }
    }
}
