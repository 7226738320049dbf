//! Mutual TLS of listeners and clusters. The own certificate is the static secret `identity` of the bootstrap (private
//! keys never travel); the trust bundle comes by SDS on the ADS stream.

use envoy_types::pb::envoy::{
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, SubjectAltNameMatcher,
        UpstreamTlsContext,
        common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
        subject_alt_name_matcher::SanType,
    },
    r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
};

use super::wire::{Checked, ads, need, wrong, yes};
use crate::snapshot::{ClusterTls, ListenerTls};

const CONTEXT: &str = "common_tls_context";

fn identity() -> Vec<SdsSecretConfig> {
    vec![SdsSecretConfig { name: "identity".to_owned(), sds_config: None }]
}

fn bundle(name: &str) -> SdsSecretConfig {
    SdsSecretConfig { name: name.to_owned(), sds_config: ads() }
}

fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

pub(super) fn exactly(text: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::Exact(text.to_owned())), ..StringMatcher::default() }
}

pub(super) fn read_exactly(matcher: &Option<StringMatcher>, path: &str) -> Checked<String> {
    match &need(matcher, path)?.match_pattern {
        Some(MatchPattern::Exact(text)) => Ok(text.clone()),
        _ => wrong(path, "only an exact match is supported"),
    }
}

/// `alpn` in order of preference; none for plain bytes.
pub(super) fn write_listener(tls: &ListenerTls, alpn: &[&str]) -> DownstreamTlsContext {
    DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: identity(),
            alpn_protocols: texts(alpn),
            validation_context_type: Some(ValidationContextType::ValidationContextSdsSecretConfig(bundle(&tls.trust))),
            ..CommonTlsContext::default()
        }),
        require_client_certificate: yes(),
        ..DownstreamTlsContext::default()
    }
}

pub(super) fn read_listener(context: &DownstreamTlsContext) -> Checked<ListenerTls> {
    match &need(&context.common_tls_context, CONTEXT)?.validation_context_type {
        Some(ValidationContextType::ValidationContextSdsSecretConfig(bundle)) => {
            Ok(ListenerTls { trust: bundle.name.clone() })
        }
        _ => wrong(CONTEXT, "only a validation context by SDS is supported"),
    }
}

pub(super) fn write_cluster(tls: &ClusterTls, alpn: &[&str]) -> UpstreamTlsContext {
    let names = tls.server_ids.iter().map(|id| SubjectAltNameMatcher {
        san_type: SanType::Uri.into(),
        matcher: Some(exactly(id)),
        ..SubjectAltNameMatcher::default()
    });
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: names.collect(),
            ..CertificateValidationContext::default()
        }),
        validation_context_sds_secret_config: Some(bundle(&tls.trust)),
        ..CombinedCertificateValidationContext::default()
    };
    UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: identity(),
            alpn_protocols: texts(alpn),
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    }
}

pub(super) fn read_cluster(context: &UpstreamTlsContext) -> Checked<ClusterTls> {
    let common = need(&context.common_tls_context, CONTEXT)?;
    let Some(ValidationContextType::CombinedValidationContext(combined)) = &common.validation_context_type else {
        return wrong(CONTEXT, "only a combined validation context is supported");
    };
    let path = format!("{CONTEXT}.combined_validation_context");
    let bundle = need(&combined.validation_context_sds_secret_config, &path)?;
    let names = &need(&combined.default_validation_context, &path)?.match_typed_subject_alt_names;
    let names = names.iter().map(|name| read_exactly(&name.matcher, &path));
    Ok(ClusterTls { trust: bundle.name.clone(), server_ids: names.collect::<Checked<_>>()? })
}
