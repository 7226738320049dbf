//! What callers do to HTTP/2, after RFC 9113 and RFC 7541, and what must come of it.

use Expect::*;

use super::super::frames::*;

/// What must come of it. A stream's error may be taken for the connection's, and PROTOCOL_ERROR stands for every other
/// code (RFC 9113, 5.4).
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// GOAWAY with one of these codes, and the end of the connection.
    Connection(&'static [u32]),
    /// RST_STREAM of stream 1 with one of these codes, or the same for the connection.
    Stream(&'static [u32]),
    /// A malformed request on stream 1 (8.1.1): RST_STREAM, or 400 or 431.
    Malformed,
    /// Stream 1 is answered.
    Answered,
}

pub struct Case {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub expect: Expect,
    /// Whether the endpoint may see the beginning of a request whose body turns out to be wrong.
    pub begins: bool,
}

fn case(name: &'static str, expect: Expect, parts: &[Vec<u8>]) -> Case {
    Case { name, bytes: parts.concat(), expect, begins: false }
}

/// As [`case`], for a body that turns out to be wrong after the head was right.
fn late(name: &'static str, expect: Expect, parts: &[Vec<u8>]) -> Case {
    Case { begins: true, ..case(name, expect, parts) }
}

fn ended(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END | END_HEADERS, stream, block)
}

fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(DATA, flags, stream, payload)
}

fn settings(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &setting(id, value))
}

fn update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// A request's fields without one, then with others.
fn but(without: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields: Vec<_> = GET.iter().filter(|(name, _)| *name != without).chain(more).copied().collect();
    ended(1, &block(&fields))
}

/// Section 4: frames.
pub fn framing() -> Vec<Case> {
    let large = vec![0; 16_385];
    vec![
        case("4.1: a type that nobody knows is ignored", Answered, &[frame(0x16, 0, 0, b"x"), get(1, &[])]),
        case("4.1: flags that nobody knows are ignored", Answered, &[frame(PING, 0xfe, 0, &[0; 8]), get(1, &[])]),
        case("4.1: the reserved bit is ignored", Answered, &[frame(PING, 0, 1 << 31, &[0; 8]), get(1, &[])]),
        case("5.5: a type that nobody knows on a stream", Answered, &[frame(0x16, 0, 1, b"x"), get(1, &[])]),
        late("4.2: DATA beyond the largest frame", Stream(&[FRAME_SIZE]), &[post(1, &[]), data(1, END, &large)]),
        case("4.2: HEADERS beyond it", Connection(&[FRAME_SIZE]), &[ended(1, &large)]),
        case("4.2: SETTINGS beyond it", Connection(&[FRAME_SIZE]), &[frame(SETTINGS, 0, 0, &[0; 16_386])]),
        case("6.3: PRIORITY of four bytes", Stream(&[FRAME_SIZE]), &[frame(PRIORITY, 0, 1, &[0; 4]), get(1, &[])]),
        case("6.4: RST_STREAM of three", Connection(&[FRAME_SIZE]), &[post(1, &[]), frame(RST_STREAM, 0, 1, &[0; 3])]),
        case("6.5: SETTINGS of five bytes", Connection(&[FRAME_SIZE]), &[frame(SETTINGS, 0, 0, &[0; 5])]),
        case(
            "6.5: an acknowledgement that says something",
            Connection(&[FRAME_SIZE]),
            &[frame(SETTINGS, END, 0, &[0; 6])],
        ),
        case("6.7: PING of seven bytes", Connection(&[FRAME_SIZE]), &[frame(PING, 0, 0, &[0; 7])]),
        case("6.8: GOAWAY of seven bytes", Connection(&[FRAME_SIZE]), &[frame(GOAWAY, 0, 0, &[0; 7])]),
        case("6.9: WINDOW_UPDATE of three bytes", Connection(&[FRAME_SIZE]), &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])]),
        case("6.1: DATA on stream 0", Connection(&[PROTOCOL]), &[data(0, END, b"x")]),
        case("6.2: HEADERS on stream 0", Connection(&[PROTOCOL]), &[get(0, &[])]),
        case("6.3: PRIORITY on stream 0", Connection(&[PROTOCOL]), &[frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 0])]),
        case("6.4: RST_STREAM on stream 0", Connection(&[PROTOCOL]), &[reset(0)]),
        case("6.5: SETTINGS on a stream", Connection(&[PROTOCOL]), &[frame(SETTINGS, 0, 1, &[])]),
        case("6.7: PING on a stream", Connection(&[PROTOCOL]), &[frame(PING, 0, 1, &[0; 8])]),
        case("6.8: GOAWAY on a stream", Connection(&[PROTOCOL]), &[frame(GOAWAY, 0, 1, &[0; 8])]),
        case(
            "6.10: CONTINUATION on stream 0",
            Connection(&[PROTOCOL]),
            &[frame(CONTINUATION, END_HEADERS, 0, &block(&GET))],
        ),
        case(
            "8.4: PUSH_PROMISE from a caller",
            Connection(&[PROTOCOL]),
            &[post(1, &[]), frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &block(&GET)].concat())],
        ),
        late(
            "6.1: padding longer than the frame",
            Connection(&[PROTOCOL]),
            &[post(1, &[]), data(1, END | PADDED, &[4, b'x', 0, 0])],
        ),
        case(
            "6.2: padding longer than the header block",
            Connection(&[PROTOCOL]),
            &[frame(HEADERS, END | END_HEADERS | PADDED, 1, &[&[200][..], &block(&GET)].concat())],
        ),
        case(
            "6.2: padding, rightly",
            Answered,
            &[frame(HEADERS, END | END_HEADERS | PADDED, 1, &[&[3][..], &block(&GET), &[0; 3]].concat())],
        ),
        case("6.1: padding of an empty body, rightly", Answered, &[post(1, &[]), data(1, END | PADDED, &[3, 0, 0, 0])]),
        case(
            "6.2: HEADERS too short for their priority",
            Connection(&[FRAME_SIZE, PROTOCOL]),
            &[frame(HEADERS, END | END_HEADERS | PRIORITISED, 1, &[0, 0, 0])],
        ),
        case(
            "5.3.1: a stream that depends on itself, by HEADERS",
            Stream(&[PROTOCOL]),
            &[frame(HEADERS, END | END_HEADERS | PRIORITISED, 1, &[&[0, 0, 0, 1, 16][..], &block(&GET)].concat())],
        ),
        case(
            "5.3.1: a stream that depends on itself, by PRIORITY",
            Stream(&[PROTOCOL]),
            &[frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 16])],
        ),
        case(
            "5.3: a priority, rightly",
            Answered,
            &[
                frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 16]),
                frame(HEADERS, END | END_HEADERS | PRIORITISED, 1, &[&[0, 0, 0, 3, 16][..], &block(&GET)].concat()),
            ],
        ),
    ]
}

/// Sections 5 and 6: states, settings, windows.
pub fn states() -> Vec<Case> {
    let code = &[STREAM_CLOSED, PROTOCOL];
    vec![
        case("5.1: DATA on an idle stream", Connection(&[PROTOCOL]), &[data(1, END, b"x")]),
        case("5.1: RST_STREAM on an idle stream", Connection(&[PROTOCOL]), &[reset(1)]),
        case("5.1: WINDOW_UPDATE on an idle stream", Connection(&[PROTOCOL]), &[update(1, 1)]),
        case(
            "5.1: CONTINUATION on an idle stream",
            Connection(&[PROTOCOL]),
            &[frame(CONTINUATION, END_HEADERS, 1, &block(&GET))],
        ),
        case(
            "5.1: PRIORITY on an idle stream, rightly",
            Answered,
            &[frame(PRIORITY, 0, 7, &[0, 0, 0, 0, 16]), get(1, &[])],
        ),
        late("5.1: DATA after the end", Stream(code), &[post(1, &[]), data(1, END, b"x"), data(1, END, b"x")]),
        late(
            "5.1: HEADERS after the end",
            Stream(code),
            &[post(1, &[]), data(1, END, b"x"), ended(1, &field("x", "y"))],
        ),
        case(
            "5.1: CONTINUATION after the end",
            Connection(code),
            &[post(1, &[]), data(1, END, b"x"), frame(CONTINUATION, END_HEADERS, 1, &field("x", "y"))],
        ),
        case("5.1: HEADERS after RST_STREAM", Connection(code), &[post(1, &[]), reset(1), get(1, &[])]),
        case(
            "5.1: CONTINUATION after RST_STREAM",
            Connection(code),
            &[post(1, &[]), reset(1), frame(CONTINUATION, END_HEADERS, 1, &block(&GET))],
        ),
        case("5.1.1: a stream of the server's", Connection(&[PROTOCOL]), &[get(2, &[])]),
        case("5.1.1: a lower stream than before", Connection(code), &[post(5, &[]), get(3, &[])]),
        case(
            "5.1.2: more streams than allowed",
            Stream(&[REFUSED_STREAM, PROTOCOL]),
            &[(0..101u32).rev().map(|n| post(1 + 2 * (100 - n), &[])).collect::<Vec<_>>().concat()],
        ),
        case(
            "5.5: a type that nobody knows within a header block",
            Connection(&[PROTOCOL]),
            &[frame(HEADERS, END, 1, &block(&GET)), frame(0x16, 0, 1, b"x")],
        ),
        case(
            "6.2: PRIORITY within a header block",
            Connection(&[PROTOCOL]),
            &[frame(HEADERS, END, 1, &block(&GET)), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16])],
        ),
        case(
            "6.2: PING within a header block",
            Connection(&[PROTOCOL]),
            &[frame(HEADERS, END, 1, &block(&GET)), frame(PING, 0, 0, &[0; 8])],
        ),
        case(
            "6.2: HEADERS of another stream within a header block",
            Connection(&[PROTOCOL]),
            &[frame(HEADERS, END, 1, &block(&GET)), get(3, &[])],
        ),
        case(
            "6.10: CONTINUATION of another stream",
            Connection(&[PROTOCOL]),
            &[frame(HEADERS, END, 1, &block(&GET)), frame(CONTINUATION, END_HEADERS, 3, &field("x", "y"))],
        ),
        case(
            "6.10: CONTINUATION of a block that is whole",
            Connection(&[PROTOCOL]),
            &[post(1, &[]), frame(CONTINUATION, END_HEADERS, 1, &field("x", "y"))],
        ),
        case(
            "6.10: CONTINUATION after DATA",
            Connection(&[PROTOCOL]),
            &[post(1, &[]), data(1, 0, b"x"), frame(CONTINUATION, END_HEADERS, 1, &field("x", "y"))],
        ),
        case(
            "6.10: a block in pieces, rightly",
            Answered,
            &[
                frame(HEADERS, END, 1, &block(&GET)[..7]),
                frame(CONTINUATION, 0, 1, &[]),
                frame(CONTINUATION, END_HEADERS, 1, &block(&GET)[7..]),
            ],
        ),
        case("6.5.2: ENABLE_PUSH of 2", Connection(&[PROTOCOL]), &[settings(2, 2)]),
        case("6.5.2: a window of 2^31", Connection(&[FLOW_CONTROL]), &[settings(4, 1 << 31)]),
        case("6.5.2: frames smaller than there may be", Connection(&[PROTOCOL]), &[settings(5, 16_383)]),
        case("6.5.2: frames larger than there may be", Connection(&[PROTOCOL]), &[settings(5, 1 << 24)]),
        case("6.5.2: a setting that nobody knows is ignored", Answered, &[settings(0xff, 1), get(1, &[])]),
        case(
            "6.5.3: a setting twice, the last counts",
            Answered,
            &[frame(SETTINGS, 0, 0, &[setting(4, 1 << 30), setting(4, 100_000)].concat()), get(1, &[])],
        ),
        case("6.7: an answer to no PING is ignored", Answered, &[frame(PING, END, 0, &[7; 8]), get(1, &[])]),
        case("6.9: WINDOW_UPDATE of nothing, connection", Connection(&[PROTOCOL]), &[update(0, 0)]),
        case("6.9: WINDOW_UPDATE of nothing, stream", Stream(&[PROTOCOL]), &[post(1, &[]), update(1, 0)]),
        case(
            "6.9.1: a window beyond 2^31 - 1, connection",
            Connection(&[FLOW_CONTROL]),
            &[update(0, 0x7fff_ffff), update(0, 0x7fff_ffff)],
        ),
        case(
            "6.9.1: a window beyond 2^31 - 1, stream",
            Stream(&[FLOW_CONTROL]),
            &[post(1, &[]), update(1, 0x7fff_ffff), update(1, 0x7fff_ffff)],
        ),
        case(
            "6.9.2: a window beyond 2^31 - 1, by a setting",
            Connection(&[FLOW_CONTROL]),
            &[post(1, &[]), update(1, 0x7fff_0000), settings(4, 0x7fff_ffff)],
        ),
        case("6.8: GOAWAY, and what was begun is answered", Answered, &[get(1, &[]), frame(GOAWAY, 0, 0, &[0; 8])]),
    ]
}

/// Section 8: HTTP in frames.
pub fn messages() -> Vec<Case> {
    let with = |fields: &[(&str, &str)]| get(1, fields);
    let mut cases = vec![
        case("8.2.2: te: trailers, rightly", Answered, &[with(&[("te", "trailers")])]),
        case("8.2.3: cookies in pieces, rightly", Answered, &[with(&[("cookie", "a=b"), ("cookie", "c=d")])]),
        case("8.3.1: a host that says the same, rightly", Answered, &[with(&[("host", "fx")])]),
        case("8.3.1: a host instead of an authority, rightly", Answered, &[but(":authority", &[("host", "fx")])]),
        case("8.1.1: a length that is right", Answered, &[post(1, &[("content-length", "1")]), data(1, END, b"x")]),
        case("8.1: trailers, rightly", Answered, &[post(1, &[]), data(1, 0, b"x"), ended(1, &field("x", "y"))]),
        case("8.1.1: the length of the answer to HEAD", Answered, &[but(":method", &[(":method", "HEAD")])]),
        late(
            "8.1: trailers that end nothing",
            Stream(&[PROTOCOL]),
            &[post(1, &[]), data(1, 0, b"x"), frame(HEADERS, END_HEADERS, 1, &field("x", "y"))],
        ),
        late(
            "8.1.1: a body shorter than its length",
            Stream(&[PROTOCOL]),
            &[post(1, &[("content-length", "2")]), data(1, END, b"x")],
        ),
        late(
            "8.1.1: a body longer than its length",
            Stream(&[PROTOCOL]),
            &[post(1, &[("content-length", "1")]), data(1, 0, b"x"), data(1, END, b"y")],
        ),
        late(
            "8.1.1: trailers before the length is reached",
            Stream(&[PROTOCOL]),
            &[post(1, &[("content-length", "2")]), data(1, 0, b"x"), ended(1, &field("x", "y"))],
        ),
        case("8.3.1: CONNECT with a path", Malformed, &[but(":method", &[(":method", "CONNECT")])]),
        case("8.5: CONNECT", Malformed, &[ended(1, &block(&[(":method", "CONNECT"), (":authority", "fx:80")]))]),
        case(
            "8.3: pseudo-header after another field",
            Malformed,
            &[ended(1, &block(&[&GET[..3], &[("x", "y"), (":authority", "fx")]].concat()))],
        ),
        case("8.3: no fields at all", Malformed, &[ended(1, &[])]),
    ];
    let one = |name, fields: &[(&str, &str)]| case(name, Malformed, &[get(1, fields)]);
    cases.extend([
        one("8.1.1: a length without a body", &[("content-length", "2")]),
        one("8.1.1: a length that is no number", &[("content-length", "x")]),
        one("8.1.1: a length with a sign", &[("content-length", "+0")]),
        one("8.1.1: two lengths", &[("content-length", "0"), ("content-length", "1")]),
        one("8.2: a name in upper case", &[("X-Y", "z")]),
        one("8.2.1: white space in a name", &[("x y", "z")]),
        one("8.2.1: a colon in a name", &[("x:y", "z")]),
        one("8.2.1: NUL in a name", &[("x\0", "z")]),
        one("8.2.1: CRLF in a name", &[("x\r\ny", "z")]),
        one("8.2.1: DEL in a name", &[("x\x7f", "z")]),
        one("8.2.1: not ASCII in a name", &[("x\u{e9}", "z")]),
        one("8.2.1: an empty name", &[("", "z")]),
        one("8.2.1: NUL in a value", &[("x", "y\0z")]),
        one("8.2.1: CR in a value", &[("x", "y\rz")]),
        one("8.2.1: LF in a value", &[("x", "y\nz: 1")]),
        one("8.2.1: a request in a value", &[("x", "y\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: fx\r\n\r\n")]),
        one("8.2.2: connection", &[("connection", "close")]),
        one("8.2.2: keep-alive", &[("keep-alive", "5")]),
        one("8.2.2: proxy-connection", &[("proxy-connection", "keep-alive")]),
        one("8.2.2: transfer-encoding", &[("transfer-encoding", "chunked")]),
        one("8.2.2: upgrade", &[("upgrade", "websocket")]),
        one("8.2.2: te with anything but trailers", &[("te", "gzip")]),
        one("8.3: a pseudo-header that nobody knows", &[(":x", "y")]),
        one("8.3: a pseudo-header of responses", &[(":status", "200")]),
        one("8.3.1: two methods", &[(":method", "GET")]),
        one("8.3.1: two schemes", &[(":scheme", "http")]),
        one("8.3.1: two paths", &[(":path", "/y")]),
        one("8.3.1: two authorities", &[(":authority", "fx")]),
        one("8.3.1: a host that says another thing", &[("host", "other")]),
        one("8.3.1: two hosts", &[("host", "fx"), ("host", "fx")]),
    ]);
    let swap = |name, pseudo, value: Option<&str>| {
        let more: Vec<_> = value.iter().map(|value| (pseudo, *value)).collect();
        case(name, Malformed, &[but(pseudo, &more)])
    };
    cases.extend([
        swap("8.3.1: no method", ":method", None),
        swap("8.3.1: no scheme", ":scheme", None),
        swap("8.3.1: no path", ":path", None),
        swap("8.3.1: nobody to send it to", ":authority", None),
        swap("8.3.1: an empty method", ":method", Some("")),
        swap("8.3.1: white space in the method", ":method", Some("GET /x HTTP/1.1")),
        swap("8.3.1: an empty path", ":path", Some("")),
        swap("8.3.1: a path without a slash", ":path", Some("x")),
        swap("8.3.1: an asterisk without OPTIONS", ":path", Some("*")),
        swap("8.3.1: white space in the path", ":path", Some("/x HTTP/1.1")),
        swap("8.3.1: a line's end in the path", ":path", Some("/x HTTP/1.1\r\nx: y")),
        swap("8.3.1: NUL in the path", ":path", Some("/\0")),
        swap("8.3.1: dots in the path", ":path", Some("/x/../y")),
        swap("8.3.1: a whole URI as the path", ":path", Some("http://other/x")),
        swap("8.3.1: an empty authority", ":authority", Some("")),
        swap("8.3.1: a user in the authority", ":authority", Some("other@fx")),
        swap("8.3.1: white space in the authority", ":authority", Some("fx other")),
        swap("8.3.1: a path in the authority", ":authority", Some("fx/y")),
        swap("8.3.1: a line's end in the authority", ":authority", Some("fx\r\nx: y")),
        swap("8.3.1: white space in the scheme", ":scheme", Some("ht tp")),
    ]);
    cases
}

/// RFC 7541.
pub fn compression() -> Vec<Case> {
    let with =
        |name, bytes: &[u8]| case(name, Connection(&[COMPRESSION]), &[ended(1, &[&block(&GET)[..], bytes].concat())]);
    let first =
        |name, bytes: &[u8]| case(name, Connection(&[COMPRESSION]), &[ended(1, &[bytes, &block(&GET)[..]].concat())]);
    vec![
        with("6.1: index 0", &[0x80]),
        with("2.3.3: an index beyond both tables", &[0xff, 0x80, 0x01]),
        with("2.3.3: a name's index beyond both tables", &[0x7f, 0x40, 1, b'x']),
        with("5.1: an integer without end", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        with("5.1: an integer that breaks off", &[0xff, 0x80]),
        with("5.2: a string longer than the block", &[0, 1, b'x', 9, b'y']),
        with("5.2: a string of 2^32 bytes", &[0, 1, b'x', 0x7f, 0x81, 0xff, 0xff, 0xff, 0x0f]),
        with("5.2: a literal that breaks off", &[0, 1, b'x']),
        with("5.2: Huffman padding of eight bits", &[0, 1, b'x', 0x82, 0x1f, 0xff]),
        with("5.2: Huffman padding of zeros", &[0, 1, b'x', 0x81, 0x18]),
        with("5.2: the end of strings within one", &[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
        first("6.3: a table larger than allowed", &[0x3f, 0xe2, 0x1f]),
        with("4.2: a change of the table's size after a field", &[0x20]),
        case(
            "4.2: a change of the table's size first, rightly",
            Answered,
            &[ended(1, &[&[0x20], &block(&GET)[..]].concat())],
        ),
        case(
            "5.2: a Huffman code, rightly",
            Answered,
            &[ended(1, &[&block(&GET)[..], &[0, 1, b'x', 0x81, 0x1f]].concat())],
        ),
        case(
            "6.2.1: a field that enters the table, rightly",
            Answered,
            &[ended(1, &[&block(&GET)[..], &[0x40, 1, b'x', 1, b'y', 0xbe]].concat())],
        ),
        case(
            "4.3: a block that is wrong in its CONTINUATION",
            Connection(&[COMPRESSION]),
            &[frame(HEADERS, END, 1, &block(&GET)), frame(CONTINUATION, END_HEADERS, 1, &[0x80])],
        ),
    ]
}
