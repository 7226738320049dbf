//! What a request costs: CPU time of the proxy, requests a second, latency, memory. Proxy on one core, load generator and
//! origins on the other; peers take turns, so that all of them see the machine's moods alike.

pub mod generator;
pub mod origin;

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use generator::{Load, Target};

use crate::{
    certificates,
    failure::Failure,
    machine::{PROXY_CORE, busy_micros},
    peer::{self, Place},
    probe::Speaks,
    process::Process,
    settings::{Settings, Variant},
    stats::{median, spread},
    table,
};

/// Requests at once: a proxy that is saturated, and one that waits.
const LOADS: [u32; 2] = [64, 1];
/// Before each measurement: connections are made, caches and branch predictors filled.
const WARM_UP: Duration = Duration::from_secs(1);
/// Of the proxy's core, used by others: above it a sample says little.
const NOISE: f64 = 0.1;
/// What ratios are to.
const BASE: &str = "envoy-sidecar";
/// The load without a proxy.
const DIRECT: &str = "direct";
const A: Ipv4Addr = Ipv4Addr::new(127, 77, 1, 1);
const B: Ipv4Addr = Ipv4Addr::new(127, 77, 1, 2);
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 77, 2, 1)), 18080);
const ADMIN_PORT: u16 = 18099;

/// One measurement of one peer.
#[derive(Clone, Copy, Debug)]
struct Sample {
    round: u32,
    load: Load,
    /// CPU time of the proxy, in microseconds.
    cpu: u64,
    /// Part of the proxy's core that others used.
    others: f64,
    /// Largest resident memory so far, in KiB.
    peak: u64,
}

impl Sample {
    fn cpu_of_a_request(&self) -> f64 {
        self.cpu as f64 / self.load.requests.max(1) as f64
    }

    fn rate(&self) -> f64 {
        self.load.requests as f64 * 1e6 / self.load.micros.max(1) as f64
    }

    fn utilisation(&self) -> f64 {
        self.cpu as f64 * 100.0 / self.load.micros.max(1) as f64
    }
}

type Samples = BTreeMap<(u32, String), Vec<Sample>>;

/// Measures one variant and prints its tables.
///
/// # Errors
/// When there are no origins or no load generator.
pub async fn run(settings: &Settings, variant: Variant) -> Result<(), Failure> {
    let folder = tempfile::tempdir().map_err(Failure::io("temporary folder"))?;
    let certificates = folder.path().join("certificates");
    fs::create_dir_all(&certificates).map_err(Failure::io("certificates"))?;
    certificates::write(&certificates)?;
    let _a = origin::start("a", A, &certificates, folder.path()).await?;
    let _b = origin::start("b", B, &certificates, folder.path()).await?;
    let place = Place {
        variant: variant.as_str(),
        speaks: if variant.h2_in() { Speaks::Http2 } else { Speaks::Http1 },
        listen: LISTEN,
        admin_port: ADMIN_PORT,
        a: A,
        b: B,
        up_port: origin::port(variant),
        certificates,
        more: Vec::new(),
    };
    let mut samples = Samples::new();
    let mut left_out = Vec::new();
    for round in 0..settings.rounds {
        for name in &settings.peers {
            if left_out.contains(name) {
                continue;
            }
            if let Err(why) = measure(settings, name, &place, round, folder.path(), &mut samples).await? {
                println!("# {} leaves {name} out: it {why}", variant.as_str());
                left_out.push(name.clone());
            }
        }
    }
    for at_once in LOADS {
        let title =
            format!("{} c{at_once}: {} rounds of {} s", variant.as_str(), settings.rounds, settings.span.as_secs());
        table::print(&title, &rows(&samples, at_once));
    }
    Ok(())
}

async fn measure(
    settings: &Settings,
    name: &str,
    place: &Place,
    round: u32,
    folder: &Path,
    samples: &mut Samples,
) -> Result<Result<(), String>, Failure> {
    let (proxy, address) = if name == DIRECT {
        let plain = matches!(place.variant, "h1" | "h2c");
        if !plain {
            return Ok(Err("is measured where the load generator speaks as the origin does".to_owned()));
        }
        (None, SocketAddr::from((place.a, place.up_port)))
    } else {
        match peer::start(name, place, &folder.join(name)).await? {
            Err(why) => return Ok(Err(why)),
            Ok(process) => (Some(process), place.listen),
        }
    };
    let cpu = || proxy.as_ref().map_or(0, Process::cpu_micros);
    for at_once in LOADS {
        let target = Target { address, h2: place.speaks == Speaks::Http2, host: None };
        let load = |span| generator::run(&target, at_once, span, folder);
        load(WARM_UP).await?;
        let before = (cpu(), busy_micros(PROXY_CORE));
        let seen = load(settings.span).await?;
        let (used, busy) = (cpu().saturating_sub(before.0), busy_micros(PROXY_CORE).saturating_sub(before.1));
        samples.entry((at_once, name.to_owned())).or_default().push(Sample {
            round,
            load: seen,
            cpu: used,
            others: busy.saturating_sub(used) as f64 / seen.micros.max(1) as f64,
            peak: proxy.as_ref().map_or(0, |proxy| proxy.status_kib("VmHWM")),
        });
    }
    Ok(Ok(()))
}

fn rows(samples: &Samples, at_once: u32) -> Vec<Vec<String>> {
    let header =
        ["peer", "noisy", "CPU µs/request", "req/s", "core %", "p50 µs", "p90 µs", "p99 µs", "peak MiB", "errors"];
    let ratios = ["CPU ÷", "req/s ÷", "p50 ÷"].map(|what| format!("{what} {BASE}"));
    let mut rows = vec![header.map(str::to_owned).into_iter().chain(ratios).collect::<Vec<_>>()];
    let base = samples.get(&(at_once, BASE.to_owned())).map(|all| kept(all).0).unwrap_or_default();
    let mut peers: Vec<_> = samples.iter().filter(|((load, _), _)| *load == at_once).collect();
    let cost = |all: &[Sample]| median(kept(all).0.iter().map(Sample::cpu_of_a_request)).unwrap_or_default();
    peers.sort_by(|a, b| cost(a.1).total_cmp(&cost(b.1)));
    for ((_, name), all) in peers {
        let (kept, noisy) = kept(all);
        let figures = |of: fn(&Sample) -> f64| kept.iter().map(of).collect::<Vec<_>>();
        let middle = |of: fn(&Sample) -> f64| median(figures(of)).map_or("-".to_owned(), |value| format!("{value:.0}"));
        // Of rounds, since the machine's speed drifts from one to the next.
        let ratio = |of: fn(&Sample) -> f64| {
            let pairs = kept.iter().filter_map(|s| Some((s, base.iter().find(|base| base.round == s.round)?)));
            median(pairs.map(|(sample, base)| of(sample) / of(base)))
                .map_or("-".to_owned(), |value| format!("{value:.2}"))
        };
        rows.push(vec![
            name.clone(),
            noisy.to_string(),
            spread(&figures(Sample::cpu_of_a_request), 1),
            spread(&figures(Sample::rate), 0),
            middle(Sample::utilisation),
            middle(|s| s.load.p50),
            middle(|s| s.load.p90),
            middle(|s| s.load.p99),
            format!("{:.0}", all.iter().map(|s| s.peak).max().unwrap_or_default() as f64 / 1024.0),
            all.iter().map(|s| s.load.errors).sum::<u64>().to_string(),
            ratio(Sample::cpu_of_a_request),
            ratio(Sample::rate),
            ratio(|s| s.load.p50),
        ]);
    }
    rows
}

/// The samples that count, and how many do not: those that others disturbed, unless all were.
fn kept(all: &[Sample]) -> (Vec<Sample>, usize) {
    let quiet: Vec<Sample> = all.iter().filter(|sample| sample.others <= NOISE).copied().collect();
    let noisy = all.len() - quiet.len();
    (if quiet.is_empty() { all.to_vec() } else { quiet }, noisy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32, cpu: u64, others: f64) -> Sample {
        let load = Load { requests: 100, micros: 1_000_000, errors: 0, p50: 10.0, p90: 20.0, p99: 30.0 };
        Sample { round, load, cpu, others, peak: 2048 }
    }

    #[test]
    fn ratios_are_within_a_round_and_noise_does_not_count() {
        let mut samples = Samples::new();
        let at = |name: &str| (64, name.to_owned());
        samples.insert(at(BASE), vec![sample(0, 4000, 0.0), sample(1, 8000, 0.0), sample(2, 4000, 0.0)]);
        samples.insert(at("ours"), vec![sample(0, 1000, 0.0), sample(1, 2000, 0.0), sample(2, 9000, 0.5)]);
        let rows = rows(&samples, 64);
        assert_eq!(rows[1][0], "ours", "the cheapest first");
        assert_eq!((rows[1][1].as_str(), rows[1][2].as_str(), rows[1][10].as_str()), ("1", "10.0 [10.0 20.0]", "0.25"));
        assert_eq!((rows[2][1].as_str(), rows[2][10].as_str()), ("0", "1.00"));
    }
}
