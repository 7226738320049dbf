//! Which endpoint of a tier: load balancing policies and their tuning.

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::cluster::{
                LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig, RoundRobinLbConfig,
                SlowStartConfig,
            },
            core::v3::RuntimeDouble,
            route::v3::route_action::{
                HashPolicy,
                hash_policy::{ConnectionProperties, Cookie, Header, PolicySpecifier},
            },
        },
        r#type::v3::Percent,
    },
    google::protobuf::UInt64Value,
};

use super::wire::{
    At, Checked, duration, ensure, ensure_name, ensure_positive, need, number, read_duration, read_percent, wrong,
};
use crate::snapshot::{Balancer, Balancing, Cluster, HashKey, SlowStart, UpstreamProtocol};

/// Envoy's bounds.
const MOST_POINTS: u32 = 8 * 1024 * 1024;
const MOST_ENTRIES: u32 = 5_000_011;
/// A draw of more says no more.
const MOST_CHOICES: u32 = 100;

pub(super) fn validate(cluster: &Cluster) -> Checked<()> {
    let (balancer, given, usual) = (cluster.balancer, &cluster.balancing, Balancing::default());
    let fits = Balancing {
        choices: if balancer == Balancer::LeastRequest { given.choices } else { usual.choices },
        bias: if balancer == Balancer::LeastRequest { given.bias } else { usual.bias },
        ring_at_least: if balancer == Balancer::RingHash { given.ring_at_least } else { usual.ring_at_least },
        ring_at_most: if balancer == Balancer::RingHash { given.ring_at_most } else { usual.ring_at_most },
        table: if balancer == Balancer::Maglev { given.table } else { usual.table },
        hash: if balancer.is_hashing() { given.hash.clone() } else { usual.hash },
        slow_start: match balancer {
            Balancer::RoundRobin | Balancer::LeastRequest => given.slow_start.clone(),
            Balancer::PeakEwma | Balancer::RingHash | Balancer::Maglev => None,
        },
    };
    ensure(fits == *given, "lb_config", || format!("has tuning that does not concern {balancer:?}"))?;
    ensure((2..=MOST_CHOICES).contains(&given.choices), "lb_config.choice_count", || "must be 2 to 100".to_owned())?;
    ensure(given.bias.is_finite() && given.bias >= 0.0, "lb_config.active_request_bias", || {
        "must not be negative".to_owned()
    })?;
    let points = given.ring_at_least >= 1 && given.ring_at_least <= given.ring_at_most;
    ensure(points && given.ring_at_most <= MOST_POINTS, "lb_config.minimum_ring_size", || {
        "must be 1 to the maximum, which is at most 8388608".to_owned()
    })?;
    ensure(given.table <= MOST_ENTRIES && is_prime(given.table), "lb_config.table_size", || {
        "must be a prime up to 5000011".to_owned()
    })?;
    ensure(given.hash.is_empty() || cluster.protocol != UpstreamProtocol::Tcp, "hash_policy", || {
        "is not supported on TCP".to_owned()
    })?;
    for key in &given.hash {
        match key {
            HashKey::Header(name) => {
                let sendable = name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase());
                ensure(!name.is_empty() && sendable, "hash_policy.header", || {
                    format!("{name:?} is not a header's name in lower case")
                })?;
            }
            HashKey::Cookie(name) => ensure_name(name, "hash_policy.cookie")?,
            HashKey::SourceAddress => {}
        }
    }
    given.slow_start.iter().try_for_each(validate_slow_start)
}

fn validate_slow_start(slow_start: &SlowStart) -> Checked<()> {
    ensure_positive(slow_start.window, "slow_start_config.slow_start_window")?;
    ensure(slow_start.aggression.is_finite() && slow_start.aggression > 0.0, "slow_start_config.aggression", || {
        "must be above zero".to_owned()
    })?;
    ensure((1..=100).contains(&slow_start.at_least), "slow_start_config.min_weight_percent", || {
        "must be 1 to 100".to_owned()
    })
}

fn is_prime(number: u32) -> bool {
    let number = u64::from(number);
    number >= 2 && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| number % divisor != 0)
}

/// Envoy has no moving average of latencies; least request is what comes nearest.
pub(super) fn write(cluster: &Cluster) -> (LbPolicy, Option<LbConfig>) {
    let (given, usual) = (&cluster.balancing, Balancing::default());
    let slow_start_config = given.slow_start.as_ref().map(write_slow_start);
    match cluster.balancer {
        Balancer::RoundRobin => {
            let config = RoundRobinLbConfig { slow_start_config };
            let config = config.slow_start_config.is_some().then_some(LbConfig::RoundRobinLbConfig(config));
            (LbPolicy::RoundRobin, config)
        }
        Balancer::LeastRequest | Balancer::PeakEwma => {
            let config = LeastRequestLbConfig {
                choice_count: number(given.choices),
                active_request_bias: double(given.bias, "firedrill.active_request_bias"),
                slow_start_config,
            };
            let tuned = *given != usual;
            (LbPolicy::LeastRequest, tuned.then_some(LbConfig::LeastRequestLbConfig(config)))
        }
        Balancer::RingHash => {
            let config = RingHashLbConfig {
                minimum_ring_size: long(given.ring_at_least),
                maximum_ring_size: long(given.ring_at_most),
                ..RingHashLbConfig::default()
            };
            (LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(config)))
        }
        Balancer::Maglev => {
            let config = MaglevLbConfig { table_size: long(given.table) };
            (LbPolicy::Maglev, Some(LbConfig::MaglevLbConfig(config)))
        }
    }
}

fn write_slow_start(slow_start: &SlowStart) -> SlowStartConfig {
    SlowStartConfig {
        slow_start_window: duration(slow_start.window),
        aggression: double(slow_start.aggression, "firedrill.slow_start_aggression"),
        min_weight_percent: Some(Percent { value: f64::from(slow_start.at_least) }),
    }
}

/// Envoy wants a name under which the number could be overridden.
fn double(value: f64, runtime_key: &str) -> Option<RuntimeDouble> {
    Some(RuntimeDouble { default_value: value, runtime_key: runtime_key.to_owned() })
}

fn long(value: u32) -> Option<UInt64Value> {
    Some(UInt64Value { value: u64::from(value) })
}

/// What of a request is hashed.
pub(super) fn write_keys(keys: &[HashKey]) -> Vec<HashPolicy> {
    let specifier = |key: &HashKey| match key {
        HashKey::Header(name) => PolicySpecifier::Header(Header { header_name: name.clone(), ..Header::default() }),
        HashKey::Cookie(name) => PolicySpecifier::Cookie(Cookie { name: name.clone(), ..Cookie::default() }),
        HashKey::SourceAddress => PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }),
    };
    keys.iter().map(|key| HashPolicy { policy_specifier: Some(specifier(key)), ..HashPolicy::default() }).collect()
}

pub(super) fn read_keys(policies: &[HashPolicy]) -> Checked<Vec<HashKey>> {
    let key = |(index, policy): (usize, &HashPolicy)| match &policy.policy_specifier {
        Some(PolicySpecifier::Header(header)) => Ok(HashKey::Header(header.header_name.clone())),
        Some(PolicySpecifier::Cookie(cookie)) => Ok(HashKey::Cookie(cookie.name.clone())),
        Some(PolicySpecifier::ConnectionProperties(_)) => Ok(HashKey::SourceAddress),
        _ => wrong(format!("hash_policy[{index}]"), "only header, cookie and source address are supported"),
    };
    policies.iter().enumerate().map(key).collect()
}

/// Without the keys, which stand elsewhere.
pub(super) fn read(policy: i32, config: Option<&LbConfig>, peak_ewma: bool) -> Checked<(Balancer, Balancing)> {
    let balancer = match LbPolicy::try_from(policy) {
        Ok(LbPolicy::RoundRobin) => Balancer::RoundRobin,
        Ok(LbPolicy::LeastRequest) if peak_ewma => Balancer::PeakEwma,
        Ok(LbPolicy::LeastRequest) => Balancer::LeastRequest,
        Ok(LbPolicy::RingHash) => Balancer::RingHash,
        Ok(LbPolicy::Maglev) => Balancer::Maglev,
        Ok(other) => return wrong("lb_policy", format!("{} is not supported", other.as_str_name())),
        Err(_) => return wrong("lb_policy", format!("{policy} is not supported")),
    };
    let mut balancing = Balancing::default();
    match config {
        None => {}
        Some(LbConfig::RoundRobinLbConfig(config)) => {
            balancing.slow_start = read_slow_start(config.slow_start_config.as_ref())?;
        }
        Some(LbConfig::LeastRequestLbConfig(config)) => {
            balancing.choices = need(&config.choice_count, "least_request_lb_config.choice_count")?.value;
            balancing.bias =
                need(&config.active_request_bias, "least_request_lb_config.active_request_bias")?.default_value;
            balancing.slow_start = read_slow_start(config.slow_start_config.as_ref())?;
        }
        Some(LbConfig::RingHashLbConfig(config)) => {
            balancing.ring_at_least = short(&config.minimum_ring_size, "ring_hash_lb_config.minimum_ring_size")?;
            balancing.ring_at_most = short(&config.maximum_ring_size, "ring_hash_lb_config.maximum_ring_size")?;
        }
        Some(LbConfig::MaglevLbConfig(config)) => {
            balancing.table = short(&config.table_size, "maglev_lb_config.table_size")?;
        }
        Some(LbConfig::OriginalDstLbConfig(_)) => return wrong("original_dst_lb_config", "is not supported"),
    }
    Ok((balancer, balancing))
}

fn short(field: &Option<UInt64Value>, path: &str) -> Checked<u32> {
    let value = need(field, path)?.value;
    u32::try_from(value).or_else(|_| wrong(path, format!("{value} is not supported")))
}

fn read_slow_start(config: Option<&SlowStartConfig>) -> Checked<Option<SlowStart>> {
    let Some(config) = config else { return Ok(None) };
    let read = || {
        Ok(SlowStart {
            window: read_duration(&config.slow_start_window, "slow_start_window")?,
            aggression: need(&config.aggression, "aggression")?.default_value,
            at_least: read_percent(&config.min_weight_percent, "min_weight_percent")?,
        })
    };
    read().at("slow_start_config").map(Some)
}
