//! Changes to headers ↔ lists of headers to add and to remove.

use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
};

use super::{
    matching::validate_header_name,
    wire::{At, Checked, ensure, need, wrong},
};
use crate::snapshot::HeaderEdits;

/// Not to be changed: they say where a message ends, whom it is for, or are between neighbours only.
const FIXED: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

pub(super) fn validate(edits: &HeaderEdits) -> Checked<()> {
    for name in edits.set.iter().chain(&edits.add).map(|(name, _)| name).chain(&edits.remove) {
        validate_header_name(name)?;
        ensure(!FIXED.contains(&name.as_str()), "", || format!("{name} cannot be changed"))?;
    }
    for (name, value) in edits.set.iter().chain(&edits.add) {
        // RFC 9110, 5.5; what surrounds a value is not part of it.
        let fine = value.bytes().all(|byte| matches!(byte, b' '..=b'~')) && value.trim() == value;
        ensure(fine, "", || format!("{name}: {value:?} is not a header's value"))?;
    }
    Ok(())
}

/// What is set, then what is added.
pub(super) fn write(edits: &HeaderEdits) -> Vec<HeaderValueOption> {
    let option = |(key, value): &(String, String), action: HeaderAppendAction| HeaderValueOption {
        // Envoy expands what stands between signs of percent.
        header: Some(HeaderValue { key: key.clone(), value: value.replace('%', "%%"), ..HeaderValue::default() }),
        append_action: action.into(),
        keep_empty_value: value.is_empty(),
        ..HeaderValueOption::default()
    };
    let set = edits.set.iter().map(|header| option(header, HeaderAppendAction::OverwriteIfExistsOrAdd));
    set.chain(edits.add.iter().map(|header| option(header, HeaderAppendAction::AppendIfExistsOrAdd))).collect()
}

pub(super) fn read(add: &[HeaderValueOption], remove: &[String], path: &str) -> Checked<HeaderEdits> {
    let mut edits = HeaderEdits { remove: remove.to_vec(), ..HeaderEdits::default() };
    for option in add {
        let header = need(&option.header, path)?;
        let pair = (header.key.clone(), read_value(&header.value).at(path)?);
        match HeaderAppendAction::try_from(option.append_action) {
            Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) => edits.set.push(pair),
            Ok(HeaderAppendAction::AppendIfExistsOrAdd) => edits.add.push(pair),
            _ => return wrong(path, format!("{}: the append_action is not supported", header.key)),
        }
    }
    Ok(edits)
}

fn read_value(value: &str) -> Checked<String> {
    let plain = value.replace("%%", "");
    ensure(!plain.contains('%'), "", || format!("{value:?}: command operators are not supported"))?;
    Ok(value.replace("%%", "%"))
}
