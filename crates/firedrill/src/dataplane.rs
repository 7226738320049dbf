//! The choice of a data plane on a command line, and what of the manifests a stock Envoy cannot do.

use std::{collections::BTreeSet, path::PathBuf};

use control::compile::{Roots, Switches, compile};
use model::config::{Config, LoseHow, ScenarioAction};
use xds::lower::lacks;

use crate::{
    failure::Failure,
    mesh::faults,
    supervisor::{
        layout::Layout,
        plane::{Choice, DataPlane},
    },
};

/// Which program the proxies are.
#[derive(Clone, Debug, clap::Args)]
pub struct Plane {
    /// Which program the proxies are: `firedrill`, stock Envoys (`envoy`), or some of them (`envoy=PROXY,PROXY`)
    #[arg(long, value_name = "PLANE", default_value = "firedrill", hide_default_value = true)]
    data_plane: Choice,
    /// The Envoy program
    #[arg(long, value_name = "PROGRAM", env = "FIREDRILL_ENVOY", hide_env_values = true, default_value = "envoy")]
    envoy: PathBuf,
}

impl Plane {
    /// The data plane for these manifests.
    ///
    /// # Errors
    /// When there is no such program, or an Envoy cannot do what the manifests say.
    pub fn of(&self, config: &Config) -> Result<DataPlane, Failure> {
        let plane = self.data_plane.with(&self.envoy).map_err(|reason| {
            Failure::usage(reason).help("`--envoy PROGRAM` names another; without `--data-plane envoy` none is needed")
        })?;
        judge(config, &plane)?;
        Ok(plane)
    }
}

/// Whether the data plane can do what the manifests say.
///
/// # Errors
/// What it cannot do, by proxy.
pub fn judge(config: &Config, plane: &DataPlane) -> Result<(), Failure> {
    let refused = refusals(config, plane);
    if refused.is_empty() {
        return Ok(());
    }
    Err(Failure::usage(format!("a stock Envoy cannot do what the manifests say:\n  {}", refused.join("\n  ")))
        .help("change it there, or let these proxies be ours: `--data-plane envoy=PROXY,PROXY` names the others"))
}

/// What the Envoys among the proxies cannot do, by proxy.
fn refusals(config: &Config, plane: &DataPlane) -> Vec<String> {
    // More than one machine takes is refused when it is started.
    let Ok(layout) = Layout::new(config, Default::default()) else { return Vec::new() };
    let compiled = compile(config, &layout.placements(), &Switches::new(), &Roots::default(), &Default::default());
    let envoys = compiled.into_iter().filter(|(proxy, _)| plane.envoy(proxy).is_some());
    let lacking = envoys.filter_map(|(proxy, snapshot)| Some((proxy, snapshot.ok()?)));
    lacking
        .flat_map(|(proxy, snapshot)| {
            lacks(&snapshot).into_iter().map(move |lack| format!("proxy {proxy}, {lack}")).collect::<Vec<_>>()
        })
        .collect()
}

/// Steps of a drill that a stock Envoy cannot do: the step and the reason.
pub fn drill_refusals(config: &Config, drill: &str, envoys: &BTreeSet<String>) -> Vec<String> {
    let Some((_, drill)) = config.drills.iter().find(|(name, _)| name.as_str() == drill) else { return Vec::new() };
    let Ok(layout) = Layout::new(config, Default::default()) else { return Vec::new() };
    let placements = layout.placements();
    let mut refused = Vec::new();
    for (number, step) in drill.scenario.iter().enumerate() {
        let request = match &step.action {
            ScenarioAction::Fault(fault) => faults::at_proxies(fault),
            ScenarioAction::Lose { region, how: LoseHow::Partition } => faults::lost(region),
            _ => continue,
        };
        if let Err(reason) = control::judge_envoys(config, &placements, &request, envoys) {
            refused.push(format!("scenario[{number}], {reason}"));
        }
    }
    refused
}
