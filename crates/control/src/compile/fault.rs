//! What a fault of the manifests is on the wire.

use model::config::{Delay, FaultAction, TlsFault};
use xds::overlay;

/// The same fault, as proxies are told of it.
pub fn fault_action(action: &FaultAction) -> overlay::FaultAction {
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
