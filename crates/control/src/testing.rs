//! What tests of this crate share: the bank of the examples, placed on one loopback subnet; roots.

use std::{net::SocketAddr, path::Path};

use model::config::{Config, Place};

use crate::{
    api::{ManifestFile, Placement, Placements, Role},
    authority::Authority,
};

/// A root that signs nothing, PEM.
pub(crate) fn root() -> String {
    let state = tempfile::tempdir().unwrap();
    Authority::open(state.path(), xds::clock::Clock::anchored()).unwrap().roots().to_owned()
}

/// The manifests of `examples/bank`.
pub(crate) fn bank_files() -> Vec<ManifestFile> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/bank");
    ["mesh.yaml", "drills.yaml"]
        .map(|name| ManifestFile { path: name.to_owned(), text: std::fs::read_to_string(folder.join(name)).unwrap() })
        .into()
}

/// Parses manifests.
pub(crate) fn config(files: &[ManifestFile]) -> Config {
    let sources: Vec<_> = files.iter().map(|f| model::Source { path: f.path.clone(), text: f.text.clone() }).collect();
    model::parse(&sources).unwrap_or_else(|problems| panic!("{problems:#?}")).config
}

/// The bank.
pub(crate) fn bank() -> Config {
    config(&bank_files())
}

/// Places everything as the supervisor does: number i has the address `127.1.2.i`.
pub(crate) fn place(config: &Config) -> Placements {
    let at = |number: usize, port: u16| SocketAddr::from(([127, 1, 2, u8::try_from(number).unwrap()], port));
    let mut proxies = Vec::new();
    let running = config.services.values().flat_map(|s| s.endpoints.iter().map(move |e| (s, e)));
    for (number, (service, endpoint)) in (2..).zip(running.filter(|(_, e)| matches!(e.place, Place::Run(_)))) {
        proxies.push(Placement {
            proxy: endpoint.workload.to_string(),
            admin: at(number, 15000),
            role: Role::Sidecar {
                service: service.name.to_string(),
                workload: endpoint.workload.to_string(),
                region: endpoint.region.to_string(),
                app: at(number, 8080),
                inbound: at(number, 15006),
                outbound: at(number, 15001),
            },
        });
    }
    for (number, gateway) in (proxies.len() + 2..).zip(&config.mesh.gateways) {
        let role = Role::Gateway { gateway: gateway.name.to_string(), listen: None };
        proxies.push(Placement { proxy: gateway.name.to_string(), admin: at(number, 15000), role });
    }
    Placements { proxies }
}
