//! serde values ↔ `google.protobuf.Struct`.

use envoy_types::pb::google::protobuf::{ListValue, NullValue, Struct, Value, value::Kind};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Number, Value as Json};

use super::wire::{Checked, wrong};

/// Our types are structs of text, numbers and lists: always an object in JSON, always representable.
pub(super) fn to_struct(value: &impl Serialize) -> Struct {
    match serde_json::to_value(value) {
        Ok(Json::Object(fields)) => write_fields(fields),
        _ => Struct::default(),
    }
}

pub(super) fn from_struct<T: DeserializeOwned>(fields: &Struct) -> Checked<T> {
    let value = Json::Object(read_fields(fields)?);
    serde_json::from_value(value).or_else(|error| wrong("", error.to_string()))
}

fn write_fields(fields: Map<String, Json>) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, value)| (key, write(value))).collect() }
}

fn write(value: Json) -> Value {
    let kind = match value {
        Json::Null => Kind::NullValue(NullValue::NullValue.into()),
        Json::Bool(value) => Kind::BoolValue(value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(values) => Kind::ListValue(ListValue { values: values.into_iter().map(write).collect() }),
        Json::Object(fields) => Kind::StructValue(write_fields(fields)),
    };
    Value { kind: Some(kind) }
}

/// Depth is bounded by prost's recursion limit when the message was decoded.
fn read(value: &Value) -> Checked<Json> {
    Ok(match value.kind.as_ref() {
        None => return wrong("", "a value is missing"),
        Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(*value),
        Some(Kind::NumberValue(value)) => match read_number(*value) {
            Some(number) => Json::Number(number),
            None => return wrong("", format!("{value} is not a number that JSON can hold")),
        },
        Some(Kind::StringValue(text)) => Json::String(text.clone()),
        Some(Kind::ListValue(list)) => Json::Array(list.values.iter().map(read).collect::<Checked<_>>()?),
        Some(Kind::StructValue(fields)) => Json::Object(read_fields(fields)?),
    })
}

/// A whole number becomes an integer, so that integer fields take it; serde lets floating-point fields take both.
fn read_number(value: f64) -> Option<Number> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT && !(value == 0.0 && value.is_sign_negative()) {
        return Some(Number::from(value as i64));
    }
    Number::from_f64(value)
}

fn read_fields(fields: &Struct) -> Checked<Map<String, Json>> {
    fields.fields.iter().map(|(key, value)| Ok((key.clone(), read(value)?))).collect()
}
