//! What is measured, from the environment.

use std::{env, str::FromStr, time::Duration};

use crate::{
    failover::{Kind, Mode, Plan},
    failure::Failure,
};

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// CPU a request, throughput and latency.
    Cost(Variant),
    /// What callers notice when the primary is lost and comes back.
    Failover,
    /// What our proxy holds in memory.
    Memory,
    /// What a large snapshot costs our proxy.
    Scale,
    /// What a control plane bears.
    Control,
}

/// What is spoken before and behind the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// HTTP/1.1 on both sides.
    H1,
    /// HTTP/1.1, to the origin over mutual TLS 1.3.
    Mtls,
    /// Cleartext HTTP/2 on both sides.
    H2c,
    /// Cleartext HTTP/2 in, HTTP/1.1 out.
    H2h1,
}

impl Variant {
    const ALL: [Self; 4] = [Self::H1, Self::Mtls, Self::H2c, Self::H2h1];

    /// As peers' scripts know it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::H1 => "h1",
            Self::Mtls => "mtls",
            Self::H2c => "h2c",
            Self::H2h1 => "h2h1",
        }
    }

    /// Whether callers speak HTTP/2.
    pub fn h2_in(self) -> bool {
        matches!(self, Self::H2c | Self::H2h1)
    }
}

/// What is measured, and for how long.
#[derive(Clone, Debug)]
pub struct Settings {
    /// In this order.
    pub parts: Vec<Part>,
    /// Names of peers' scripts, with their flavour after a dash.
    pub peers: Vec<String>,
    /// Each peer is measured this often, in turns.
    pub rounds: u32,
    /// Length of one measurement.
    pub span: Duration,
    /// Of [`Part::Failover`].
    pub failover: Plan,
    /// Of [`Part::Memory`]: how long connections and snapshots come and go.
    pub churn: Duration,
}

impl Settings {
    /// From `BENCH`, `PEERS`, `ROUNDS` and `SECS`, for failovers `FAILOVER`, `KINDS`, `MODES`, `RATE`, `OUTAGE` and `BACK`,
    /// and for memory `CHURN`; each has a default.
    ///
    /// # Errors
    /// When one cannot be understood.
    pub fn read() -> Result<Self, Failure> {
        let parts = words("BENCH", "h1 mtls h2c h2h1 failover memory scale control");
        let parts = parts.iter().map(|word| part(word)).collect::<Result<_, _>>()?;
        let peers = words("PEERS", "direct envoy-sidecar haproxy nginx firedrill");
        let span = Duration::from_secs(number("SECS", 4)?);
        let rounds = number("ROUNDS", 3)?;
        if span.is_zero() || rounds == 0 {
            return Err(Failure::Usage("ROUNDS and SECS are at least 1".to_owned()));
        }
        let churn = Duration::from_secs(number("CHURN", 60)?);
        Ok(Self { parts, peers, rounds, span, failover: failover()?, churn })
    }
}

fn part(word: &str) -> Result<Part, Failure> {
    let mut known: Vec<(&str, Part)> = Variant::ALL.map(|variant| (variant.as_str(), Part::Cost(variant))).into();
    known.extend([
        ("failover", Part::Failover),
        ("memory", Part::Memory),
        ("scale", Part::Scale),
        ("control", Part::Control),
    ]);
    one_of("BENCH", word, &known)
}

/// Ours carries every kind of request; the others those that show what they do.
fn failover() -> Result<Plan, Failure> {
    let ours = [Kind::Get, Kind::Post, Kind::H2Get, Kind::H2Post, Kind::Grpc, Kind::Tcp];
    let every = ours.map(|kind| (kind.as_str(), kind));
    let asked = words("KINDS", "");
    let asked = asked.iter().map(|word| one_of("KINDS", word, &every)).collect::<Result<Vec<_>, _>>()?;
    let peers =
        words("FAILOVER", "envoy-istio envoy-tuned haproxy-tuned nginx-tuned firedrill").into_iter().map(|name| {
            let kinds = match (asked.is_empty(), name.as_str()) {
                (false, _) => asked.clone(),
                (true, "firedrill") => ours.into(),
                (true, _) => vec![Kind::Get, Kind::Post],
            };
            (name, kinds)
        });
    let every = Mode::ALL.map(|mode| (mode.as_str(), mode));
    let modes = words("MODES", &Mode::ALL.map(Mode::as_str).join(" "));
    Ok(Plan {
        peers: peers.collect(),
        modes: modes.iter().map(|word| one_of("MODES", word, &every)).collect::<Result<_, _>>()?,
        rate: number("RATE", 500)?,
        outage: Duration::from_secs(number("OUTAGE", 10)?),
        back: Duration::from_secs(number("BACK", 20)?),
    })
}

fn one_of<T: Copy>(name: &str, word: &str, known: &[(&str, T)]) -> Result<T, Failure> {
    known.iter().find(|(known, _)| *known == word).map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
        Failure::Usage(format!("{name}: there is no `{word}`; there are {}", known.join(", ")))
    })
}

/// Separated by spaces or commas.
fn words(name: &str, default: &str) -> Vec<String> {
    let text = env::var(name).unwrap_or_else(|_| default.to_owned());
    text.split([' ', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn number<T: FromStr>(name: &str, default: T) -> Result<T, Failure> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().map_err(|_| Failure::Usage(format!("{name}: `{text}` is not a number"))),
    }
}
