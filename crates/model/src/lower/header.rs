//! Names of headers and cookies.

use crate::read::{At, Cx};

/// In lower case.
pub(crate) fn header_name(written: &At<String>, cx: &mut Cx<'_>) -> String {
    if !is_header_name(written) {
        cx.error("bad-header", written.at, format!("`{}` is not a header's name", written.value))
            .mend("use letters, digits, `-`, `_` and `.`, as `x-user`");
    }
    written.to_ascii_lowercase()
}

pub(crate) fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// RFC 6265, 4.1.1: a token.
pub(crate) fn cookie_name(written: &At<String>, cx: &mut Cx<'_>) -> String {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !written.bytes().all(token) {
        cx.error("bad-header", written.at, format!("`{}` is not a cookie's name", written.value))
            .mend("use letters, digits, `-` and `_`, as `shop-variant`");
    }
    written.value.clone()
}

/// `x-user: canary`, its name in lower case.
pub(super) fn pair(written: &At<String>, cx: &mut Cx<'_>) -> Option<(String, String)> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let pair = written.split_once(':').map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    let pair = pair.filter(|(name, _)| !name.is_empty() && name.bytes().all(token));
    if pair.is_none() {
        cx.error("bad-header", written.at, format!("`{}` is not a header", written.value))
            .mend("write name and value, as `header: \"x-user: canary\"`");
    }
    pair
}
