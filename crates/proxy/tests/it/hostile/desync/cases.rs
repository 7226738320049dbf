//! The table: what a caller says, what the endpoint answers when, and what must have arrived.

use super::super::{
    frames::*,
    recorder::{Reply, When},
    wire::Message,
};

/// What a caller says.
pub enum Said {
    /// Over HTTP/1.1; `fin` ends its half of the connection behind it.
    Http1 { bytes: Vec<u8>, fin: bool },
    /// Frames of HTTP/2, all on stream 1.
    Http2(Vec<u8>),
}

pub struct Case {
    pub name: &'static str,
    pub said: Said,
    /// Statuses of the answers; none is a stream or a connection that is reset.
    pub answered: Vec<u16>,
    /// `METHOD target body` of whole requests at the endpoint, and `+name=value` for trailers.
    pub arrives: Vec<&'static str>,
    /// `METHOD target` of requests whose beginning may be there.
    pub begins: Vec<&'static str>,
    /// Whether nobody else may use the connection that it went over.
    pub alone: bool,
    pub when: When,
    pub reply: fn(&Message) -> Reply,
    /// Whether something goes on behind the answer.
    pub settles: bool,
}

impl Case {
    fn of(name: &'static str, said: Said) -> Self {
        Self {
            name,
            said,
            answered: vec![200],
            arrives: Vec::new(),
            begins: Vec::new(),
            alone: false,
            when: When::Whole,
            reply: Reply::ok,
            settles: false,
        }
    }

    fn h1(name: &'static str, text: &str) -> Self {
        Self::of(name, Said::Http1 { bytes: text.replace("\n", "\r\n").into_bytes(), fin: false })
    }

    fn h2(name: &'static str, frames: &[Vec<u8>]) -> Self {
        Self::of(name, Said::Http2(frames.concat()))
    }

    fn answered(self, answered: &[u16]) -> Self {
        Self { answered: answered.to_vec(), ..self }
    }

    fn arrives(self, arrives: &[&'static str]) -> Self {
        Self { arrives: arrives.to_vec(), ..self }
    }

    fn begins(self, begins: &[&'static str]) -> Self {
        Self { begins: begins.to_vec(), ..self }
    }

    fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    fn early(self) -> Self {
        Self { when: When::Head, ..self }
    }

    fn replies(self, reply: fn(&Message) -> Reply) -> Self {
        Self { reply, ..self }
    }

    fn fin(mut self) -> Self {
        if let Said::Http1 { fin, .. } = &mut self.said {
            *fin = true;
        }
        self
    }

    fn settles(self) -> Self {
        Self { settles: true, ..self }
    }
}

/// An extended CONNECT (RFC 8441) for this protocol with these fields; the stream stays open.
fn connect(protocol: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let head =
        [(":method", "CONNECT"), (":protocol", protocol), (":scheme", "http"), (":path", "/x"), (":authority", "fx")];
    frame(HEADERS, END_HEADERS, 1, &block(&[&head[..], more].concat()))
}

fn headers(method: &str, end: u8, more: &[(&str, &str)]) -> Vec<u8> {
    let head = [(":method", method), (":scheme", "http"), (":path", "/x"), (":authority", "fx")];
    frame(HEADERS, end | END_HEADERS, 1, &block(&[&head[..], more].concat()))
}

fn data(end: u8, payload: &[u8]) -> Vec<u8> {
    frame(DATA, end, 1, payload)
}

/// The victim is always answered as it should be.
fn unless_victim(message: &Message, reply: impl FnOnce() -> Reply) -> Reply {
    if message.start.contains("/victim") { Reply::ok(message) } else { reply() }
}

fn says(text: &'static str, close: bool) -> Reply {
    Reply { bytes: text.replace('\n', "\r\n").into_bytes(), close }
}

/// Answers as if no upgrade had been asked for.
fn ignores(message: &Message) -> Reply {
    unless_victim(message, || says("HTTP/1.1 200 OK\ncontent-length: 2\n\nno", false))
}

/// Refuses with its connection open.
fn refuses(message: &Message) -> Reply {
    unless_victim(message, || says("HTTP/1.1 413 Content Too Large\ncontent-length: 0\n\n", false))
}

/// Refuses and closes.
fn closes(message: &Message) -> Reply {
    unless_victim(message, || says("HTTP/1.1 413 Content Too Large\ncontent-length: 0\nconnection: close\n\n", true))
}

/// Says that the body may come, or answers.
fn goes_on(message: &Message) -> Reply {
    unless_victim(message, || says("HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\ncontent-length: 0\n\n", false))
}

fn no_content(message: &Message) -> Reply {
    unless_victim(message, || says("HTTP/1.1 204 No Content\ncontent-length: 0\n\n", false))
}

fn unchanged(message: &Message) -> Reply {
    unless_victim(message, || says("HTTP/1.1 304 Not Modified\ncontent-length: 5\n\n", false))
}

pub fn cases() -> Vec<Case> {
    let mut all = downgrades();
    all.extend(upgrades());
    all.extend(over_http1());
    all.extend(early());
    all
}

/// HTTP/2 in front, HTTP/1.1 behind.
fn downgrades() -> Vec<Case> {
    let twice = [("content-length", "3"), ("content-length", "3")];
    vec![
        Case::h2("GET with a body", &[headers("GET", 0, &[("content-length", "3")]), data(END, b"abc")])
            .arrives(&["GET /x abc"]),
        Case::h2("GET with a body of untold length", &[headers("GET", 0, &[]), data(0, b"ab"), data(END, b"c")])
            .arrives(&["GET /x abc"]),
        Case::h2("HEAD with a body", &[headers("HEAD", 0, &[("content-length", "3")]), data(END, b"abc")])
            .arrives(&["HEAD /x abc"]),
        Case::h2("no body, its end told late", &[headers("POST", 0, &[]), data(END, b"")]).arrives(&["POST /x"]),
        Case::h2("a length of 0, its end told late", &[headers("POST", 0, &[("content-length", "0")]), data(END, b"")])
            .arrives(&["POST /x"]),
        Case::h2(
            "GET with a length of 0, its end told late",
            &[headers("GET", 0, &[("content-length", "0")]), data(END, b"")],
        )
        .arrives(&["GET /x"]),
        Case::h2("a length of 0 at once", &[headers("GET", END, &[("content-length", "0")])]).arrives(&["GET /x"]),
        Case::h2("a length without a body", &[headers("GET", END, &[("content-length", "30")])]).answered(&[]),
        Case::h2("a length without a body to HEAD", &[headers("HEAD", END, &[("content-length", "30")])]).answered(&[]),
        Case::h2("the same length twice", &[headers("POST", 0, &twice), data(END, b"abc")]).answered(&[400]),
        Case::h2(
            "two lengths",
            &[headers("POST", 0, &[("content-length", "3"), ("content-length", "4")]), data(END, b"abc")],
        )
        .answered(&[]),
        Case::h2("a list of lengths", &[headers("POST", 0, &[("content-length", "3, 3")]), data(END, b"abc")])
            .answered(&[]),
        Case::h2("a body that is too short", &[headers("POST", 0, &[("content-length", "30")]), data(END, b"abc")])
            .answered(&[])
            .begins(&["POST /x"]),
        Case::h2("a body that is too long", &[headers("POST", 0, &[("content-length", "3")]), data(END, b"abcdef")])
            .answered(&[])
            .begins(&["POST /x"]),
        Case::h2(
            "trailers that would frame",
            &[
                headers("POST", 0, &[]),
                data(0, b"abc"),
                frame(
                    HEADERS,
                    END | END_HEADERS,
                    1,
                    &block(&[("content-length", "30"), ("host", "other"), ("x-sum", "6")]),
                ),
            ],
        )
        .arrives(&["POST /x abc +x-sum=6"]),
        Case::h2("te: trailers", &[headers("GET", END, &[("te", "trailers")])]).arrives(&["GET /x"]),
        Case::h2("te: chunked", &[headers("GET", END, &[("te", "chunked")])]).answered(&[]),
        Case::h2(
            "transfer-encoding",
            &[headers("POST", 0, &[("transfer-encoding", "chunked")]), data(END, b"0\r\n\r\n")],
        )
        .answered(&[]),
        Case::h2(
            "a chunk's end in the body",
            &[headers("POST", 0, &[]), data(END, b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: fx\r\n\r\n")],
        )
        .arrives(&["POST /x 0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: fx"]),
        Case::h2(
            "a body that waits to be asked for",
            &[headers("POST", 0, &[("content-length", "3"), ("expect", "100-continue")]), data(END, b"abc")],
        )
        .arrives(&["POST /x abc"]),
        Case::h2("mirrored, with a body", &[headers("POST", 0, &[("content-length", "3")]), data(END, b"abc")])
            .arrives(&["POST /x abc", "POST /x abc"])
            .settles(),
    ]
}

/// Upgrades, taken up or not.
fn upgrades() -> Vec<Case> {
    let length = [("content-length", "60")];
    let asks = "GET /x HTTP/1.1\nhost: fx\nconnection: upgrade\nupgrade: websocket\n";
    vec![
        Case::h2("an extended CONNECT with a length", &[connect("websocket", &length)]).answered(&[400]),
        Case::h2("an extended CONNECT of another protocol with a length", &[connect("other", &length)])
            .answered(&[400]),
        Case::h2("an extended CONNECT of an unknown protocol with a length", &[connect("x", &length)]).answered(&[400]),
        Case::h2("an extended CONNECT with a length of 0", &[connect("websocket", &[("content-length", "0")])])
            .answered(&[400]),
        Case::h2(
            "an extended CONNECT with a length and a body",
            &[connect("websocket", &[("content-length", "3")]), data(END, b"abc")],
        )
        .answered(&[400]),
        Case::h2("an extended CONNECT to HTTP/2 itself", &[connect("h2c", &[])]).answered(&[400]),
        Case::h2("an extended CONNECT to nothing", &[connect("", &[])]).answered(&[400]),
        Case::h2("an extended CONNECT to a list", &[connect("websocket, h2c", &[])]).answered(&[400]),
        Case::h2("an extended CONNECT that the endpoint ignores", &[connect("websocket", &[]), data(0, b"frames")])
            .arrives(&["GET /x"])
            .replies(ignores)
            .alone(),
        Case::h2("an extended CONNECT that expects", &[connect("websocket", &[("expect", "100-continue")])])
            .arrives(&["GET /x"])
            .replies(ignores)
            .alone(),
        Case::h1("an upgrade that the endpoint ignores", &format!("{asks}\nframes"))
            .arrives(&["GET /x"])
            .replies(ignores)
            .alone(),
        Case::h1("an upgrade with a length of 0", &format!("{asks}content-length: 0\n\nframes"))
            .arrives(&["GET /x"])
            .replies(ignores)
            .alone(),
        Case::h1("an upgrade with a length", &format!("{asks}content-length: 6\n\nframes")).answered(&[400]),
        Case::h1("an upgrade in chunks", &format!("{asks}transfer-encoding: chunked\n\n0\n\n")).answered(&[400]),
    ]
}

/// HTTP/1.1 on both sides.
fn over_http1() -> Vec<Case> {
    let end = "\nGET /last HTTP/1.1\nhost: fx\nconnection: close\n\n";
    vec![
        Case::h1("GET with a body", &format!("GET /x HTTP/1.1\nhost: fx\ncontent-length: 3\n\nabc{}", &end[1..]))
            .answered(&[200, 200])
            .arrives(&["GET /x abc", "GET /last"]),
        Case::h1(
            "DELETE in chunks",
            &format!("DELETE /x HTTP/1.1\nhost: fx\ntransfer-encoding: chunked\n\n3\nabc\n0\n{end}"),
        )
        .answered(&[200, 200])
        .arrives(&["DELETE /x abc", "GET /last"]),
        Case::h1(
            "the same length twice becomes one",
            &format!("POST /x HTTP/1.1\nhost: fx\ncontent-length: 3\ncontent-length: 3\n\nabc{}", &end[1..]),
        )
        .answered(&[200, 200])
        .arrives(&["POST /x abc", "GET /last"]),
        Case::h1(
            "an answer of ours to a body",
            &format!("POST /tea HTTP/1.1\nhost: fx\ncontent-length: 36\n\nGET /smuggled HTTP/1.1\nhost: fx\n{end}"),
        )
        .answered(&[418, 200])
        .arrives(&["GET /last"]),
        Case::h1("half of a body", "POST /x HTTP/1.1\nhost: fx\ncontent-length: 300\n\nabc")
            .fin()
            .answered(&[400])
            .begins(&["POST /x"]),
        Case::h1("half of a chunk", "POST /x HTTP/1.1\nhost: fx\ntransfer-encoding: chunked\n\nff\nabc")
            .fin()
            .answered(&[400])
            .begins(&["POST /x"]),
        Case::h1(
            "a chunk that is none behind one that is",
            "POST /x HTTP/1.1\nhost: fx\ntransfer-encoding: chunked\n\n3\nabc\nx\n",
        )
        .answered(&[400])
        .begins(&["POST /x"]),
        Case::h1("an answer without content", &format!("GET /x HTTP/1.1\nhost: fx\n{end}"))
            .answered(&[204, 204])
            .arrives(&["GET /x", "GET /last"])
            .replies(no_content),
        Case::h1("an answer that announces a length it must not have", &format!("GET /x HTTP/1.1\nhost: fx\n{end}"))
            .answered(&[304, 304])
            .arrives(&["GET /x", "GET /last"])
            .replies(unchanged),
        Case::h1(
            "mirrored, expecting",
            "POST /x HTTP/1.1\nhost: fx\ncontent-length: 3\nexpect: 100-continue\nconnection: close\n\nabc",
        )
        .arrives(&["POST /x abc", "POST /x abc"])
        .settles(),
    ]
}

/// Answers that come before the request's end.
fn early() -> Vec<Case> {
    let part = "POST /x HTTP/1.1\nhost: fx\ncontent-length: 300\n\nGET /smuggled HTTP/1.1\nhost: fx\n\n";
    let chunks = "POST /x HTTP/1.1\nhost: fx\ntransfer-encoding: chunked\n\n2f\nGET /smuggled HTTP/1.1\nhost: fx\n\n";
    vec![
        Case::h1("refused at its head", part).early().replies(refuses).answered(&[413]).begins(&["POST /x"]),
        Case::h1("refused at its head, in chunks", chunks)
            .early()
            .replies(refuses)
            .answered(&[413])
            .begins(&["POST /x"]),
        Case::h1("refused and closed at its head", part).early().replies(closes).answered(&[413]).begins(&["POST /x"]),
        Case::h1(
            "refused while it expects to be asked",
            "POST /x HTTP/1.1\nhost: fx\ncontent-length: 30\nexpect: 100-continue\n\n",
        )
        .early()
        .replies(refuses)
        .answered(&[413])
        .begins(&["POST /x"]),
        Case::h1(
            "asked for, and answered at once",
            "POST /x HTTP/1.1\nhost: fx\ncontent-length: 30\nexpect: 100-continue\n\n",
        )
        .early()
        .replies(goes_on)
        .begins(&["POST /x"]),
        Case::h2(
            "refused at its head, over HTTP/2",
            &[headers("POST", 0, &[("content-length", "300")]), data(0, b"GET /smuggled")],
        )
        .early()
        .replies(refuses)
        .answered(&[413])
        .begins(&["POST /x"]),
        Case::h2("refused and closed at its head, over HTTP/2", &[headers("POST", 0, &[]), data(0, b"GET /smuggled")])
            .early()
            .replies(closes)
            .answered(&[413])
            .begins(&["POST /x"]),
    ]
}
