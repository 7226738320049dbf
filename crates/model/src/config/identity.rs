//! Who issues the identities of a mesh.

/// Where certificates come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// The control plane signs.
    #[default]
    Builtin,
    /// Another tool writes files.
    Files(IdentityFiles),
    /// A SPIFFE Workload API hands them out.
    Spire {
        /// Absolute path of its Unix socket.
        socket: String,
    },
}

/// Absolute paths of PEM files; in each `{proxy}` stands for a proxy's name, and for `control` at the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// Certificate chain, leaf first.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// Roots of the mesh's trust domain.
    pub bundle: String,
}

impl IdentityFiles {
    /// Where the name of a proxy is put in.
    pub const PROXY: &str = "{proxy}";
    /// The control plane's name there.
    pub const CONTROL: &str = "control";

    /// Certificate, key and bundle of a proxy.
    pub fn of(&self, proxy: &str) -> [String; 3] {
        [&self.certificate, &self.key, &self.bundle].map(|path| path.replace(Self::PROXY, proxy))
    }
}
