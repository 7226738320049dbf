//! A reader of HTTP/1.1 requests without any leniency, written from RFC 9112 and from nothing of ours: what it takes, every
//! receiver takes in the same way.

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// Its body.
    pub body: Vec<u8>,
}

/// The whole requests at the beginning, and what is behind them: nothing, or what is refused or not all here.
pub fn requests(mut input: &[u8]) -> (Vec<Request>, &[u8]) {
    let mut found = Vec::new();
    while let Some((request, rest)) = request(input) {
        found.push(request);
        input = rest;
    }
    (found, input)
}

fn request(input: &[u8]) -> Option<(Request, &[u8])> {
    let (lines, rest) = lines(input)?;
    let (start, fields) = lines.split_first()?;
    let [method, target, b"HTTP/1.1"] = start.split(|byte| *byte == b' ').collect::<Vec<_>>()[..] else { return None };
    if !is_token(method) || target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    let (mut length, mut chunked) = (None, false);
    for field in fields {
        let (name, value) = parts(field)?;
        match name.as_str() {
            "content-length" if length.is_none() => length = Some(number(value, 10)?),
            "transfer-encoding" if !chunked && value == b"chunked" => chunked = true,
            "content-length" | "transfer-encoding" => return None,
            _ => {}
        }
    }
    let (body, rest) = match (length, chunked) {
        (Some(_), true) => return None,
        (_, true) => chunks(rest)?,
        (length, false) => {
            let length = length.unwrap_or(0);
            (rest.get(..length)?.to_vec(), rest.get(length..)?)
        }
    };
    Some((Request { method: String::from_utf8_lossy(method).into_owned(), body }, rest))
}

/// Lines that end in CR LF, up to an empty one.
fn lines(mut input: &[u8]) -> Option<(Vec<&[u8]>, &[u8])> {
    let mut found = Vec::new();
    loop {
        let end = input.windows(2).position(|two| two == b"\r\n")?;
        let (line, rest) = (&input[..end], &input[end + 2..]);
        if line.is_empty() {
            return Some((found, rest));
        }
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return None;
        }
        found.push(line);
        input = rest;
    }
}

fn parts(field: &[u8]) -> Option<(String, &[u8])> {
    let colon = field.iter().position(|byte| *byte == b':')?;
    let name = &field[..colon];
    is_token(name).then(|| (String::from_utf8_lossy(name).to_ascii_lowercase(), field[colon + 1..].trim_ascii()))
}

fn is_token(text: &[u8]) -> bool {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(token)
}

fn number(text: &[u8], base: u32) -> Option<usize> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = !text.is_empty() && text.chars().all(|c| c.is_digit(base));
    if digits { usize::from_str_radix(text, base).ok() } else { None }
}

fn chunks(mut input: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let end = input.windows(2).position(|two| two == b"\r\n")?;
        let size = number(&input[..end], 16)?;
        input = &input[end + 2..];
        if size == 0 {
            let (trailers, rest) = lines(input)?;
            return trailers.iter().all(|line| parts(line).is_some()).then_some((body, rest));
        }
        body.extend_from_slice(input.get(..size)?);
        input = input.get(size..)?.strip_prefix(b"\r\n")?;
    }
}
