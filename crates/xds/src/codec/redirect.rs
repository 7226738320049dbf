//! Redirects ↔ `RedirectAction`, and changes of paths, which redirects and forwarded requests share.

use std::net::Ipv6Addr;

use envoy_types::pb::envoy::{
    config::route::v3::{
        RedirectAction,
        redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
    },
    r#type::matcher::v3::RegexMatchAndSubstitute,
};

use super::{
    matching::{validate_path, write_pattern},
    wire::{At, Checked, ensure, need, wrong},
};
use crate::{
    pattern,
    snapshot::{PathChange, Redirect},
};

const CODES: [(u16, RedirectResponseCode); 5] = [
    (301, RedirectResponseCode::MovedPermanently),
    (302, RedirectResponseCode::Found),
    (303, RedirectResponseCode::SeeOther),
    (307, RedirectResponseCode::TemporaryRedirect),
    (308, RedirectResponseCode::PermanentRedirect),
];

pub(super) fn validate(redirect: &Redirect) -> Checked<()> {
    let Redirect { status, scheme, host, port, path, strip_query: _ } = redirect;
    ensure(code(*status).is_some(), "response_code", || format!("{status} is not supported"))?;
    if let Some(scheme) = scheme {
        let known = ["http", "https"].contains(&scheme.as_str());
        ensure(known, "scheme_redirect", || format!("{scheme:?} is not supported"))?;
    }
    host.as_deref().map_or(Ok(()), |host| validate_host(host).at("host_redirect"))?;
    ensure(*port != Some(0), "port_redirect", || "is zero".to_owned())?;
    path.as_ref().map_or(Ok(()), validate_change)
}

/// RFC 3986, 3.2.2, without a port.
pub(super) fn validate_host(host: &str) -> Checked<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let fine = match literal {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(plain),
    };
    ensure(fine, "", || format!("{host:?} is not a host"))
}

/// The same, and a port may follow.
pub(super) fn validate_authority(authority: &str) -> Checked<()> {
    match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((host, port)) => {
            ensure(port.parse::<u16>().is_ok(), "", || format!("{authority:?}: {port:?} is not a port"))?;
            validate_host(host)
        }
        None => validate_host(authority),
    }
}

pub(super) fn validate_change(change: &PathChange) -> Checked<()> {
    match change {
        PathChange::Prefix(prefix) => validate_path(prefix).at("prefix_rewrite"),
        PathChange::Regex { pattern, with } => {
            ensure(!pattern.is_empty(), "regex_rewrite", || "the pattern is empty".to_owned())?;
            let compiled = pattern::part(pattern).or_else(|problem| wrong("regex_rewrite", problem))?;
            pattern::replacement(with, &compiled).map(drop).or_else(|problem| wrong("regex_rewrite", problem))
        }
    }
}

fn code(status: u16) -> Option<RedirectResponseCode> {
    CODES.iter().find(|(known, _)| *known == status).map(|(_, code)| *code)
}

pub(super) fn write(redirect: &Redirect) -> RedirectAction {
    RedirectAction {
        host_redirect: redirect.host.clone().unwrap_or_default(),
        port_redirect: redirect.port.map_or(0, u32::from),
        response_code: code(redirect.status).unwrap_or_default().into(),
        strip_query: redirect.strip_query,
        scheme_rewrite_specifier: redirect.scheme.clone().map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: redirect.path.as_ref().map(|path| match path {
            PathChange::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix.clone()),
            PathChange::Regex { pattern, with } => PathRewriteSpecifier::RegexRewrite(write_regex(pattern, with)),
        }),
    }
}

pub(super) fn write_regex(pattern: &str, with: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute { pattern: Some(write_pattern(pattern)), substitution: with.to_owned() }
}

pub(super) fn read_regex(regex: &RegexMatchAndSubstitute) -> Checked<PathChange> {
    let pattern = need(&regex.pattern, "regex_rewrite.pattern")?.regex.clone();
    Ok(PathChange::Regex { pattern, with: regex.substitution.clone() })
}

pub(super) fn read(redirect: &RedirectAction) -> Checked<Redirect> {
    let status = CODES.iter().find(|(_, code)| i32::from(*code) == redirect.response_code);
    let Some((status, _)) = status else {
        return wrong("response_code", format!("{} is not supported", redirect.response_code));
    };
    let port = u16::try_from(redirect.port_redirect).ok();
    let Some(port) = port else {
        return wrong("port_redirect", format!("{} is not supported", redirect.port_redirect));
    };
    Ok(Redirect {
        status: *status,
        scheme: match &redirect.scheme_rewrite_specifier {
            None => None,
            Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.clone()),
            Some(SchemeRewriteSpecifier::HttpsRedirect(_)) => {
                return wrong("https_redirect", "is not supported, scheme_redirect is");
            }
        },
        host: (!redirect.host_redirect.is_empty()).then(|| redirect.host_redirect.clone()),
        port: (port != 0).then_some(port),
        path: match &redirect.path_rewrite_specifier {
            None => None,
            Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => Some(PathChange::Prefix(prefix.clone())),
            Some(PathRewriteSpecifier::RegexRewrite(regex)) => Some(read_regex(regex)?),
            Some(_) => return wrong("path_rewrite_specifier", "only prefix_rewrite and regex_rewrite are supported"),
        },
        strip_query: redirect.strip_query,
    })
}
