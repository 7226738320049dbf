//! A certificate authority for tests.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType, string::Ia5String,
};

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn pem(&self) -> String {
        self.pem.clone()
    }

    pub fn service(name: &str) -> String {
        format!("spiffe://bank.example/service/{name}")
    }

    /// Certificate and key of a service, PEM.
    pub fn issue(&self, service: &str) -> (String, String) {
        self.issue_id(&Self::service(service))
    }

    pub fn issue_id(&self, id: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        dress(&mut params, id);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// The same with DNS names.
    pub fn issue_names(&self, id: &str, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        dress(&mut params, id);
        let names = names.iter().map(|name| SanType::DnsName(Ia5String::try_from(*name).unwrap()));
        params.subject_alt_names.extend(names);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Signs a request for this id.
    pub fn sign(&self, csr: &str, id: &str) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        dress(&mut request.params, id);
        request.signed_by(&self.issuer).unwrap().pem()
    }
}

fn dress(params: &mut CertificateParams, id: &str) {
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id).unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
}
