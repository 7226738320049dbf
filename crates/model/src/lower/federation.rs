//! Other meshes that this one is federated with.

use super::{World, dangling};
use crate::{
    config::{BundleEndpoint, Federated, HttpsUrl},
    raw,
    read::{At, Cx},
    spiffe::{SpiffeId, is_trust_domain},
};

/// Reports what is not a trust domain.
pub(crate) fn trust_domain(name: &At<String>, cx: &mut Cx<'_>) {
    if !is_trust_domain(name) {
        cx.error("bad-trust-domain", name.at, format!("`{}` is not a SPIFFE trust domain", name.value))
            .mend("use at most 255 of a-z, 0-9, `-`, `_` and single dots, as `bank.example`, without `spiffe://`");
    }
}

pub(crate) fn federation(spec: &raw::Mesh, cx: &mut Cx<'_>) -> Vec<Federated> {
    let written = spec.federation.as_ref().map_or(&[][..], |f| &f.value[..]);
    for (i, one) in written.iter().enumerate() {
        trust_domain(&one.trust_domain, cx);
        let name = &one.trust_domain;
        let earlier = written.iter().take(i).map(|other| &other.trust_domain).chain([&spec.trust_domain]);
        if let Some(first) = earlier.into_iter().find(|other| other.value == name.value) {
            let first = cx.place(first.at);
            cx.error("duplicate-name", name.at, format!("the trust domain `{}` is there twice", name.value))
                .mend("delete one of them; a mesh is not federated with itself")
                .see(first, "first named here");
        }
    }
    let spire = spec.identity.as_ref().is_some_and(|identity| identity.spire.is_some());
    written.iter().filter_map(|one| federated(one, spire, cx)).collect()
}

fn federated(one: &At<raw::Federated>, spire: bool, cx: &mut Cx<'_>) -> Option<Federated> {
    if one.bundle.is_none() && (!spire || one.endpoint.is_some()) && !one.flawed {
        cx.error("missing-field", one.head, "`bundle` is missing: by nothing else the trust domain is known")
            .mend("write `bundle: /etc/firedrill/partner.json`, of `firedrill ca bundle` over there");
    }
    if let Some(bundle) = one.bundle.as_ref().filter(|bundle| !bundle.starts_with('/')) {
        cx.error("relative-path", bundle.at, format!("`{}` is not an absolute path", bundle.value))
            .mend("write it from `/` on: the control plane reads it, wherever it was started");
    }
    let endpoint = match &one.endpoint {
        None => None,
        Some(endpoint) => Some(bundle_endpoint(endpoint, &one.trust_domain, cx)?),
    };
    let (trust_domain, bundle) =
        (one.trust_domain.value.clone(), one.bundle.as_ref().map(|bundle| bundle.value.clone()));
    Some(Federated { trust_domain, bundle, endpoint })
}

fn bundle_endpoint(written: &At<raw::BundleEndpoint>, domain: &str, cx: &mut Cx<'_>) -> Option<BundleEndpoint> {
    let url = HttpsUrl::parse(&written.url);
    if url.is_none() {
        cx.error("bad-url", written.url.at, format!("`{}` is not an https URL", written.url.value))
            .mend("write it as `https://10.0.0.1:7003/`");
    }
    let id = match &written.id {
        // A trust domain that is none was reported.
        None => SpiffeId::new(format!("spiffe://{domain}/control")).ok()?,
        Some(text) => spiffe_id(text, cx)?,
    };
    if let Some(text) = written.id.as_ref().filter(|_| id.trust_domain() != domain) {
        cx.error("other-trust-domain", text.at, format!("`{id}` is not of `{domain}`"))
            .mend("name an id of the trust domain itself: its own bundle is what tells who serves there");
    }
    Some(BundleEndpoint { url: url?, id })
}

/// Reads an id; reports what is none.
fn spiffe_id(text: &At<String>, cx: &mut Cx<'_>) -> Option<SpiffeId> {
    match SpiffeId::new(&text.value) {
        Ok(id) => Some(id),
        Err(error) => {
            cx.error("bad-spiffe-id", text.at, format!("`{}` is not a SPIFFE id", text.value)).mend(error.to_string());
            None
        }
    }
}

/// Reads an id of our trust domain or one that we are federated with; reports any other.
pub(crate) fn known_id(text: &At<String>, world: &World, cx: &mut Cx<'_>) -> Option<SpiffeId> {
    let id = spiffe_id(text, cx)?;
    // A mesh that could not be read was reported.
    let domains = world.trust_domains.as_ref()?;
    if !domains.iter().any(|domain| domain == id.trust_domain()) {
        let known = domains.iter().map(String::as_str);
        dangling("trust domain in the mesh's `federation`", id.trust_domain(), text.at, known, cx);
        return None;
    }
    Some(id)
}
