//! Requests logged over gRPC to whoever runs the Envoy, as large a share of them as a key of its runtime says.

use std::time::Duration;

use envoy_types::pb::envoy::{
    config::{
        accesslog::v3::{
            AccessLog, AccessLogFilter, RuntimeFilter, access_log::ConfigType as LogType,
            access_log_filter::FilterSpecifier,
        },
        core::v3::{ApiVersion, GrpcService, grpc_service},
        listener::v3::{Filter, filter::ConfigType},
    },
    extensions::{
        access_loggers::grpc::v3::{CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig},
        filters::network::http_connection_manager::v3::HttpConnectionManager,
    },
    r#type::v3::{FractionalPercent, fractional_percent::DenominatorType},
};
use envoy_types::pb::google::protobuf::UInt32Value;

use super::{
    layer::REQUESTS,
    wire::{duration, pack, unpack},
};

/// Name of the bootstrap's own cluster, over which an Envoy talks to us; a service of this name would be hidden by it.
pub(crate) const CONTROL: &str = "firedrill.control-plane";
/// Entries wait this long for others.
const FLUSH: Duration = Duration::from_millis(200);
/// What may wait, in bytes, before it is sent at once.
const BUFFER: u32 = 64 * 1024;

/// Has what the filter serves logged, if it is one for HTTP.
pub(super) fn requests(filter: &mut Filter, listener: &str, percent: u8) {
    let Some(ConfigType::TypedConfig(config)) = &mut filter.config_type else { return };
    let Ok(mut manager) = unpack::<HttpConnectionManager>(config) else { return };
    manager.access_log = vec![log(listener, percent)];
    *config = pack(&manager);
}

fn log(listener: &str, percent: u8) -> AccessLog {
    let target = grpc_service::EnvoyGrpc {
        cluster_name: CONTROL.to_owned(),
        authority: "control".to_owned(),
        ..grpc_service::EnvoyGrpc::default()
    };
    let common = CommonGrpcAccessLogConfig {
        log_name: listener.to_owned(),
        grpc_service: Some(GrpcService {
            target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(target)),
            ..GrpcService::default()
        }),
        transport_api_version: ApiVersion::V3.into(),
        buffer_flush_interval: duration(FLUSH),
        buffer_size_bytes: Some(UInt32Value { value: BUFFER }),
        ..CommonGrpcAccessLogConfig::default()
    };
    let config = HttpGrpcAccessLogConfig { common_config: Some(common), ..HttpGrpcAccessLogConfig::default() };
    let share = FractionalPercent { numerator: percent.into(), denominator: DenominatorType::Hundred.into() };
    let asked = RuntimeFilter {
        runtime_key: REQUESTS.to_owned(),
        percent_sampled: Some(share),
        use_independent_randomness: true,
    };
    AccessLog {
        name: "envoy.access_loggers.http_grpc".to_owned(),
        filter: Some(AccessLogFilter { filter_specifier: Some(FilterSpecifier::RuntimeFilter(asked)) }),
        config_type: Some(LogType::TypedConfig(pack(&config))),
    }
}
