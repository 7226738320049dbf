//! What every kind of resource needs: strict parsing, comparison with a path, and the small shared messages.

use std::{
    collections::HashMap,
    fmt::Debug,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{
            self as core, Address, AggregatedConfigSource, ApiVersion, ConfigSource, Metadata, SocketAddress, address,
            config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
        },
        r#type::v3::{FractionalPercent, Percent, fractional_percent::DenominatorType},
    },
    google::protobuf::{self, Any, UInt32Value},
};
use prost::{Message, Name};
use serde::{Serialize, de::DeserializeOwned};

use super::json;

/// Key of what is ours in a resource's metadata.
pub(super) const OURS: &str = "firedrill";

/// No duration in a configuration is longer; Envoy refuses much longer ones.
pub(super) const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Millionths in a percent.
const PER_PERCENT: f64 = 10_000.0;

/// What is wrong, and where inside the resource.
#[derive(Debug)]
pub(super) struct Problem {
    pub path: String,
    pub problem: String,
}

pub(super) type Checked<T> = Result<T, Problem>;

/// A problem at a path.
pub(super) fn wrong<T>(path: impl Into<String>, problem: impl Into<String>) -> Checked<T> {
    Err(Problem { path: path.into(), problem: problem.into() })
}

/// Puts a path before that of a problem.
pub(super) trait At<T> {
    fn at(self, path: impl AsRef<str>) -> Checked<T>;
}

impl<T> At<T> for Checked<T> {
    fn at(self, path: impl AsRef<str>) -> Self {
        self.map_err(|Problem { path: rest, problem }| {
            let path = path.as_ref();
            let path = match (path.is_empty(), rest.is_empty()) {
                (_, true) => path.to_owned(),
                (true, _) => rest,
                _ if rest.starts_with('[') => format!("{path}{rest}"),
                _ => format!("{path}.{rest}"),
            };
            Problem { path, problem }
        })
    }
}

/// Decodes a message, and refuses one that holds more than we know. prost drops unknown fields without a word; so the
/// message is encoded again, and must come out as the same bytes. Protobuf maps have no order: the bytes are compared
/// as a multiset, which a dropped field cannot survive, since it makes the message shorter.
pub(super) fn parse<T: Message + Default>(bytes: &[u8]) -> Checked<T> {
    let message = T::decode(bytes).or_else(|error| wrong("", format!("not such a message: {error}")))?;
    let again = message.encode_to_vec();
    if again != bytes && histogram(&again) != histogram(bytes) {
        return wrong("", "holds unknown fields, or is not encoded canonically");
    }
    Ok(message)
}

fn histogram(bytes: &[u8]) -> [usize; 256] {
    let mut counts = [0; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    counts
}

/// Refuses a message that is not what we would have written for what was read from it, and says where they part.
pub(super) fn same<T: PartialEq + Debug>(actual: &T, expected: &T) -> Checked<()> {
    if actual == expected {
        return Ok(());
    }
    let (path, problem) = super::differ::first_difference(&format!("{actual:#?}"), &format!("{expected:#?}"));
    wrong(path, problem)
}

pub(super) fn pack<T: Name>(message: &T) -> Any {
    Any { type_url: T::type_url(), value: message.encode_to_vec() }
}

pub(super) fn unpack<T: Name + Default>(any: &Any) -> Checked<T> {
    if any.type_url != T::type_url() {
        return wrong("type_url", format!("{} is not supported here, {} is", any.type_url, T::full_name()));
    }
    parse(&any.value)
}

/// A field that must be there.
pub(super) fn need<'a, T>(field: &'a Option<T>, path: &str) -> Checked<&'a T> {
    field.as_ref().map_or_else(|| wrong(path, "is missing"), Ok)
}

pub(super) fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) fn yes() -> Option<protobuf::BoolValue> {
    Some(protobuf::BoolValue { value: true })
}

pub(super) fn read_number(field: &Option<UInt32Value>, path: &str) -> Checked<u32> {
    Ok(need(field, path)?.value)
}

pub(super) fn percent(value: u8) -> Option<Percent> {
    Some(Percent { value: f64::from(value) })
}

pub(super) fn read_percent(field: &Option<Percent>, path: &str) -> Checked<u8> {
    let value = need(field, path)?.value;
    if (0.0..=100.0).contains(&value) && value.fract() == 0.0 {
        Ok(value as u8)
    } else {
        wrong(path, format!("{value} is not a whole percentage"))
    }
}

/// Of a hundred, in the millionths that Envoy counts; see [`ensure_fraction`].
pub(super) fn fraction(percent: f64) -> FractionalPercent {
    let numerator = (percent * PER_PERCENT).round() as u32;
    FractionalPercent { numerator, denominator: DenominatorType::Million.into() }
}

pub(super) fn read_fraction(field: &Option<FractionalPercent>, path: &str) -> Checked<f64> {
    Ok(f64::from(need(field, path)?.numerator) / PER_PERCENT)
}

/// A percentage to a ten-thousandth, which is as fine as Envoy's are.
pub(super) fn ensure_fraction(percent: f64, path: &str) -> Checked<()> {
    let fine = (0.0..=100.0).contains(&percent)
        && (f64::from(fraction(percent).numerator) / PER_PERCENT).to_bits() == percent.to_bits();
    ensure(fine, path, || format!("{percent} is not a percentage to a ten-thousandth"))
}

/// Values are checked against [`LONGEST`] before they are written, so the conversion cannot saturate.
pub(super) fn duration(value: Duration) -> Option<protobuf::Duration> {
    let seconds = i64::try_from(value.as_secs()).unwrap_or(i64::MAX);
    Some(protobuf::Duration { seconds, nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0) })
}

pub(super) fn read_duration(field: &Option<protobuf::Duration>, path: &str) -> Checked<Duration> {
    let value = need(field, path)?;
    match (u64::try_from(value.seconds), u32::try_from(value.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => wrong(path, format!("{}s {}ns is not a duration", value.seconds, value.nanos)),
    }
}

/// "Ask for it on the stream you have."
pub(super) fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    })
}

pub(super) fn socket(address: SocketAddr) -> Option<Address> {
    Some(Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(address.port()))),
            ..SocketAddress::default()
        })),
    })
}

pub(super) fn read_socket(field: &Option<Address>, path: &str) -> Checked<SocketAddr> {
    let Some(address::Address::SocketAddress(socket)) = &need(field, path)?.address else {
        return wrong(path, "only socket addresses are supported");
    };
    let ip: Result<IpAddr, _> = socket.address.parse();
    let port = match socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(port).ok(),
        _ => None,
    };
    match (ip, port) {
        (Ok(ip), Some(port)) => Ok(SocketAddr::new(ip, port)),
        _ => wrong(path, format!("{socket:?} is not an IP address with a port")),
    }
}

/// Fields that Envoy has no place for.
pub(super) fn metadata(extra: &impl Serialize) -> Option<Metadata> {
    let fields = json::to_struct(extra);
    Some(Metadata { filter_metadata: HashMap::from([(OURS.to_owned(), fields)]), ..Metadata::default() })
}

pub(super) fn read_metadata<T: DeserializeOwned>(field: &Option<Metadata>) -> Checked<T> {
    let path = format!("metadata.{OURS}");
    let Some(ours) = field.as_ref().and_then(|metadata| metadata.filter_metadata.get(OURS)) else {
        return wrong(path, "is missing");
    };
    json::from_struct(ours).at(path)
}

pub(super) fn transport_socket(context: &impl Name) -> Option<core::TransportSocket> {
    Some(core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack(context))),
    })
}

pub(super) fn read_transport_socket<T: Name + Default>(socket: &core::TransportSocket) -> Checked<T> {
    match &socket.config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) => unpack(any).at("typed_config"),
        None => wrong("typed_config", "is missing"),
    }
}

/// Checks of values, used when writing and when reading.
pub(super) fn ensure(holds: bool, path: &str, problem: impl FnOnce() -> String) -> Checked<()> {
    if holds { Ok(()) } else { wrong(path, problem()) }
}

pub(super) fn ensure_name(name: &str, path: &str) -> Checked<()> {
    ensure(!name.is_empty(), path, || "is empty".to_owned())
}

pub(super) fn ensure_duration(value: Duration, path: &str) -> Checked<()> {
    ensure(value <= LONGEST, path, || "is longer than a year".to_owned())
}

pub(super) fn ensure_positive(value: Duration, path: &str) -> Checked<()> {
    ensure(!value.is_zero(), path, || "must be above zero".to_owned())?;
    ensure_duration(value, path)
}

/// Names twice are refused: which of the two would hold?
pub(super) fn ensure_unique<T: Ord + Debug>(values: impl IntoIterator<Item = T>, path: &str) -> Checked<()> {
    let mut seen = std::collections::BTreeSet::new();
    for value in values {
        if seen.contains(&value) {
            return wrong(path, format!("{value:?} is there twice"));
        }
        seen.insert(value);
    }
    Ok(())
}
