//! Faults made here: which of the active ones take a request. Pure, with the random source handed in.
//!
//! A fault without a region hurts the request before an endpoint is chosen, as Envoy's fault filter does; a fault with
//! a region is what the endpoint of that region does to a try, so it is seen by retries and by outlier detection.

use std::time::Duration;

use http::request::Parts;
use xds::overlay::{Effect, Fault, FaultAction, FaultMatch, Overlay};

/// What happens to a request or a try.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hit {
    /// Waits first.
    pub delay: Option<Duration>,
    /// Then this, instead of going on.
    pub action: Option<FaultAction>,
    /// The overlays that took it.
    pub overlays: Vec<String>,
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
                Effect::CutOff { .. } | Effect::Switch(_) | Effect::Harmless => None,
            })
            .collect();
        active.sort_by(|a, b| a.0.cmp(&b.0));
        Self { active }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// What a request to `service` meets: before the choice of an endpoint (`region` is `None`), or at an endpoint.
    /// Delays and the rest are drawn independently; the first of each kind that hits is taken.
    pub fn draw(&self, service: &str, region: Option<&str>, request: &Parts, random: &mut fastrand::Rng) -> Hit {
        let mut hit = Hit::default();
        for (id, fault) in &self.active {
            let here = fault.matches.region.as_deref() == region;
            if !here || !matches(&fault.matches, service, request) || random.f64() * 100.0 >= fault.percent {
                continue;
            }
            match &fault.action {
                FaultAction::Delay { fixed } if hit.delay.is_none() => hit.delay = Some(*fixed),
                FaultAction::Delay { .. } => continue,
                action if hit.action.is_none() => hit.action = Some(action.clone()),
                _ => continue,
            }
            hit.overlays.push(id.clone());
        }
        hit
    }
}

fn matches(condition: &FaultMatch, service: &str, request: &Parts) -> bool {
    let FaultMatch { service: to, region: _, path, method, header } = condition;
    to.as_deref().is_none_or(|to| to == service)
        && path.as_deref().is_none_or(|prefix| request.uri.path().starts_with(prefix))
        && method.as_deref().is_none_or(|method| method == request.method.as_str())
        && header.as_ref().is_none_or(|(name, value)| {
            request.headers.get_all(name.as_str()).iter().any(|found| found.as_bytes() == value.as_bytes())
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
            (FaultMatch { region: some("east"), ..Default::default() }, false),
        ];
        for (matches, expected) in cases {
            let faults = Faults::new(&[overlay("a", matches.clone(), 100.0, FaultAction::Blackhole)]);
            let hit = faults.draw("fx", None, &request(), &mut fastrand::Rng::with_seed(1));
            assert_eq!(hit.action.is_some(), expected, "{matches:?}");
        }
    }

    #[test]
    fn a_region_is_matched_at_the_endpoint() {
        let matches = FaultMatch { region: Some("east".into()), ..Default::default() };
        let faults = Faults::new(&[overlay("a", matches, 100.0, FaultAction::Refuse)]);
        let mut random = fastrand::Rng::with_seed(1);
        assert_eq!(faults.draw("fx", Some("east"), &request(), &mut random).action, Some(FaultAction::Refuse));
        assert_eq!(faults.draw("fx", Some("west"), &request(), &mut random), Hit::default());
    }

    #[test]
    fn delay_and_abort_are_independent() {
        let delay = FaultAction::Delay { fixed: Duration::from_millis(5) };
        let faults = Faults::new(&[
            overlay("b", FaultMatch::default(), 30.0, FaultAction::Abort { status: 503 }),
            overlay("a", FaultMatch::default(), 50.0, delay),
        ]);
        let mut random = fastrand::Rng::with_seed(42);
        let (mut delayed, mut aborted, mut both) = (0, 0, 0);
        for _ in 0..10_000 {
            let hit = faults.draw("fx", None, &request(), &mut random);
            delayed += u32::from(hit.delay.is_some());
            aborted += u32::from(hit.action.is_some());
            both += u32::from(hit.overlays.len() == 2);
        }
        assert!((4800..5200).contains(&delayed), "{delayed}");
        assert!((2800..3200).contains(&aborted), "{aborted}");
        assert!((1350..1650).contains(&both), "{both}");
    }
}
