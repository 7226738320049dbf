//! Trust bundles ↔ `Secret` with a validation context.

use envoy_types::pb::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{CertificateValidationContext, Secret, secret::Type},
};

use super::wire::{Checked, ensure_name, need, wrong};
use crate::snapshot::TrustBundle;

pub(super) fn validate(bundle: &TrustBundle) -> Checked<()> {
    ensure_name(&bundle.name, "name")?;
    ensure_name(&bundle.roots, "roots")
}

pub(super) fn write(bundle: &TrustBundle) -> Secret {
    let roots = DataSource { specifier: Some(Specifier::InlineString(bundle.roots.clone())), ..DataSource::default() };
    Secret {
        name: bundle.name.clone(),
        r#type: Some(Type::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(roots),
            ..CertificateValidationContext::default()
        })),
    }
}

pub(super) fn read(secret: &Secret) -> Checked<TrustBundle> {
    let Some(Type::ValidationContext(context)) = &secret.r#type else {
        return wrong("type", "only a validation context is supported");
    };
    let Some(Specifier::InlineString(roots)) = &need(&context.trusted_ca, "validation_context.trusted_ca")?.specifier
    else {
        return wrong("validation_context.trusted_ca", "only inline text is supported");
    };
    Ok(TrustBundle { name: secret.name.clone(), roots: roots.clone() })
}
