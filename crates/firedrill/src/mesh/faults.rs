//! What a drill's faults are to the control plane.

use control::{
    api::{OverlayEffect, OverlayRequest, Targets},
    compile::fault_action,
};
use model::{
    config::{Caller, Fault, FaultStep, PartitionStep, Way},
    name::RegionName,
};
use xds::overlay;

/// The overlay that loses a region by its network.
pub fn lost(region: &RegionName) -> OverlayRequest {
    let (regions, from, way) = (vec![region.to_string()], Vec::new(), overlay::Way::Both);
    OverlayRequest { targets: Targets::Concerned, effect: OverlayEffect::Partition { regions, from, way } }
}

/// The overlay that makes a fault.
pub fn at_proxies(fault: &Fault) -> OverlayRequest {
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
        action: fault_action(&step.action),
    }
}
