//! Endpoints by a file: a list of addresses, in YAML or JSON.

use std::{collections::BTreeSet, fs::File, io::Read as _, net::SocketAddr, path::Path};

use crate::sources::Found;

/// Largest file, in bytes.
const LARGEST: u64 = 1 << 20;

/// Reads it.
///
/// # Errors
/// If it cannot be read, or is not a list of addresses.
pub(crate) fn read(path: &Path) -> Result<BTreeSet<Found>, String> {
    let failed = |reason: String| format!("{}: {reason}", path.display());
    let mut text = String::new();
    let file = File::open(path).map_err(|e| failed(e.to_string()))?;
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(|e| failed(e.to_string()))?;
    if text.len() as u64 > LARGEST {
        return Err(failed(format!("it is larger than {LARGEST} bytes")));
    }
    parse(&text).map_err(failed)
}

fn parse(text: &str) -> Result<BTreeSet<Found>, String> {
    // JSON is YAML.
    let addresses: Vec<SocketAddr> = serde_saphyr::from_str(text)
        .map_err(|e| format!("it is not a list of addresses as `- 127.0.0.1:8080`: {e}"))?;
    if let Some(address) = addresses.iter().find(|address| address.port() == 0) {
        return Err(format!("{address} has no port"));
    }
    Ok(addresses.into_iter().map(|address| Found { address, weight: 1 }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_addresses_is_yaml_or_json() {
        let two = parse("- 127.0.0.1:1\n- \"[::1]:2\"\n").unwrap();
        assert_eq!(two.len(), 2);
        assert_eq!(parse("[\"127.0.0.1:1\", \"[::1]:2\"]"), Ok(two));
        for text in ["a: b", "- 127.0.0.1", "- 127.0.0.1:0", "- fx:80", "{", "- 1"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
