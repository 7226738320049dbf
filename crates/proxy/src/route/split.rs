//! Which of a route's clusters a request goes to.

use http::{HeaderValue, request::Parts};
use xds::snapshot::{Forward, Sticky};

use super::matching::cookie;

/// A cluster, and what keeps the caller with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    /// Cluster name.
    pub cluster: &'a str,
    /// A `set-cookie` for the caller.
    pub cookie: Option<HeaderValue>,
}

/// Chooses by weight: what is sticky decides by its hash, all else is drawn. `None` if no cluster has a weight.
pub fn choose<'a>(forward: &'a Forward, request: &Parts, random: &mut fastrand::Rng) -> Option<Choice<'a>> {
    if let [only] = forward.clusters.as_slice() {
        return Some(Choice { cluster: &only.cluster, cookie: None });
    }
    let (point, cookie) = match &forward.sticky {
        None => (random.u64(..), None),
        Some(sticky) => sticky_point(sticky, request, random),
    };
    Some(Choice { cluster: at(forward, point)?, cookie })
}

/// The cluster at a point of the whole range of numbers, which the clusters share in their order. So a changed weight
/// moves only those callers that stand where a boundary moved.
fn at(forward: &Forward, point: u64) -> Option<&str> {
    let total: u64 = forward.clusters.iter().map(|choice| u64::from(choice.weight)).sum();
    let mut drawn = u64::try_from((u128::from(point) * u128::from(total)) >> 64).ok()?;
    for choice in &forward.clusters {
        if drawn < u64::from(choice.weight) {
            return Some(&choice.cluster);
        }
        drawn -= u64::from(choice.weight);
    }
    None
}

fn sticky_point(sticky: &Sticky, request: &Parts, random: &mut fastrand::Rng) -> (u64, Option<HeaderValue>) {
    let value = match sticky {
        Sticky::Header(name) => request.headers.get(name).map(HeaderValue::as_bytes),
        Sticky::Cookie { name, .. } => cookie(&request.headers, name),
    };
    match (value, sticky) {
        (Some(value), _) => (hash(value), None),
        (None, Sticky::Cookie { name, ttl: Some(ttl) }) => {
            let value = format!("{:016x}", random.u64(..));
            let age = if ttl.is_zero() { String::new() } else { format!("; Max-Age={}", ttl.as_secs().max(1)) };
            let cookie = HeaderValue::try_from(format!("{name}={value}{age}; Path=/; HttpOnly"));
            (hash(value.as_bytes()), cookie.ok())
        }
        (None, _) => (random.u64(..), None),
    }
}

/// FNV-1a with the finalizer of MurmurHash3: the same at every proxy, and even over its whole range for short values.
fn hash(value: &[u8]) -> u64 {
    let fnv = value
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use xds::snapshot::WeightedCluster;

    use super::*;

    fn forward(weights: &[(&str, u32)], sticky: Option<Sticky>) -> Forward {
        let cluster = |(name, weight): &(&str, u32)| WeightedCluster { cluster: (*name).to_owned(), weight: *weight };
        Forward { clusters: weights.iter().map(cluster).collect(), sticky, ..Forward::default() }
    }

    fn request(headers: &[(&str, &str)]) -> Parts {
        let request = headers.iter().fold(http::Request::get("/"), |r, (k, v)| r.header(*k, *v));
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn shares_follow_the_weights() {
        let mut random = fastrand::Rng::with_seed(9);
        for sticky in [None, Some(Sticky::Header("x-user".into()))] {
            let forward = forward(&[("a", 90), ("none", 0), ("b", 10)], sticky);
            let mut b = 0;
            for user in 0..20_000 {
                let request = request(&[("x-user", &format!("user-{user}"))]);
                match choose(&forward, &request, &mut random).unwrap().cluster {
                    "b" => b += 1,
                    other => assert_eq!(other, "a"),
                }
            }
            assert!((1850..2150).contains(&b), "{b}");
        }
        assert_eq!(choose(&forward(&[("a", 0), ("b", 0)], None), &request(&[]), &mut random), None);
    }

    #[test]
    fn a_user_stays_and_only_those_at_the_boundary_move() {
        let sticky = Some(Sticky::Header("x-user".into()));
        let (before, after) =
            (forward(&[("a", 90), ("b", 10)], sticky.clone()), forward(&[("a", 80), ("b", 20)], sticky));
        let mut random = fastrand::Rng::with_seed(9);
        for user in 0..2_000 {
            let request = request(&[("x-user", &format!("user-{user}"))]);
            let first = choose(&before, &request, &mut random).unwrap();
            assert_eq!(choose(&before, &request, &mut random).unwrap(), first);
            // The share of `b` grew: nobody leaves it.
            let then = choose(&after, &request, &mut random).unwrap();
            assert!(first.cluster == "a" || then.cluster == "b", "{user}");
        }
    }

    #[test]
    fn a_missing_cookie_is_set_and_leads_to_the_same_cluster() {
        let sticky = |ttl| Some(Sticky::Cookie { name: "variant".into(), ttl });
        let forward = |ttl| forward(&[("a", 50), ("b", 50)], sticky(ttl));
        let mut random = fastrand::Rng::with_seed(9);
        for _ in 0..100 {
            let forward = forward(Some(Duration::from_secs(60)));
            let first = choose(&forward, &request(&[]), &mut random).unwrap();
            let set = first.cookie.unwrap().to_str().unwrap().to_owned();
            let (pair, attributes) = set.split_once(';').unwrap();
            assert_eq!(attributes, " Max-Age=60; Path=/; HttpOnly");
            let again = choose(&forward, &request(&[("cookie", &format!("x=1; {pair}"))]), &mut random).unwrap();
            assert_eq!(again, Choice { cluster: first.cluster, cookie: None });
        }
        let session = choose(&forward(Some(Duration::ZERO)), &request(&[]), &mut random).unwrap().cookie.unwrap();
        assert!(
            session.to_str().unwrap().ends_with("; Path=/; HttpOnly") && !session.to_str().unwrap().contains("Age")
        );
        assert_eq!(choose(&forward(None), &request(&[]), &mut random).unwrap().cookie, None);
    }
}
