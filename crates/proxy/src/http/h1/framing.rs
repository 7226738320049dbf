//! Where a body ends: by length, in chunks, or with the connection. Pure.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use crate::http::h1::parse::{self, Bounds, Refused, Scan};

/// Longer lines before a chunk are refused.
const CHUNK_LINE: usize = 256;
/// Bounds on trailers.
const TRAILERS: Bounds = Bounds { bytes: 16 * 1024, headers: 100 };

/// How a message says where its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After this many bytes.
    Length(u64),
    /// After the chunk of size zero and the trailers.
    Chunked,
    /// With the connection; responses only.
    UntilClose,
}

/// Takes a body out of the bytes of a connection.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Bytes of the body still to come, where that is known.
    scan: Scan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    Length(u64),
    UntilClose,
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
}

/// What was taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Some of it.
    Data(Bytes),
    /// Its end.
    Trailers(HeaderMap),
    /// Nothing more belongs to it.
    End,
    /// Bytes are missing.
    More,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(Framing::Length(0))
    }
}

impl Decoder {
    /// At the beginning of a body.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, scan: Scan::default() }
    }

    /// Whether nothing more belongs to the body.
    pub fn done(&self) -> bool {
        self.state == State::Done
    }

    /// How many bytes the body will have from here on, where that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Done => Some(0),
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    /// How many bytes a read may well bring.
    pub fn expected(&self) -> usize {
        let bytes = match self.state {
            State::Length(left) | State::Chunk(left) => left,
            State::UntilClose => u64::MAX,
            State::Done | State::ChunkSize | State::ChunkEnd | State::Trailers => 0,
        };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// At bytes that are no chunked coding.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Piece, Refused> {
        loop {
            match self.state {
                State::Done => return Ok(Piece::End),
                State::Length(left) | State::Chunk(left) => {
                    let Some(data) = take(buffer, left) else { return Ok(Piece::More) };
                    let left = left - data.len() as u64;
                    self.state = match (self.state, left) {
                        (State::Length(_), 0) => State::Done,
                        (State::Length(_), left) => State::Length(left),
                        (_, 0) => State::ChunkEnd,
                        (_, left) => State::Chunk(left),
                    };
                    return Ok(Piece::Data(data));
                }
                State::UntilClose => return Ok(take(buffer, u64::MAX).map_or(Piece::More, Piece::Data)),
                State::ChunkEnd => {
                    if !b"\r\n".starts_with(&buffer[..buffer.len().min(2)]) {
                        return Err(Refused::Malformed("a chunk that is longer than its size"));
                    }
                    if buffer.len() < 2 {
                        return Ok(Piece::More);
                    }
                    let _ = buffer.split_to(2);
                    self.state = State::ChunkSize;
                }
                State::ChunkSize => match chunk_size(buffer)? {
                    None => return Ok(Piece::More),
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::Chunk(size),
                },
                State::Trailers => {
                    if buffer.starts_with(b"\r\n") {
                        let _ = buffer.split_to(2);
                        self.state = State::Done;
                        return Ok(Piece::End);
                    }
                    if buffer.len() < 2 {
                        return Ok(Piece::More);
                    }
                    let Some(lines) = self.scan.head(buffer, TRAILERS)? else { return Ok(Piece::More) };
                    let trailers = parse::trailers(&lines, TRAILERS)?;
                    self.state = State::Done;
                    return Ok(Piece::Trailers(trailers));
                }
            }
        }
    }

    /// Takes note that the connection ended; false when the body was not over.
    pub fn ended(&mut self) -> bool {
        let whole = matches!(self.state, State::Done | State::UntilClose);
        self.state = State::Done;
        whole
    }
}

fn take(buffer: &mut BytesMut, most: u64) -> Option<Bytes> {
    let length = buffer.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    (length > 0).then(|| if length == buffer.len() { std::mem::take(buffer) } else { buffer.split_to(length) }.freeze())
}

/// RFC 9112, 7.1. Extensions are left out.
fn chunk_size(buffer: &mut BytesMut) -> Result<Option<u64>, Refused> {
    const WRONG: Refused = Refused::Malformed("malformed chunk size");
    let seen = &buffer[..buffer.len().min(CHUNK_LINE)];
    let Some(end) = memchr::memchr(b'\n', seen) else {
        return if seen.len() == CHUNK_LINE { Err(WRONG) } else { Ok(None) };
    };
    let line = seen[..end].strip_suffix(b"\r").ok_or(WRONG)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at(digits);
    // Some endpoints pad sizes with white space.
    let extension = rest.trim_ascii_start();
    if !(extension.is_empty() || extension[0] == b';')
        || rest.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t')
    {
        return Err(WRONG);
    }
    let size = std::str::from_utf8(size).ok().and_then(|size| u64::from_str_radix(size, 16).ok()).ok_or(WRONG)?;
    let _ = buffer.split_to(end + 1);
    Ok(Some(size))
}
