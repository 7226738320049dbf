//! HTTP/1.1 messages read without any leniency: what a proxy writes must need none.

/// A message, as far as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Request line or status line.
    pub start: String,
    /// In order; names in lower case, bytes above ASCII as the characters of the same number.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Message {
    pub fn all<'a>(&'a self, name: &str) -> Vec<&'a str> {
        self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }
}

/// How far the message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It ends after so many bytes.
    At(usize),
    /// More must come.
    Later,
    /// It ends with the connection.
    Close,
}

/// What is read.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    Request,
    /// The response to a request of this method.
    Response(&'a str),
}

/// Reads the message at the beginning of `input`; `None` while its head is not whole.
///
/// # Errors
/// Whatever a receiver could take in two ways.
pub fn read(input: &[u8], kind: Kind<'_>) -> Result<Option<(Message, End)>, String> {
    let Some((lines, head)) = lines(input)? else { return Ok(None) };
    let mut lines = lines.into_iter();
    let start = lines.next().ok_or("no first line")?;
    let parts: Vec<&str> = start.splitn(3, ' ').collect();
    let version = if matches!(kind, Kind::Request) { parts.get(2) } else { parts.first() };
    if !matches!(version, Some(&"HTTP/1.1" | &"HTTP/1.0")) {
        return Err(format!("version of {start:?}"));
    }
    let headers = lines.map(|line| field(&line)).collect::<Result<Vec<_>, _>>()?;
    let mut message = Message { start, headers, ..Message::default() };
    let end = body(&mut message, kind, &input[head..])?;
    let end = match end {
        End::At(length) => End::At(head + length),
        other => other,
    };
    Ok(Some((message, end)))
}

/// Lines up to an empty one, and where what follows begins.
fn lines(input: &[u8]) -> Result<Option<(Vec<String>, usize)>, String> {
    let (mut lines, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = input[at..].windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let line = &input[at..at + end];
        if let Some(byte) = line.iter().find(|byte| byte.is_ascii_control() && **byte != b'\t') {
            return Err(format!("byte {byte} in {:?}", String::from_utf8_lossy(line)));
        }
        at += end + 2;
        if line.is_empty() {
            return Ok(Some((lines, at)));
        }
        lines.push(line.iter().copied().map(char::from).collect());
    }
}

fn field(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(':').ok_or_else(|| format!("no colon in {line:?}"))?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(format!("name of {line:?}"));
    }
    Ok((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
}

fn body(message: &mut Message, kind: Kind<'_>, input: &[u8]) -> Result<End, String> {
    let (lengths, codings) = (message.all("content-length"), message.all("transfer-encoding"));
    let status = message.status();
    if let Kind::Response(method) = kind
        && (method == "HEAD" || matches!(status, 100..=199 | 204 | 304))
    {
        return if codings.is_empty() || method == "HEAD" { Ok(End::At(0)) } else { Err("coded nothing".into()) };
    }
    match (lengths.as_slice(), codings.as_slice()) {
        ([], ["chunked"]) => chunks(message, input),
        ([length], []) => {
            let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            let length: usize = length.parse().ok().filter(|_| digits).ok_or_else(|| format!("length {length:?}"))?;
            message.body = input[..length.min(input.len())].to_vec();
            Ok(if input.len() < length { End::Later } else { End::At(length) })
        }
        ([], []) if matches!(kind, Kind::Request) => Ok(End::At(0)),
        ([], []) => {
            message.body = input.to_vec();
            Ok(End::Close)
        }
        both => Err(format!("framed by {both:?}")),
    }
}

fn chunks(message: &mut Message, input: &[u8]) -> Result<End, String> {
    let mut at = 0;
    loop {
        let Some(end) = input[at..].windows(2).position(|pair| pair == b"\r\n") else { return Ok(End::Later) };
        let line = String::from_utf8_lossy(&input[at..at + end]);
        let valid = !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = usize::from_str_radix(&line, 16).ok().filter(|_| valid);
        let size = size.ok_or_else(|| format!("chunk size {line:?}"))?;
        at += end + 2;
        if size == 0 {
            let Some((lines, length)) = lines(&input[at..])? else { return Ok(End::Later) };
            message.trailers = lines.iter().map(|line| field(line)).collect::<Result<_, _>>()?;
            return Ok(End::At(at + length));
        }
        let Some(data) = input.get(at..at + size + 2) else {
            message.body.extend_from_slice(&input[at..input.len().min(at + size)]);
            return Ok(End::Later);
        };
        if !data.ends_with(b"\r\n") {
            return Err("a chunk without its end".into());
        }
        message.body.extend_from_slice(&data[..size]);
        at += size + 2;
    }
}

#[test]
fn the_reader_is_strict() {
    let read = |text: &str| read(text.as_bytes(), Kind::Request);
    let (message, end) = read("GET / HTTP/1.1\r\nA: b\r\ncontent-length: 2\r\n\r\nxyz").unwrap().unwrap();
    assert_eq!((message.all("a"), message.body.as_slice(), end), (vec!["b"], &b"xy"[..], End::At(45)));
    for (text, end) in [("1\r\na\r\n0\r\nx: y\r\n\r\n", true), ("1\r\na\r\n0\r\n", false), ("3\r\na", false)] {
        let text = format!("PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{text}");
        let (message, found) = read(&text).unwrap().unwrap();
        assert_eq!((found == End::At(text.len()), &message.body[..]), (end, &b"a"[..]), "{text:?}");
    }
    for text in [
        "GET / HTTP/1.1\r\na b: c\r\n\r\n",
        "GET / HTTP/1.1\r\na: b\nc: d\r\n\r\n",
        "GET / HTTP/1.1 \r\n\r\n",
        "GET / HTTP/1.1\r\n x: y\r\n\r\n",
        "PUT / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        "PUT / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
        "PUT / HTTP/1.1\r\ncontent-length: +1\r\n\r\n",
        "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;x\r\n",
        "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc",
    ] {
        assert!(read(text).is_err(), "{text:?}");
    }
}
