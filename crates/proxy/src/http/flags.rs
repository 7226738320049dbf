//! Envoy's response flags, as far as they occur here.

/// Why a request went as it did. In Envoy's order, which is the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// No healthy endpoint.
    NoHealthyUpstream,
    /// The request's or the try's time ran out.
    UpstreamRequestTimeout,
    /// The endpoint ended the stream, and the connection goes on (HTTP/2).
    UpstreamRemoteReset,
    /// Connecting failed.
    UpstreamConnectionFailure,
    /// The connection ended early.
    UpstreamConnectionTermination,
    /// A circuit breaker is open, or the retry budget is spent.
    UpstreamOverflow,
    /// No route.
    NoRouteFound,
    /// A fault delayed.
    DelayInjected,
    /// A fault answered.
    FaultInjected,
    /// The caller may not.
    UnauthorizedExternalService,
    /// The caller went away.
    DownstreamConnectionTermination,
    /// Repeats are used up.
    UpstreamRetryLimitExceeded,
    /// Nothing passed for too long.
    StreamIdleTimeout,
    /// The caller's request was malformed.
    DownstreamProtocolError,
    /// What the endpoint answered is not HTTP.
    UpstreamProtocolError,
}

impl Flag {
    const ALL: [Self; 15] = [
        Self::NoHealthyUpstream,
        Self::UpstreamRequestTimeout,
        Self::UpstreamRemoteReset,
        Self::UpstreamConnectionFailure,
        Self::UpstreamConnectionTermination,
        Self::UpstreamOverflow,
        Self::NoRouteFound,
        Self::DelayInjected,
        Self::FaultInjected,
        Self::UnauthorizedExternalService,
        Self::DownstreamConnectionTermination,
        Self::UpstreamRetryLimitExceeded,
        Self::StreamIdleTimeout,
        Self::DownstreamProtocolError,
        Self::UpstreamProtocolError,
    ];

    fn bit(self) -> u32 {
        1 << self as u32
    }

    fn short(self) -> &'static str {
        match self {
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamRequestTimeout => "UT",
            Self::UpstreamRemoteReset => "UR",
            Self::UpstreamConnectionFailure => "UF",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamOverflow => "UO",
            Self::NoRouteFound => "NR",
            Self::DelayInjected => "DI",
            Self::FaultInjected => "FI",
            Self::UnauthorizedExternalService => "UAEX",
            Self::DownstreamConnectionTermination => "DC",
            Self::UpstreamRetryLimitExceeded => "URX",
            Self::StreamIdleTimeout => "SI",
            Self::DownstreamProtocolError => "DPE",
            Self::UpstreamProtocolError => "UPE",
        }
    }
}

/// A set of flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// Adds one.
    pub fn set(&mut self, flag: Flag) {
        self.0 |= flag.bit();
    }

    /// As a number, to compare.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl std::fmt::Display for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut set = Flag::ALL.into_iter().filter(|flag| self.0 & flag.bit() != 0);
        match set.next() {
            None => f.write_str("-"),
            Some(first) => {
                f.write_str(first.short())?;
                set.try_for_each(|flag| write!(f, ",{}", flag.short()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_in_one_order_each_once() {
        let mut flags = Flags::default();
        assert_eq!(flags.to_string(), "-");
        for flag in [Flag::UpstreamRetryLimitExceeded, Flag::FaultInjected, Flag::DelayInjected, Flag::FaultInjected] {
            flags.set(flag);
        }
        assert_eq!(flags.to_string(), "DI,FI,URX");
        let mut all = Flags::default();
        Flag::ALL.into_iter().for_each(|flag| all.set(flag));
        assert_eq!(all.bits().count_ones() as usize, Flag::ALL.len());
    }
}
