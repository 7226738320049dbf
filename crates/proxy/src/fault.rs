//! Faults made here: which of them take a request, and what becomes of it. Pure, with the random source handed in.
//!
//! A fault without a region hurts the request before an endpoint is chosen, as Envoy's fault filter does; a fault with
//! a region is what the endpoint of that region does to a try, so it is seen by retries and by outlier detection.

use std::time::Duration;

use http::{StatusCode, request::Parts};
use xds::{
    overlay::{Delay, Effect, Fault, FaultAction, FaultMatch, Overlay, TlsFault},
    snapshot::RouteFault,
};

use crate::{grpc, retry::Failure};

/// What happens to a request or a try.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hit {
    /// Waits first.
    pub delay: Option<Duration>,
    /// Then this, instead of going on.
    pub instead: Option<Instead>,
    /// Or goes on, and its bodies meet this.
    pub shape: Shape,
    /// The overlays that took it.
    pub overlays: Vec<String>,
}

/// What happens instead of an exchange with the endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Instead {
    /// It is answered.
    Answer {
        /// To a client of plain HTTP.
        status: StatusCode,
        /// To a gRPC client.
        grpc: u8,
    },
    /// The try fails, with words for people.
    Fail(Failure, &'static str),
    /// It never ends.
    Hang,
    /// No connection is made until the connect timeout.
    NoConnection,
}

/// What happens to the bodies of an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shape {
    /// Where the response's body ends, and how.
    pub cut: Option<Cut>,
    /// Bytes in a second, each way.
    pub rate: Option<u64>,
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// Bytes that pass.
    pub after: u64,
    /// Whether it then looks whole, rather than broken off.
    pub whole: bool,
}

impl Hit {
    /// Its kinds, for metrics.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> {
        let instead = self.instead.map(|instead| match instead {
            Instead::Answer { .. } => "abort",
            Instead::Fail(Failure::Reset, _) => "reset",
            Instead::Fail(..) => "connect",
            Instead::Hang => "blackhole",
            Instead::NoConnection => "dropConnect",
        });
        let cut = self.shape.cut.map(|cut| if cut.whole { "truncate" } else { "reset" });
        let (delay, rate) = (self.delay.map(|_| "delay"), self.shape.rate.map(|_| "bandwidth"));
        [delay, instead, cut, rate].into_iter().flatten()
    }

    /// Adds what happens at the endpoint: where both do the same, this one is first.
    pub fn and(mut self, then: Self) -> Self {
        self.delay = self.delay.or(then.delay);
        self.instead = self.instead.or(then.instead);
        self.shape.cut = self.shape.cut.or(then.shape.cut);
        self.shape.rate = self.shape.rate.or(then.shape.rate);
        self.overlays.extend(then.overlays);
        self
    }

    /// Takes an action, if none of its kind was taken before. Returns whether it was taken.
    fn take(&mut self, action: &FaultAction, random: &mut fastrand::Rng) -> bool {
        match action {
            FaultAction::Delay(delay) => fill(&mut self.delay, || sample(*delay, random)),
            FaultAction::Bandwidth { bytes_per_second } => fill(&mut self.shape.rate, || *bytes_per_second),
            FaultAction::ResetAfter { bytes } => fill(&mut self.shape.cut, || Cut { after: *bytes, whole: false }),
            FaultAction::Truncate { bytes } => fill(&mut self.shape.cut, || Cut { after: *bytes, whole: true }),
            FaultAction::Abort { status } => fill(&mut self.instead, || {
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                Instead::Answer { status, grpc: grpc::of_http(status) }
            }),
            FaultAction::AbortGrpc { status } => {
                fill(&mut self.instead, || Instead::Answer { status: grpc::to_http(*status), grpc: *status })
            }
            FaultAction::Blackhole => fill(&mut self.instead, || Instead::Hang),
            FaultAction::DropConnect => fill(&mut self.instead, || Instead::NoConnection),
            FaultAction::Refuse => self.fail(Failure::Connect, "connection refused by a fault"),
            FaultAction::Reset => self.fail(Failure::Reset, "connection reset by a fault"),
            FaultAction::Dns => self.fail(Failure::Connect, "name not resolved, by a fault"),
            FaultAction::Tls(why) => self.fail(
                Failure::Connect,
                match why {
                    TlsFault::Expired => "certificate expired, by a fault",
                    TlsFault::Untrusted => "certificate of an unknown issuer, by a fault",
                    TlsFault::WrongIdentity => "certificate of another service, by a fault",
                },
            ),
        }
    }

    fn fail(&mut self, failure: Failure, cause: &'static str) -> bool {
        fill(&mut self.instead, || Instead::Fail(failure, cause))
    }
}

fn fill<T>(place: &mut Option<T>, with: impl FnOnce() -> T) -> bool {
    let empty = place.is_none();
    if empty {
        *place = Some(with());
    }
    empty
}

/// How long one request waits.
fn sample(delay: Delay, random: &mut fastrand::Rng) -> Duration {
    match delay {
        Delay::Fixed(fixed) => fixed,
        Delay::Normal { mean, deviation } => {
            // Box and Muller (1958); of the unit interval without zero, which has no logarithm.
            let (u, v) = (1.0 - random.f64(), random.f64());
            let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
            let seconds = mean.as_secs_f64() + normal.clamp(-4.0, 4.0) * deviation.as_secs_f64();
            Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(mean)
        }
        Delay::Spike { base, spike, percent } => {
            if hits(percent, random) {
                spike
            } else {
                base
            }
        }
    }
}

fn hits(percent: f64, random: &mut fastrand::Rng) -> bool {
    random.f64() * 100.0 < percent
}

/// What the faults of a route's configuration do to a request. Each is drawn independently; the first of each kind that
/// hits is taken.
pub fn standing(faults: &[RouteFault], random: &mut fastrand::Rng) -> Hit {
    let mut hit = Hit::default();
    for fault in faults {
        if hits(fault.percent, random) {
            hit.take(&fault.action, random);
        }
    }
    hit
}

/// Of a request, what faults look at.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The service that it goes to.
    pub service: &'a str,
    /// SPIFFE id of who asks, if it has one.
    pub caller: Option<&'a str>,
    /// As the caller wrote it.
    pub head: &'a Parts,
}

/// The faults among the overlays.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    active: Vec<(String, Fault)>,
}

impl Faults {
    /// From active overlays, in order of their ids, so that what happens does not depend on who came first.
    pub fn new(overlays: &[Overlay]) -> Self {
        let mut active: Vec<_> = overlays
            .iter()
            .filter_map(|overlay| match &overlay.effect {
                Effect::Fault(fault) => Some((overlay.id.clone(), fault.clone())),
                Effect::CutOff { .. } | Effect::NoControl | Effect::Switch(_) | Effect::Harmless => None,
            })
            .collect();
        active.sort_by(|a, b| a.0.cmp(&b.0));
        Self { active }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// Those that may take this request, here or at some endpoint.
    pub fn of(&self, asked: &Asked<'_>) -> Self {
        let fits = |(_, fault): &&(String, Fault)| matches(&fault.matches, asked);
        Self { active: self.active.iter().filter(fits).cloned().collect() }
    }

    /// What a request meets that all of these may take: before the choice of an endpoint (`region` is `None`), or at an
    /// endpoint. Each is drawn independently; the first of each kind that hits is taken.
    pub fn draw(&self, region: Option<&str>, random: &mut fastrand::Rng) -> Hit {
        let mut hit = Hit::default();
        for (id, fault) in self.active.iter().filter(|(_, fault)| fault.matches.region.as_deref() == region) {
            if hits(fault.percent, random) && hit.take(&fault.action, random) {
                hit.overlays.push(id.clone());
            }
        }
        hit
    }
}

fn matches(condition: &FaultMatch, asked: &Asked<'_>) -> bool {
    let FaultMatch { service: to, region: _, path, method, header, caller } = condition;
    let Asked { service, caller: id, head } = asked;
    to.as_deref().is_none_or(|to| to == *service)
        && path.as_deref().is_none_or(|prefix| head.uri.path().starts_with(prefix))
        && method.as_deref().is_none_or(|method| method == head.method.as_str())
        && caller.as_deref().is_none_or(|caller| *id == Some(caller))
        && header.as_ref().is_none_or(|(name, value)| {
            head.headers.get_all(name.as_str()).iter().any(|found| found.as_bytes() == value.as_bytes())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(id: &str, matches: FaultMatch, percent: f64, action: FaultAction) -> Overlay {
        let effect = Effect::Fault(Fault { matches, percent, action });
        Overlay { id: id.into(), reason: "test".into(), effect }
    }

    fn request() -> Parts {
        let request = http::Request::get("/v1/rates?x=1").header("x-user", "canary").body(()).unwrap();
        request.into_parts().0
    }

    fn asked(head: &Parts) -> Asked<'_> {
        Asked { service: "fx", caller: Some("spiffe://bank/service/accounts"), head }
    }

    #[test]
    fn every_condition_counts() {
        let some = |text: &str| Some(text.to_owned());
        let cases = [
            (FaultMatch::default(), true),
            (FaultMatch { service: some("fx"), ..Default::default() }, true),
            (FaultMatch { service: some("ledger"), ..Default::default() }, false),
            (FaultMatch { path: some("/v1/"), ..Default::default() }, true),
            (FaultMatch { path: some("/v2/"), ..Default::default() }, false),
            (FaultMatch { method: some("GET"), ..Default::default() }, true),
            (FaultMatch { method: some("POST"), ..Default::default() }, false),
            (FaultMatch { header: Some(("x-user".into(), "canary".into())), ..Default::default() }, true),
            (FaultMatch { header: Some(("x-user".into(), "other".into())), ..Default::default() }, false),
            (FaultMatch { caller: some("spiffe://bank/service/accounts"), ..Default::default() }, true),
            (FaultMatch { caller: some("spiffe://bank/service/other"), ..Default::default() }, false),
            (FaultMatch { region: some("east"), ..Default::default() }, false),
        ];
        let head = request();
        for (matches, expected) in cases {
            let faults = Faults::new(&[overlay("a", matches.clone(), 100.0, FaultAction::Blackhole)]);
            let hit = faults.of(&asked(&head)).draw(None, &mut fastrand::Rng::with_seed(1));
            assert_eq!(hit.instead, expected.then_some(Instead::Hang), "{matches:?}");
        }
    }

    #[test]
    fn a_region_is_matched_at_the_endpoint() {
        let matches = FaultMatch { region: Some("east".into()), ..Default::default() };
        let faults = Faults::new(&[overlay("a", matches, 100.0, FaultAction::Refuse)]);
        let (head, mut random) = (request(), fastrand::Rng::with_seed(1));
        let faults = faults.of(&asked(&head));
        let refused = Instead::Fail(Failure::Connect, "connection refused by a fault");
        assert_eq!(faults.draw(Some("east"), &mut random).instead, Some(refused));
        assert_eq!(faults.draw(Some("west"), &mut random), Hit::default());
    }

    #[test]
    fn kinds_are_drawn_independently() {
        let delay = FaultAction::Delay(Delay::Fixed(Duration::from_millis(5)));
        let faults = Faults::new(&[
            overlay("b", FaultMatch::default(), 30.0, FaultAction::Abort { status: 503 }),
            overlay("a", FaultMatch::default(), 50.0, delay),
        ]);
        let mut random = fastrand::Rng::with_seed(42);
        let (mut delayed, mut aborted, mut both) = (0, 0, 0);
        for _ in 0..10_000 {
            let hit = faults.draw(None, &mut random);
            delayed += u32::from(hit.delay.is_some());
            aborted += u32::from(hit.instead.is_some());
            both += u32::from(hit.overlays.len() == 2);
        }
        assert!((4800..5200).contains(&delayed), "{delayed}");
        assert!((2800..3200).contains(&aborted), "{aborted}");
        assert!((1350..1650).contains(&both), "{both}");
    }

    #[test]
    fn the_first_of_a_kind_is_taken() {
        let faults = |actions: &[FaultAction]| {
            let laid = |(n, action): (usize, &FaultAction)| {
                overlay(&format!("{n}"), FaultMatch::default(), 100.0, action.clone())
            };
            Faults::new(&actions.iter().enumerate().map(laid).collect::<Vec<_>>())
        };
        let mut random = fastrand::Rng::with_seed(1);
        let cut = FaultAction::ResetAfter { bytes: 7 };
        let hit = faults(&[cut, FaultAction::Truncate { bytes: 9 }, FaultAction::Bandwidth { bytes_per_second: 5 }])
            .draw(None, &mut random);
        let shape = Shape { cut: Some(Cut { after: 7, whole: false }), rate: Some(5) };
        assert_eq!((hit.shape, hit.instead, hit.overlays.len()), (shape, None, 2));
        assert_eq!(hit.kinds().collect::<Vec<_>>(), ["reset", "bandwidth"]);
        let hit =
            faults(&[FaultAction::AbortGrpc { status: 8 }, FaultAction::Abort { status: 404 }]).draw(None, &mut random);
        assert_eq!(hit.instead, Some(Instead::Answer { status: StatusCode::TOO_MANY_REQUESTS, grpc: 8 }));
        let before = Hit { delay: Some(Duration::ZERO), overlays: vec!["x".into()], ..Hit::default() };
        let hit = before.and(faults(&[FaultAction::Abort { status: 404 }]).draw(None, &mut random));
        assert_eq!(hit.instead, Some(Instead::Answer { status: StatusCode::NOT_FOUND, grpc: 12 }));
        assert_eq!((hit.delay, hit.overlays), (Some(Duration::ZERO), vec!["x".into(), "0".into()]));
    }

    #[test]
    fn delays_have_the_shape_that_was_asked_for() {
        let (ten, hundred) = (Duration::from_millis(10), Duration::from_millis(100));
        let mut random = fastrand::Rng::with_seed(3);
        let mut all = |delay| (0..10_000).map(|_| sample(delay, &mut random).as_secs_f64() * 1e3).collect::<Vec<_>>();
        assert!(all(Delay::Fixed(ten)).iter().all(|ms| *ms == 10.0));
        let normal = all(Delay::Normal { mean: hundred, deviation: ten });
        let mean = normal.iter().sum::<f64>() / 1e4;
        let deviation = (normal.iter().map(|ms| (ms - mean).powi(2)).sum::<f64>() / 1e4).sqrt();
        assert!((99.5..100.5).contains(&mean) && (9.7..10.3).contains(&deviation), "{mean} {deviation}");
        assert!(normal.iter().all(|ms| (60.0..=140.0).contains(ms)));
        let below_zero = all(Delay::Normal { mean: ten, deviation: hundred });
        assert!(below_zero.iter().all(|ms| *ms >= 0.0) && below_zero.contains(&0.0));
        let spikes = all(Delay::Spike { base: ten, spike: hundred, percent: 5.0 });
        let high = spikes.iter().filter(|ms| **ms == 100.0).count();
        assert!((430..570).contains(&high), "{high}");
    }

    #[test]
    fn a_route_may_have_standing_faults() {
        let faults = [
            RouteFault { percent: 0.0, action: FaultAction::Blackhole },
            RouteFault { percent: 100.0, action: FaultAction::Dns },
        ];
        let hit = standing(&faults, &mut fastrand::Rng::with_seed(1));
        assert_eq!(hit.instead, Some(Instead::Fail(Failure::Connect, "name not resolved, by a fault")));
        assert_eq!((hit.overlays.len(), standing(&[], &mut fastrand::Rng::with_seed(1))), (0, Hit::default()));
    }
}
