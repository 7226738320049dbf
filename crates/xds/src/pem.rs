//! DER as PEM (RFC 7468).

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Characters in a line.
const LINE: usize = 64;

/// One block of a kind, as `CERTIFICATE`.
pub fn write(kind: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {kind}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {kind}-----\n"));
    text
}
