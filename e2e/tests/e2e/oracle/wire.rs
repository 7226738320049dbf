//! HTTP/1.1 messages on a socket, without a client's or a server's opinion of them.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Longest head that is read.
const LONGEST_HEAD: usize = 64 * 1024;

/// A request or a response.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Request line or status line.
    pub start: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// As framed; chunks are put together.
    pub body: Vec<u8>,
    /// Whether the body came to its end.
    pub whole: bool,
}

impl Message {
    /// First value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A status line's status.
    pub fn status(&self) -> Option<u16> {
        self.start.split(' ').nth(1)?.parse().ok()
    }

    /// Whether the connection may carry another message.
    pub fn keeps_alive(&self) -> bool {
        self.whole && self.header("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close"))
    }
}

/// A connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    /// Over an accepted connection, of which some bytes may have been read.
    pub fn new(stream: TcpStream, buffer: Vec<u8>) -> Self {
        Self { stream, buffer }
    }

    /// Connects.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream, Vec::new()))
    }

    /// Sends bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads a request; `None` when the peer is through.
    pub async fn request(&mut self) -> io::Result<Option<Message>> {
        let Some(mut message) = self.head().await? else { return Ok(None) };
        self.body(&mut message, false).await;
        Ok(Some(message))
    }

    /// Reads the response to a request of this method, interim ones left out; `None` when the peer closed instead.
    pub async fn response(&mut self, method: &str) -> io::Result<Option<Message>> {
        loop {
            let Some(mut message) = self.head().await? else { return Ok(None) };
            match message.status() {
                Some(100..=199) => {}
                Some(204 | 304) => {
                    message.whole = true;
                    return Ok(Some(message));
                }
                _ if method == "HEAD" => {
                    message.whole = true;
                    return Ok(Some(message));
                }
                _ => {
                    self.body(&mut message, true).await;
                    return Ok(Some(message));
                }
            }
        }
    }

    /// Waits until the peer closes; for ever if it sends more first.
    pub async fn closed(&self) {
        if let Ok(1..) = self.stream.peek(&mut [0]).await {
            std::future::pending().await
        }
    }

    /// Ends the connection as a crash does: with RST.
    pub fn reset(self) {
        // Without it the connection ends with FIN, which the case's expectation would show.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO));
    }

    async fn more(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    async fn head(&mut self) -> io::Result<Option<Message>> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if self.buffer.len() > LONGEST_HEAD || !self.more().await? {
                return Ok(None);
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let text = String::from_utf8_lossy(&head[..end]);
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Ok(Some(Message { start, headers, ..Message::default() }))
    }

    /// A body that breaks off is left as far as it came.
    async fn body(&mut self, message: &mut Message, until_close: bool) {
        let length = message.header("content-length").and_then(|length| length.parse().ok());
        let framed = if message.header("transfer-encoding").is_some() {
            self.chunks(&mut message.body).await
        } else if let Some(length) = length {
            self.exactly(length, &mut message.body).await
        } else if until_close {
            while let Ok(true) = self.more().await {}
            message.body = std::mem::take(&mut self.buffer);
            Ok(())
        } else {
            Ok(())
        };
        message.whole = framed.is_ok();
    }

    async fn exactly(&mut self, length: usize, to: &mut Vec<u8>) -> io::Result<()> {
        while self.buffer.len() < length {
            if !self.more().await? {
                to.append(&mut self.buffer);
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        to.extend(self.buffer.drain(..length));
        Ok(())
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn chunks(&mut self, to: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let line = self.line().await?;
            let length = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16);
            let length = length.map_err(|_| io::ErrorKind::InvalidData)?;
            if length == 0 {
                while !self.line().await?.is_empty() {}
                return Ok(());
            }
            self.exactly(length, to).await?;
            self.line().await?;
        }
    }
}
