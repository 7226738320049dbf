//! The mesh as it is now, for whoever asks.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use super::{
    api::{GatewayReport, MeshReport, ProcessReport, ProcessState, ProxyProcess, WorkloadReport},
    keeper::{Keeper, Key, Kind},
    layout::Layout,
};

/// Layout and processes together. Cheap to clone.
#[derive(Clone)]
pub struct View {
    /// Who should run where.
    pub layout: Arc<Layout>,
    /// Who runs.
    pub keeper: Keeper,
    /// State folder.
    pub state: PathBuf,
    /// Proxies that somebody else starts.
    pub without: Arc<BTreeSet<String>>,
}

impl View {
    /// Everything, now.
    pub fn mesh(&self) -> MeshReport {
        let layout = &self.layout;
        let gateways = layout.gateways.iter().map(|place| GatewayReport {
            gateway: place.name.clone(),
            listen: place.listen,
            proxy: ProxyProcess { process: self.process(Kind::Gateway, &place.name), admin: place.admin },
        });
        let workloads = layout.workloads.iter().map(|place| WorkloadReport {
            process: self.process(Kind::Workload, &place.name),
            service: place.service.clone(),
            region: place.region.clone(),
            version: place.version.clone(),
            address: place.app,
            inbound: place.inbound,
            outbound: place.outbound,
            proxy: ProxyProcess { process: self.process(Kind::Sidecar, &place.name), admin: place.admin },
        });
        MeshReport {
            mesh: layout.mesh.clone(),
            state: self.state.clone(),
            control: layout.subnet.control_api(),
            supervisor: layout.subnet.supervisor_api(),
            control_process: self.process(Kind::Control, "control"),
            gateways: gateways.collect(),
            workloads: workloads.collect(),
            outside: layout.outside.clone(),
        }
    }

    fn process(&self, kind: Kind, name: &str) -> ProcessReport {
        let key = Key { kind, name: name.to_owned() };
        let external = matches!(kind, Kind::Gateway | Kind::Sidecar) && self.without.contains(name);
        // One that is not looked after yet has not begun to start.
        self.keeper.report(&key).unwrap_or_else(|| ProcessReport {
            name: key.name.clone(),
            pid: None,
            state: if external { ProcessState::External } else { ProcessState::Starting },
            restarts: 0,
            log: PathBuf::new(),
        })
    }
}
