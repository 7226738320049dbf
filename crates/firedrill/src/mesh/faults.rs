//! What a drill's faults are to the control plane.

use control::api::{OverlayEffect, OverlayRequest, Targets};
use model::config::{Caller, Delay, Fault, FaultAction, FaultStep, PartitionStep, TlsFault, Way};
use xds::overlay;

/// The overlay that makes a fault.
pub(super) fn at_proxies(fault: &Fault) -> OverlayRequest {
    let concerned = |effect| OverlayRequest { targets: Targets::Concerned, effect };
    match fault {
        Fault::Requests(step) => {
            let targets = match &step.from {
                None => Targets::Concerned,
                Some(Caller::Service(name)) => Targets::Caller { name: name.to_string() },
                Some(Caller::Gateway(name)) => Targets::Caller { name: name.to_string() },
            };
            OverlayRequest { targets, effect: OverlayEffect::Fault(on_requests(step)) }
        }
        Fault::Partition(PartitionStep { regions, from, way }) => concerned(OverlayEffect::Partition {
            regions: regions.iter().map(ToString::to_string).collect(),
            from: from.iter().map(ToString::to_string).collect(),
            way: match way {
                Way::Both => overlay::Way::Both,
                Way::To => overlay::Way::To,
                Way::From => overlay::Way::From,
            },
        }),
        Fault::NoControl { region } => {
            concerned(OverlayEffect::NoControl { region: region.as_ref().map(ToString::to_string) })
        }
    }
}

fn on_requests(step: &FaultStep) -> overlay::Fault {
    overlay::Fault {
        matches: overlay::FaultMatch {
            service: Some(step.service.to_string()),
            region: step.region.as_ref().map(ToString::to_string),
            path: step.path.clone(),
            method: step.method.clone(),
            header: step.header.clone(),
            // Each caller has proxies of its own: who is meant is said by whom the overlay is given to.
            caller: None,
        },
        percent: step.percent.0,
        action: action(&step.action),
    }
}

fn action(action: &FaultAction) -> overlay::FaultAction {
    match *action {
        FaultAction::Delay(delay) => overlay::FaultAction::Delay(match delay {
            Delay::Fixed(fixed) => overlay::Delay::Fixed(fixed),
            Delay::Normal { mean, deviation } => overlay::Delay::Normal { mean, deviation },
            Delay::Spike { base, spike, percent } => overlay::Delay::Spike { base, spike, percent: percent.0 },
        }),
        FaultAction::Abort(status) => overlay::FaultAction::Abort { status },
        FaultAction::AbortGrpc(status) => overlay::FaultAction::AbortGrpc { status },
        FaultAction::Refuse => overlay::FaultAction::Refuse,
        FaultAction::Reset => overlay::FaultAction::Reset,
        FaultAction::ResetAfter(bytes) => overlay::FaultAction::ResetAfter { bytes },
        FaultAction::Blackhole => overlay::FaultAction::Blackhole,
        FaultAction::DropConnect => overlay::FaultAction::DropConnect,
        FaultAction::Bandwidth(bytes_per_second) => overlay::FaultAction::Bandwidth { bytes_per_second },
        FaultAction::Truncate(bytes) => overlay::FaultAction::Truncate { bytes },
        FaultAction::Dns => overlay::FaultAction::Dns,
        FaultAction::Tls(why) => overlay::FaultAction::Tls(match why {
            TlsFault::Expired => overlay::TlsFault::Expired,
            TlsFault::Untrusted => overlay::TlsFault::Untrusted,
            TlsFault::WrongIdentity => overlay::TlsFault::WrongIdentity,
        }),
    }
}
