//! The layer of an Envoy's runtime that says which leased faults are in force, and whether requests are logged. It has a time to live, as a lease has: when
//! nobody renews it, Envoy itself drops it, and with it what the routes' fault filters do.

use std::collections::BTreeMap;

use envoy_types::pb::{
    envoy::{
        extensions::filters::http::fault::v3::HttpFault, service::runtime::v3::Runtime,
        r#type::v3::fractional_percent::DenominatorType,
    },
    google::protobuf::{Any, Struct, Value, value::Kind},
};

use super::{
    routes::FAULT,
    wire::{fraction, pack, unpack},
};
use crate::{overlay::FaultAction, snapshot::RouteFault};

/// Name of the layer, under which an Envoy asks for it.
pub const LAYER: &str = "firedrill";

/// Key of the share of requests that are logged to whoever runs the Envoy.
pub const REQUESTS: &str = "firedrill.requests";

/// What is in it, by key.
pub type Layer = BTreeMap<String, Share>;

/// A share, in the form in which what reads it takes one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Share {
    /// Percent, as fine as Envoy's fractions are; of a fault.
    Fine(f64),
    /// Whole percent; of an access log.
    Whole(u8),
}

impl Share {
    /// The number in what an Envoy's page of its runtime shows of it.
    pub fn shown(self) -> u64 {
        match self {
            Self::Fine(percent) => fraction(percent).numerator.into(),
            Self::Whole(percent) => percent.into(),
        }
    }
}

/// A fault of a route: by the table's name, and the places of host, route and fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    /// Name of the table.
    pub table: String,
    /// Which of its hosts.
    pub host: usize,
    /// Which of the host's routes.
    pub route: usize,
    /// Which of the route's faults.
    pub fault: usize,
}

/// An empty layer is one, too.
pub(crate) fn write(name: &str, layer: &Layer) -> Runtime {
    let fields = layer.iter().map(|(key, share)| (key.clone(), value(*share))).collect();
    Runtime { name: name.to_owned(), layer: Some(Struct { fields }) }
}

fn value(share: Share) -> Value {
    let of = |kind| Value { kind: Some(kind) };
    let percent = match share {
        Share::Whole(percent) => return of(Kind::NumberValue(percent.into())),
        Share::Fine(percent) => percent,
    };
    let fraction = fraction(percent);
    let denominator = DenominatorType::try_from(fraction.denominator).unwrap_or(DenominatorType::Million);
    let fields = [
        ("numerator".to_owned(), of(Kind::NumberValue(fraction.numerator.into()))),
        ("denominator".to_owned(), of(Kind::StringValue(denominator.as_str_name().to_owned()))),
    ];
    of(Kind::StructValue(Struct { fields: fields.into() }))
}

/// Has the layer decide on a fault: without its key there is none.
pub(super) fn gate(filters: &mut std::collections::HashMap<String, Any>, fault: &RouteFault, key: &str) {
    let Some(filter) = filters.get_mut(FAULT) else { return };
    let Ok(mut written) = unpack::<HttpFault>(filter) else { return };
    match (&fault.action, &mut written.delay, &mut written.abort) {
        (FaultAction::Delay(_), Some(delay), _) => {
            delay.percentage = Some(fraction(0.0));
            key.clone_into(&mut written.delay_percent_runtime);
        }
        (_, _, Some(abort)) => {
            abort.percentage = Some(fraction(0.0));
            key.clone_into(&mut written.abort_percent_runtime);
        }
        _ => return,
    }
    *filter = pack(&written);
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use super::*;
    use crate::{codec::fault, overlay::Delay};

    #[test]
    fn a_share_is_written_as_a_fraction_of_a_million() {
        let written = write(LAYER, &Layer::from([("firedrill.a".to_owned(), Share::Fine(12.5))]));
        let Some(Kind::StructValue(fields)) = &written.layer.unwrap().fields["firedrill.a"].kind else {
            panic!("none")
        };
        assert_eq!(fields.fields["numerator"].kind, Some(Kind::NumberValue(125_000.0)));
        assert_eq!(fields.fields["denominator"].kind, Some(Kind::StringValue("MILLION".to_owned())));
    }

    #[test]
    fn only_the_fault_that_is_gated_waits_for_the_layer() {
        let of = |percent, action| RouteFault { percent, action };
        let faults = [
            of(50.0, FaultAction::Abort { status: 503 }),
            of(10.0, FaultAction::Delay(Delay::Fixed(Duration::from_millis(20)))),
        ];
        let mut filters = HashMap::from([(FAULT.to_owned(), pack(&fault::write(&faults).unwrap()))]);
        gate(&mut filters, &faults[1], "firedrill.slow");
        let written: HttpFault = unpack(&filters[FAULT]).unwrap();
        assert_eq!(written.delay_percent_runtime, "firedrill.slow");
        assert_eq!(written.delay.unwrap().percentage, Some(fraction(0.0)));
        assert_eq!(written.abort_percent_runtime, "");
        assert_eq!(written.abort.unwrap().percentage, Some(fraction(50.0)));
    }
}
