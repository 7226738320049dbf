//! Who is where: every case has, on each side, a loopback subnet of its own.

use std::net::{Ipv4Addr, SocketAddr};

/// The two that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Stock Envoy.
    Envoy,
    /// Our proxy.
    Ours,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Envoy, Self::Ours];

    fn octet(self) -> u8 {
        match self {
            Self::Envoy => 208,
            Self::Ours => 209,
        }
    }

    /// Where its admin interface listens.
    pub fn admin(self) -> SocketAddr {
        (Ipv4Addr::new(127, self.octet(), 0, 1), 15000).into()
    }
}

/// One case on one side.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Which side.
    pub side: Side,
    /// Number of the case.
    pub case: u8,
}

impl Place {
    fn at(self, last: u8, port: u16) -> SocketAddr {
        (Ipv4Addr::new(127, self.side.octet(), self.case + 1, last), port).into()
    }

    /// Where the proxy takes the case's requests.
    pub fn listener(self) -> SocketAddr {
        self.at(1, 8000)
    }

    /// Where an endpoint listens.
    pub fn endpoint(self, index: usize) -> SocketAddr {
        self.at(u8::try_from(10 + index).expect("few endpoints"), 9000)
    }

    /// Name of the case, and of its listener and its route table.
    pub fn name(self) -> String {
        format!("case-{}", self.case)
    }

    /// Name of one of its clusters.
    pub fn cluster(self, number: usize) -> String {
        format!("{}-{number}", self.name())
    }
}
