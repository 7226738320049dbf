//! HTTP/2 frames written by hand, so that they can be wrong.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// END_STREAM, and ACK.
pub const END: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITISED: u8 = 0x20;

pub const NO_ERROR: u32 = 0;
pub const PROTOCOL: u32 = 1;
pub const FLOW_CONTROL: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const COMPRESSION: u32 = 9;
pub const CALM: u32 = 11;

/// RFC 9113, 4.1.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// One setting.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// RFC 7541, 5.1: an integer with a prefix of `bits`, in front of it `first`.
pub fn integer(first: u8, bits: u32, value: usize) -> Vec<u8> {
    let most = (1usize << bits) - 1;
    if value < most {
        return vec![first | u8::try_from(value).unwrap()];
    }
    let mut bytes = vec![first | u8::try_from(most).unwrap()];
    let mut rest = value - most;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 0x80);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

/// RFC 7541, 6.2.2: a literal that enters no table, without Huffman coding.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [integer(0, 7, text.len()), text.as_bytes().to_vec()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// A header block.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

pub const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "fx")];
pub const POST: [(&str, &str); 4] = [(":method", "POST"), (":scheme", "http"), (":path", "/x"), (":authority", "fx")];

/// GET with these headers, ended.
pub fn get(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END | END_HEADERS, stream, &block(&[&GET[..], more].concat()))
}

/// POST with these headers; its body may follow.
pub fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&[&POST[..], more].concat()))
}

/// A frame that was received.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Error code of RST_STREAM and GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// `:status`, where it is the block's first field: by the static table, or as a literal under one of its names.
    pub fn status(&self) -> Option<u16> {
        let skip = usize::from(self.payload[0] & 0xe0 == 0x20);
        let block = &self.payload[skip..];
        match block[0] {
            indexed @ 0x88..=0x8e => Some([200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)]),
            _ => match block.get(1)? {
                3 => std::str::from_utf8(&block[2..5]).ok()?.parse().ok(),
                0x80..=0xff => Some(huffman_digits(&block[2..2 + usize::from(block[1] & 0x7f)])),
                _ => None,
            },
        }
    }
}

/// RFC 7541, appendix B: `0`, `1` and `2` have five bits, the other digits six.
fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u16> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |n| u16::from(byte >> n & 1))).collect();
    let (mut at, mut number) = (0, 0);
    let take = |at: usize, count: usize| bits.get(at..at + count)?.iter().copied().reduce(|all, bit| all << 1 | bit);
    while let Some(five) = take(at, 5) {
        let (digit, length) = match (five, take(at, 6)) {
            (0..=2, _) => (five, 5),
            (_, Some(six @ 0x19..=0x1f)) => (six - 0x19 + 3, 6),
            _ => break,
        };
        number = number * 10 + digit;
        at += length;
    }
    number
}

/// A caller that says whatever it is told to.
#[derive(Debug)]
pub struct Peer {
    pub stream: TcpStream,
    input: Vec<u8>,
    /// Whether the last frame was waited for in vain, on a connection that is open.
    pub silent: bool,
}

impl Peer {
    pub async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, input: Vec::new(), silent: false }
    }

    /// The other side of a connection that came in, behind the caller's preface.
    pub async fn accepted(mut stream: TcpStream) -> Self {
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).await.unwrap();
        let mut peer = Self { stream, input: Vec::new(), silent: false };
        assert!(peer.write(&frame(SETTINGS, 0, 0, &[])).await);
        peer
    }

    /// With preface and empty settings.
    pub async fn greeted(to: SocketAddr) -> Self {
        let mut peer = Self::connect(to).await;
        assert!(peer.write(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await);
        peer
    }

    /// False when the other side has closed.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// The next frame; `None` at the end of the connection, or when nothing comes any more.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = self.input.first_chunk::<9>() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if self.input.len() >= 9 + length {
                    let [.., a, b, c, d] = *head;
                    let stream = u32::from_be_bytes([a, b, c, d]);
                    let kind = head[3];
                    let payload = self.input[9..9 + length].to_vec();
                    self.input.drain(..9 + length);
                    return Some(Frame { kind, stream, payload });
                }
            }
            let read = tokio::time::timeout(Duration::from_secs(5), self.stream.read_buf(&mut self.input)).await;
            self.silent = read.is_err();
            // A reset ends it as well.
            if !matches!(read, Ok(Ok(1..))) {
                return None;
            }
        }
    }
}

#[test]
fn statuses_are_read() {
    let status = |payload: &[u8]| Frame { kind: HEADERS, stream: 1, payload: payload.into() }.status();
    assert_eq!(status(&[0x8c]), Some(400));
    assert_eq!(status(b"\x48\x03431"), Some(431));
    // RFC 7541, C.6.1: 302 as 0x6402; 307 as 0x640eff.
    assert_eq!((status(&[0x48, 0x82, 0x64, 0x02]), status(&[0x48, 0x83, 0x64, 0x0e, 0xff])), (Some(302), Some(307)));
    assert_eq!(integer(0, 5, 1337), [31, 154, 10]);
}
