//! Overlays ↔ `Runtime`.

use envoy_types::pb::envoy::service::runtime::v3::Runtime;

use super::{
    json,
    wire::{At, Checked, ensure, ensure_name, need, wrong},
};
use crate::overlay::{Effect, Overlay, SwitchState};

pub(super) fn validate(overlay: &Overlay) -> Checked<()> {
    ensure_name(&overlay.id, "id")?;
    match &overlay.effect {
        Effect::Fault(fault) => {
            ensure((0.0..=100.0).contains(&fault.percent), "effect.fault.percent", || {
                format!("{} is not a percentage", fault.percent)
            })?;
            // A sign on zero would not survive, and means nothing.
            ensure(fault.percent.to_bits() != (-0.0_f64).to_bits(), "effect.fault.percent", || "is negative".to_owned())
        }
        Effect::Switch(switch) => {
            ensure_name(&switch.service, "effect.switch.service")?;
            ensure_name(&switch.region, "effect.switch.region")?;
            match switch.state {
                SwitchState::Share(share) if share > 100 => wrong("effect.switch.state.share", "is above 100"),
                _ => Ok(()),
            }
        }
        Effect::CutOff { .. } | Effect::Harmless => Ok(()),
    }
}

pub(super) fn write(overlay: &Overlay) -> Runtime {
    Runtime { name: overlay.id.clone(), layer: Some(json::to_struct(overlay)) }
}

pub(super) fn read(runtime: &Runtime) -> Checked<Overlay> {
    json::from_struct(need(&runtime.layer, "layer")?).at("layer")
}
