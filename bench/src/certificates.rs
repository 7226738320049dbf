//! A certificate authority for one run, with a server's and a client's certificate (P-256), for `mtls`.

use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

use crate::failure::Failure;

/// Writes `ca.pem`, `server.pem`, `server.key`, `client.pem` and `client.key`.
///
/// # Errors
/// When they cannot be made or written.
pub fn write(folder: &Path) -> Result<(), Failure> {
    let failed = |error: rcgen::Error| Failure::Program(format!("certificates: {error}"));
    let file = |name: String, text: String| {
        fs::write(folder.join(&name), text).map_err(Failure::io(format!("{}/{name}", folder.display())))
    };
    let key = KeyPair::generate().map_err(failed)?;
    let mut root = CertificateParams::default();
    // Names must differ, or a certificate looks as if it had signed itself.
    root.distinguished_name.push(DnType::CommonName, "bench");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = root.self_signed(&key).map_err(failed)?;
    file("ca.pem".to_owned(), certificate.pem())?;
    let issuer = Issuer::new(root, key);
    for name in ["server", "client"] {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new([format!("{name}.rig.local")]).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, name);
        let id = format!("spiffe://rig.local/{name}").try_into().map_err(failed)?;
        params.subject_alt_names.push(SanType::URI(id));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
        file(format!("{name}.pem"), certificate.pem())?;
        file(format!("{name}.key"), key.serialize_pem())?;
    }
    Ok(())
}
