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
