//! Who becomes a proxy: join tokens, certificates, renewals, streams; and who does not.

use std::{path::Path, time::Duration};

use control::api::{ControlEvent, Logged, TokenRequest};
use rcgen::{BasicConstraints, CertificateParams, DnType, Issuer, KeyPair, KeyUsagePurpose, SanType};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use xds::client::Update;

use super::{
    rig::{MANIFEST, Plane, Proxy, apply, ask, csr, placements, renew, token},
    status,
};

const WEB: &str = "spiffe://shop.example/service/web";

#[tokio::test]
async fn a_token_lets_one_key_of_its_proxy_in_once() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::shop(state.path()).await;
    let client = &plane.client;
    let (own, _) = csr();
    let given = token(client, "web-east-0").await;
    let first = ask(client, "web-east-0", &given, &own).await.unwrap();
    assert_eq!(first.spiffe_id, WEB);
    // The answer was lost: the same request gets another one.
    ask(client, "web-east-0", &given, &own).await.unwrap();
    let (other, _) = csr();
    let forms = |service: Option<&str>, gateway: Option<&str>, ttl_ms| TokenRequest {
        service: service.map(str::to_owned),
        gateway: gateway.map(str::to_owned),
        proxy: None,
        ttl_ms,
    };
    let short = client.create_token(&forms(Some("web"), None, 1000)).await.unwrap();
    let any = client.create_token(&forms(Some("web"), None, 60_000)).await.unwrap();
    for (name, secret, csr, expected) in [
        ("web-east-0", given.as_str(), other.as_str(), 401),
        ("web-east-0", "", &own, 401),
        ("web-east-0", "fdj_0", &own, 401),
        ("web-east-0", &token(client, "web-west-0").await, &own, 401),
        ("edge", &token(client, "web-east-0").await, &own, 401),
        ("web-east-0", &token(client, "edge").await, &own, 401),
        ("nobody", &any.token, &own, 404),
        ("web-east-0", &any.token, "", 400),
    ] {
        assert_eq!(status(ask(client, name, secret, csr).await), expected, "{name}");
    }
    // None of these used it up.
    assert_eq!(ask(client, "web-west-0", &any.token, &other).await.unwrap().spiffe_id, WEB);
    // A control plane that starts anew knows what was used.
    plane.kill().await;
    let plane = Plane::start(state.path()).await;
    let client = &plane.client;
    assert_eq!(status(ask(client, "web-east-0", &given, &other).await), 401);
    // It ends by the clock of the store.
    while now_ns() < short.expires.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(status(ask(client, "web-east-0", &short.token, &own).await), 401);
    let reasons = refusals(&plane).await;
    assert!(reasons.iter().any(|reason| reason.contains("used already")), "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason.contains("expired")), "{reasons:?}");
    assert!(reasons.iter().all(|reason| !reason.contains("fdj_")), "{reasons:?}");
    let counted = metrics(state.path()).await;
    for line in ["{reason=\"used_token\"} 1", "{reason=\"expired_token\"} 1"] {
        assert!(counted.contains(&format!("firedrill_joins_refused_total{line}\n")), "{counted}");
    }
    for (request, expected) in [
        (forms(None, None, 60_000), 400),
        (forms(Some("web"), Some("edge"), 60_000), 400),
        (forms(Some("no"), None, 60_000), 404),
        (forms(None, Some("no"), 60_000), 404),
        (forms(Some("web"), None, 999), 400),
        (forms(Some("web"), None, 86_400_001), 400),
    ] {
        assert_eq!(status(client.create_token(&request).await), expected, "{request:?}");
    }
    assert_eq!(status(client.with_token("x").create_token(&forms(Some("web"), None, 60_000)).await), 401);
    // Nothing that was handed out is in the store.
    let stored = std::fs::read(state.path().join("control.db")).unwrap();
    let log = std::fs::read(state.path().join("control.db-wal")).unwrap_or_default();
    for bytes in [stored, log] {
        assert!(!String::from_utf8_lossy(&bytes).contains("fdj_"));
    }
    plane.stop().await;
}

/// The wall clock, for comparison with what a store says.
fn now_ns() -> i64 {
    xds::clock::Clock::anchored().now().0
}

async fn refusals(plane: &Plane) -> Vec<String> {
    let events = plane.client.events(0, Duration::ZERO).await.unwrap().events;
    let refused = events.into_iter().filter_map(|entry| match entry.what {
        Logged::Control(
            ControlEvent::CertificateRefused { reason, .. } | ControlEvent::ProxyRefused { reason, .. },
        ) => Some(reason),
        _ => None,
    });
    refused.collect()
}

async fn metrics(state: &Path) -> String {
    let api = control::client::read_run_file(state).unwrap().api;
    let mut stream = TcpStream::connect(api).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {api}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_certificate_is_renewed_by_who_has_its_key() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::shop(state.path()).await;
    let client = &plane.client;
    let (first_csr, first_key) = csr();
    let first = ask(client, "web-east-0", &token(client, "web-east-0").await, &first_csr).await.unwrap();
    let (next_csr, next_key) = csr();
    let next = renew(client, "web-east-0", &first.certificate, &first_key, &next_csr).await.unwrap();
    assert_eq!(next.spiffe_id, WEB);
    let stranger = stranger(WEB);
    for (name, held, key, expected) in [
        ("web-east-0", first.certificate.as_str(), &next_key, 401),
        ("edge", &first.certificate, &first_key, 401),
        // A replica has the same id, and another name.
        ("web-west-0", &next.certificate, &next_key, 401),
        ("web-east-0", &stranger.0, &stranger.1, 401),
        ("web-east-0", "", &first_key, 401),
        ("nobody", &first.certificate, &first_key, 404),
    ] {
        assert_eq!(status(renew(client, name, held, key, &first_csr).await), expected, "{name}");
    }
    let reasons = refusals(&plane).await;
    assert!(reasons.iter().any(|reason| reason.contains("not signed by the key")), "{reasons:?}");
    plane.stop().await;
}

/// A certificate of another authority, which says the same.
fn stranger(id: &str) -> (String, KeyPair) {
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = Issuer::new(params, KeyPair::generate().unwrap());
    let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    (params.signed_by(&key, &authority).unwrap().pem(), key)
}

#[tokio::test]
async fn a_stream_is_for_the_proxy_of_its_certificate() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::shop(state.path()).await;
    let client = &plane.client;
    let (csr, key) = csr();
    let web = ask(client, "web-east-0", &token(client, "web-east-0").await, &csr).await.unwrap();
    let (web, web_key) = (web.certificate, key.serialize_pem());
    let other = stranger(WEB);
    let other = (other.0, other.1.serialize_pem());
    let cases = [
        ("edge", Some((web.as_str(), web_key.as_str())), "other_identity"),
        // A replica of the same service, whose stream it would take.
        ("web-west-0", Some((&web, &web_key)), "other_identity"),
        ("nobody", Some((&web, &web_key)), "unknown_proxy"),
        ("web-east-0", None, "nothing"),
        ("web-east-0", Some((&other.0, &other.1)), "certificate"),
    ];
    for (name, identity, reason) in cases {
        let mut proxy = Proxy::connect_with(state.path(), name, identity);
        let lost = |update| match update {
            Update::Lost { reason } => Some(reason),
            Update::Snapshot { .. } => panic!("a stranger was told the configuration"),
            _ => None,
        };
        proxy.wait_for(lost).await;
        plane.wait_for(0, |event| matches!(event, ControlEvent::ProxyRefused { .. })).await;
        let counted = metrics(state.path()).await;
        assert!(counted.contains(&format!("firedrill_joins_refused_total{{reason=\"{reason}\"}}")), "{counted}");
    }
    // Another trust domain is another identity.
    let moved = MANIFEST.replace("shop.example", "moved.example");
    client.apply(&apply(&moved)).await.unwrap();
    let mut proxy = Proxy::connect_with(state.path(), "web-east-0", Some((&web, &web_key)));
    let lost = |update| if let Update::Lost { reason } = update { Some(reason) } else { None };
    let reason = proxy.wait_for(lost).await;
    assert!(reason.contains("moved.example"), "{reason}");
    plane.stop().await;
}

#[tokio::test]
async fn a_certificate_says_what_the_placement_says() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::shop(state.path()).await;
    let client = &plane.client;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    // What a request claims is not believed.
    params.distinguished_name.push(DnType::CommonName, "root of all");
    params.subject_alt_names.push(SanType::URI("spiffe://shop.example/control".try_into().unwrap()));
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let secret = token(client, "web-east-0").await;
    let mut tampered: Vec<char> = csr.chars().collect();
    let middle = csr.len() - 80;
    tampered[middle] = if tampered[middle] == 'A' { 'B' } else { 'A' };
    let tampered: String = tampered.into_iter().collect();
    let huge = "A".repeat(20_000);
    let empty = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
    for broken in [empty, &tampered, &huge] {
        assert_eq!(status(ask(client, "web-east-0", &secret, broken).await), 400);
    }
    let given = ask(client, "web-east-0", &secret, &csr).await.unwrap();
    assert_eq!(given.spiffe_id, WEB);
    let (_, pem) = x509_parser::pem::parse_x509_pem(given.certificate.as_bytes()).unwrap();
    let leaf = pem.parse_x509().unwrap();
    assert_eq!(leaf.public_key().raw, rcgen::PublicKeyData::subject_public_key_info(&key));
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(*names, [x509_parser::extensions::GeneralName::URI(WEB)]);
    assert!(!leaf.subject().to_string().contains("root of all") && !leaf.is_ca());
    let seconds = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert_eq!(seconds, 24 * 3600 + 60);
    let edge = ask(client, "edge", &token(client, "edge").await, &csr).await.unwrap();
    assert_eq!(edge.spiffe_id, "spiffe://shop.example/gateway/edge");
    assert_eq!(client.placements().await.unwrap(), placements());
    plane.stop().await;
}
