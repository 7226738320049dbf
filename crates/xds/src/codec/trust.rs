//! Trust bundles ↔ `Secret` with a validation context: roots for everyone, or Envoy's SPIFFE validator with those of each
//! trust domain.

use envoy_types::pb::envoy::{
    config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, Secret, SpiffeCertValidatorConfig, secret::Type,
        spiffe_cert_validator_config::TrustDomain as WireDomain,
    },
};

use super::wire::{At, Checked, ensure, ensure_name, ensure_unique, need, pack, same, unpack, wrong};
use crate::snapshot::{TrustBundle, TrustDomain};

const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
const CUSTOM: &str = "validation_context.custom_validator_config";

pub(super) fn validate(bundle: &TrustBundle) -> Checked<()> {
    ensure_name(&bundle.name, "name")?;
    if bundle.domains.is_empty() {
        return ensure_name(&bundle.roots, "roots");
    }
    ensure(bundle.roots.is_empty(), "roots", || "stand beside domains, of which each has its own".to_owned())?;
    ensure_unique(bundle.domains.iter().map(|domain| &domain.name), "domains")?;
    for (index, domain) in bundle.domains.iter().enumerate() {
        let path = format!("domains[{index}]");
        ensure_name(&domain.name, "name").at(&path)?;
        ensure_name(&domain.roots, "roots").at(&path)?;
    }
    Ok(())
}

fn inline(text: &str) -> Option<DataSource> {
    Some(DataSource { specifier: Some(Specifier::InlineString(text.to_owned())), ..DataSource::default() })
}

fn read_inline(source: &Option<DataSource>, path: &str) -> Checked<String> {
    match &need(source, path)?.specifier {
        Some(Specifier::InlineString(text)) => Ok(text.clone()),
        _ => wrong(path, "only inline text is supported"),
    }
}

pub(super) fn write(bundle: &TrustBundle) -> Secret {
    let context = if bundle.domains.is_empty() {
        CertificateValidationContext { trusted_ca: inline(&bundle.roots), ..CertificateValidationContext::default() }
    } else {
        CertificateValidationContext {
            custom_validator_config: Some(TypedExtensionConfig {
                name: VALIDATOR.to_owned(),
                typed_config: Some(pack(&write_domains(&bundle.domains))),
            }),
            ..CertificateValidationContext::default()
        }
    };
    Secret { name: bundle.name.clone(), r#type: Some(Type::ValidationContext(context)) }
}

fn write_domains(domains: &[TrustDomain]) -> SpiffeCertValidatorConfig {
    let written = domains.iter().map(|domain| WireDomain {
        name: domain.name.clone(),
        trust_bundle: inline(&domain.roots),
        ..WireDomain::default()
    });
    SpiffeCertValidatorConfig { trust_domains: written.collect(), ..SpiffeCertValidatorConfig::default() }
}

pub(super) fn read(secret: &Secret) -> Checked<TrustBundle> {
    let Some(Type::ValidationContext(context)) = &secret.r#type else {
        return wrong("type", "only a validation context is supported");
    };
    let name = secret.name.clone();
    let Some(custom) = &context.custom_validator_config else {
        let roots = read_inline(&context.trusted_ca, "validation_context.trusted_ca")?;
        return Ok(TrustBundle { name, roots, ..TrustBundle::default() });
    };
    let config: SpiffeCertValidatorConfig = unpack(need(&custom.typed_config, CUSTOM)?).at(CUSTOM)?;
    let domains = config.trust_domains.iter().enumerate().map(|(index, domain)| {
        let roots = read_inline(&domain.trust_bundle, "trust_bundle").at(format!("{CUSTOM}.trust_domains[{index}]"))?;
        Ok(TrustDomain { name: domain.name.clone(), roots })
    });
    let domains: Vec<_> = domains.collect::<Checked<_>>()?;
    same(&config, &write_domains(&domains)).at(CUSTOM)?;
    // Without any it would be written as roots for everyone.
    ensure(!domains.is_empty(), CUSTOM, || "names no trust domain; only its list of them is supported".to_owned())?;
    Ok(TrustBundle { name, domains, ..TrustBundle::default() })
}
