//! Route tables ↔ `RouteConfiguration`.

use envoy_types::pb::envoy::config::{
    core::v3::{DataSource, data_source::Specifier},
    route::v3::{self as pb, DirectResponseAction, RouteConfiguration, route::Action},
};
use serde::{Deserialize, Serialize};

use super::{
    fault, forward, headers, matching, redirect, tunnel,
    wire::{At, Checked, ensure, ensure_name, ensure_unique, metadata, need, pack, read_metadata, wrong},
};
use crate::snapshot::{HedgePolicy, PathMatch, Route, RouteAction, RouteFault, RouteTable, VirtualHost};

pub(super) const FAULT: &str = "envoy.filters.http.fault";

/// Envoy's default bound on the body of a direct response, in bytes.
const LONGEST_BODY: usize = 4096;

/// What Envoy has no field for; the metadata is absent if there is nothing of it.
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Extra {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) non_idempotent: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hedge: Option<HedgePolicy>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) callers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) faults: Vec<RouteFault>,
}

pub(super) fn validate(table: &RouteTable) -> Checked<()> {
    ensure_name(&table.name, "name")?;
    ensure_unique(table.hosts.iter().map(|host| &host.name), "virtual_hosts")?;
    ensure_unique(table.hosts.iter().flat_map(|host| &host.domains), "virtual_hosts")?;
    for (index, host) in table.hosts.iter().enumerate() {
        let path = format!("virtual_hosts[{index}]");
        ensure_name(&host.name, "name").at(&path)?;
        ensure(!host.domains.is_empty(), "domains", || "is empty".to_owned()).at(&path)?;
        for domain in &host.domains {
            validate_domain(domain).at(&path)?;
        }
        for (index, route) in host.routes.iter().enumerate() {
            validate_route(route).at(format!("{path}.routes[{index}]"))?;
        }
    }
    Ok(())
}

fn validate_domain(domain: &str) -> Checked<()> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase() && byte != b'*';
    let fine = domain == "*" || (!domain.is_empty() && domain.bytes().all(plain));
    ensure(fine, "domains", || format!("{domain:?} is neither a lower-case name nor `*`"))
}

fn validate_route(route: &Route) -> Checked<()> {
    matching::validate(&route.matches).at("match")?;
    let tunnel = matches!(route.action, RouteAction::Tunnel(_));
    ensure(tunnel == (route.matches.path == PathMatch::Connect), "match.connect_matcher", || {
        "and a tunnel go together only".to_owned()
    })?;
    match &route.action {
        RouteAction::Answer { status, body } => {
            ensure((200..600).contains(status), "direct_response.status", || format!("{status} is not supported"))?;
            ensure(body.len() <= LONGEST_BODY, "direct_response.body", || "is above 4096 bytes".to_owned())
        }
        RouteAction::Redirect(redirect) => redirect::validate(redirect).at("redirect"),
        RouteAction::Forward(forward) => forward::validate(forward).at("route"),
        RouteAction::Tunnel(tunnel) => tunnel::validate(tunnel).at("route"),
    }
}

pub(super) fn write(table: &RouteTable) -> RouteConfiguration {
    RouteConfiguration {
        name: table.name.clone(),
        virtual_hosts: table.hosts.iter().map(write_host).collect(),
        ignore_port_in_host_matching: true,
        ..RouteConfiguration::default()
    }
}

fn write_host(host: &VirtualHost) -> pb::VirtualHost {
    pb::VirtualHost {
        name: host.name.clone(),
        domains: host.domains.clone(),
        routes: host.routes.iter().map(write_route).collect(),
        ..pb::VirtualHost::default()
    }
}

fn write_route(route: &Route) -> pb::Route {
    let mut extra = Extra { callers: route.matches.callers.clone(), ..Extra::default() };
    let mut written = pb::Route { r#match: Some(matching::write(&route.matches)), ..pb::Route::default() };
    match &route.action {
        RouteAction::Answer { status, body } => written.action = Some(write_answer(*status, body)),
        RouteAction::Redirect(redirect) => written.action = Some(Action::Redirect(redirect::write(redirect))),
        RouteAction::Tunnel(tunnel) => written.action = Some(Action::Route(tunnel::write(tunnel))),
        RouteAction::Forward(forward) => {
            extra.non_idempotent = forward.retry.as_ref().is_some_and(|retry| retry.non_idempotent);
            extra.hedge.clone_from(&forward.hedge);
            extra.faults.clone_from(&forward.faults);
            written.request_headers_to_add = headers::write(&forward.request_headers);
            written.request_headers_to_remove.clone_from(&forward.request_headers.remove);
            written.response_headers_to_add = headers::write(&forward.response_headers);
            written.response_headers_to_remove.clone_from(&forward.response_headers.remove);
            let fault = fault::write(&forward.faults).map(|fault| (FAULT.to_owned(), pack(&fault)));
            written.typed_per_filter_config = fault.into_iter().collect();
            written.action = Some(Action::Route(forward::write(forward)));
        }
    }
    written.metadata = if extra == Extra::default() { None } else { metadata(&extra) };
    written
}

fn write_answer(status: u16, body: &str) -> Action {
    let body = DataSource { specifier: Some(Specifier::InlineString(body.to_owned())), ..DataSource::default() };
    Action::DirectResponse(DirectResponseAction {
        status: u32::from(status),
        body: Some(body),
        ..DirectResponseAction::default()
    })
}

pub(super) fn read(table: &RouteConfiguration) -> Checked<RouteTable> {
    let hosts = table.virtual_hosts.iter().enumerate();
    let hosts = hosts.map(|(index, host)| read_host(host).at(format!("virtual_hosts[{index}]")));
    Ok(RouteTable { name: table.name.clone(), hosts: hosts.collect::<Checked<_>>()? })
}

fn read_host(host: &pb::VirtualHost) -> Checked<VirtualHost> {
    let routes = host.routes.iter().enumerate();
    let routes = routes.map(|(index, route)| read_route(route).at(format!("routes[{index}]")));
    Ok(VirtualHost { name: host.name.clone(), domains: host.domains.clone(), routes: routes.collect::<Checked<_>>()? })
}

fn read_route(route: &pb::Route) -> Checked<Route> {
    let mut extra: Extra = if route.metadata.is_some() { read_metadata(&route.metadata)? } else { Extra::default() };
    let callers = std::mem::take(&mut extra.callers);
    let matches = matching::read(need(&route.r#match, "match")?, callers).at("match")?;
    let edits = [
        headers::read(&route.request_headers_to_add, &route.request_headers_to_remove, "request_headers_to_add")?,
        headers::read(&route.response_headers_to_add, &route.response_headers_to_remove, "response_headers_to_add")?,
    ];
    let action = match need(&route.action, "action")? {
        Action::Route(action) if matches.path == PathMatch::Connect => {
            RouteAction::Tunnel(tunnel::read(action).at("route")?)
        }
        Action::Route(action) => RouteAction::Forward(forward::read(action, extra, edits).at("route")?),
        Action::Redirect(redirect) => RouteAction::Redirect(redirect::read(redirect).at("redirect")?),
        Action::DirectResponse(answer) => read_answer(answer).at("direct_response")?,
        _ => return wrong("action", "only route, redirect and direct_response are supported"),
    };
    Ok(Route { matches, action })
}

fn read_answer(answer: &DirectResponseAction) -> Checked<RouteAction> {
    let Ok(status) = u16::try_from(answer.status) else {
        return wrong("status", format!("{} is not supported", answer.status));
    };
    match &need(&answer.body, "body")?.specifier {
        Some(Specifier::InlineString(body)) => Ok(RouteAction::Answer { status, body: body.clone() }),
        _ => wrong("body", "only inline text is supported"),
    }
}
