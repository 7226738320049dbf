//! The parser of HTTP/1.1 from outside, for those who try to break it.

use bytes::BytesMut;

use crate::http::h1::{
    framing::{Decoder, Piece},
    parse::{self, Bounds, Refused, Scan},
};

/// A tenth of the defaults, so that inputs reach them.
const BOUNDS: Bounds = Bounds { bytes: 6 * 1024, headers: 10 };

/// What a connection's bytes come to, cut into pieces of this size: the messages of a caller, or of an endpoint, and what ends
/// them.
pub fn http1(input: &[u8], endpoint: bool, cut: usize) -> String {
    let mut reader =
        Reader { endpoint, buffer: BytesMut::new(), scan: Scan::default(), body: None, found: String::new(), sum: 0 };
    for piece in input.chunks(cut.max(1)) {
        reader.buffer.extend_from_slice(piece);
        if let Err(refused) = reader.read() {
            return format!("{} {} {refused}", reader.found, reader.sum);
        }
    }
    format!("{} {}", reader.found, reader.sum)
}

struct Reader {
    endpoint: bool,
    buffer: BytesMut,
    scan: Scan,
    body: Option<Decoder>,
    found: String,
    /// Of the bodies.
    sum: u64,
}

impl Reader {
    fn read(&mut self) -> Result<(), Refused> {
        loop {
            if let Some(body) = &mut self.body {
                match body.decode(&mut self.buffer)? {
                    Piece::More => return Ok(()),
                    // Numbers that every byte and its place change.
                    Piece::Data(data) => {
                        for byte in data {
                            self.sum = self.sum.wrapping_mul(31).wrapping_add(u64::from(byte) + 1);
                        }
                    }
                    Piece::Trailers(trailers) => {
                        self.found.push_str(&format!(" +{}", trailers.len()));
                        self.body = None;
                    }
                    Piece::End => self.body = None,
                }
                continue;
            }
            let Some(head) = self.scan.head(&mut self.buffer, BOUNDS)? else { return Ok(()) };
            let (framing, keep_alive, headers) = if self.endpoint {
                let head = parse::response(&head, false, BOUNDS)?;
                (head.framing, head.keep_alive, head.parts.headers.len())
            } else {
                let head = parse::request(&head, BOUNDS)?;
                (head.framing, head.keep_alive, head.parts.headers.len())
            };
            self.found.push_str(&format!("[{framing:?} {keep_alive} {headers}]"));
            self.body = Some(Decoder::new(framing));
        }
    }
}
