//! The manifest kinds as they are written. Docstrings here are what editors show.

mod drill;
mod exchange;
mod fault;
mod federation;
mod mesh;
mod plan;
mod route;
mod service;
mod upstream;

use std::collections::BTreeMap;

pub(crate) use self::{
    drill::*, exchange::*, fault::*, federation::*, mesh::*, plan::*, route::*, service::*, upstream::*,
};
use crate::{
    name::ServiceName,
    read::{At, Cx, Fields, FromField, mapping, words},
    scalar::Word,
    tree::Node,
};

type Text = At<String>;
type Argv = At<Vec<At<Word>>>;
type List<T> = Option<At<Vec<At<T>>>>;

mapping! {
    /// Who this is.
    "metadata" Metadata {
        /// Name: a-z, 0-9 and `-`; unique among manifests of the kind.
        name: At<ServiceName>,
        /// Texts by name; not used by Firedrill.
        labels: Option<At<BTreeMap<String, String>>>,
        /// Texts by name; not used by Firedrill.
        annotations: Option<At<BTreeMap<String, String>>>,
    }
}

/// A manifest that could be read.
pub(crate) struct Manifest {
    /// Name and where it is written.
    pub name: At<ServiceName>,
    /// By kind; `None` if it could not be read.
    pub spec: Spec,
}

/// The spec by kind.
#[allow(clippy::large_enum_variant, reason = "there are as many as manifests, and most are services")]
pub(crate) enum Spec {
    Mesh(Option<At<Mesh>>),
    Service(Option<At<Service>>),
    RecoveryPlan(Option<At<RecoveryPlan>>),
    Drill(Option<At<Drill>>),
    Backup(Option<At<Backup>>),
}

/// The one version there is.
pub(crate) const API_VERSION: &str = "firedrill.dev/v1";

words! {
    /// Kind of a manifest.
    Kind {
        Mesh = "Mesh",
        Service = "Service",
        RecoveryPlan = "RecoveryPlan",
        Drill = "Drill",
        Backup = "Backup",
    }
}

/// Reads one document. `None`: a problem was reported, and not even kind and name are known.
pub(crate) fn manifest(node: &Node, cx: &mut Cx<'_>) -> Option<Manifest> {
    let fields = ["apiVersion", "kind", "metadata", "spec"];
    let fields = fields.map(str::to_owned);
    let fields = Fields::of(node, "a manifest", &fields, cx)?;
    let version = Text::from_field("apiVersion", &fields, cx);
    if let Some(version) = version.filter(|v| v.value != API_VERSION) {
        cx.error("unknown-value", version.at, format!("apiVersion `{}` is not known", version.value))
            .mend(format!("write `apiVersion: {API_VERSION}`"));
    }
    let kind = At::<Kind>::from_field("kind", &fields, cx);
    let metadata = At::<Metadata>::from_field("metadata", &fields, cx);
    let kind = kind?;
    let spec = match kind.value {
        Kind::Mesh => Spec::Mesh(At::from_field("spec", &fields, cx)),
        Kind::Service => Spec::Service(At::from_field("spec", &fields, cx)),
        Kind::RecoveryPlan => Spec::RecoveryPlan(At::from_field("spec", &fields, cx)),
        Kind::Drill => Spec::Drill(At::from_field("spec", &fields, cx)),
        Kind::Backup => Spec::Backup(At::from_field("spec", &fields, cx)),
    };
    Some(Manifest { name: metadata?.value.name, spec })
}
