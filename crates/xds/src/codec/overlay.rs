//! Overlays ↔ `Runtime`.

use envoy_types::pb::envoy::service::runtime::v3::Runtime;

use super::{
    fault::{self, ensure_percent},
    json,
    wire::{At, Checked, ensure_name, need, wrong},
};
use crate::overlay::{Effect, Overlay, SwitchState};

pub(super) fn validate(overlay: &Overlay) -> Checked<()> {
    ensure_name(&overlay.id, "id")?;
    match &overlay.effect {
        Effect::Fault(laid) => {
            ensure_percent(laid.percent, "effect.fault.percent")?;
            fault::validate(&laid.action).at("effect.fault.action")
        }
        Effect::Switch(switch) => {
            ensure_name(&switch.service, "effect.switch.service")?;
            ensure_name(&switch.region, "effect.switch.region")?;
            match switch.state {
                SwitchState::Share(share) if share > 100 => wrong("effect.switch.state.share", "is above 100"),
                _ => Ok(()),
            }
        }
        Effect::CutOff { .. } | Effect::NoControl | Effect::Harmless => Ok(()),
    }
}

pub(super) fn write(overlay: &Overlay) -> Runtime {
    Runtime { name: overlay.id.clone(), layer: Some(json::to_struct(overlay)) }
}

pub(super) fn read(runtime: &Runtime) -> Checked<Overlay> {
    json::from_struct(need(&runtime.layer, "layer")?).at("layer")
}
