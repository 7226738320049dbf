//! Endpoints by a file: a list of addresses, in YAML or JSON. A manifest may name any file that this process can read, so
//! nothing of its contents is ever told.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Read as _,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;

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
    stays_in_its_folder(path).map_err(failed)?;
    // A pipe would wait for its writer.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|e| failed(e.to_string()))?;
    if !file.metadata().map_err(|e| failed(e.to_string()))?.is_file() {
        return Err(failed("it is not a regular file".to_owned()));
    }
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(|e| failed(e.kind().to_string()))?;
    if text.len() as u64 > LARGEST {
        return Err(failed(format!("it is larger than {LARGEST} bytes")));
    }
    parse(&text).map_err(failed)
}

/// A symbolic link may lead elsewhere in its folder, as those of a Kubernetes ConfigMap do, and not out of it.
fn stays_in_its_folder(path: &Path) -> Result<(), String> {
    let real = fs::canonicalize(path).map_err(|e| e.to_string())?;
    let folder = path.parent().map(fs::canonicalize).transpose().map_err(|e| e.to_string())?;
    if folder.is_some_and(|folder| !real.starts_with(folder)) {
        return Err("it is a symbolic link out of its folder".to_owned());
    }
    Ok(())
}

fn parse(text: &str) -> Result<BTreeSet<Found>, String> {
    // JSON is YAML.
    let written: Vec<String> = serde_saphyr::from_str(text)
        .map_err(|_| "it is not a list of addresses such as `- 127.0.0.1:8080`".to_owned())?;
    let mut addresses = Vec::new();
    for (number, text) in (1..).zip(written) {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => addresses.push(address),
            Ok(_) => return Err(format!("entry {number} has no port")),
            Err(_) => return Err(format!("entry {number} is not an address such as `127.0.0.1:8080`")),
        }
    }
    Ok(addresses.into_iter().map(|address| Found { address, weight: 1 }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_foreign_file_is_told_and_no_link_leads_out_of_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("inside"), folder.path().join("outside"));
        fs::create_dir(&inside).unwrap();
        let secrets =
            ["root:$6$secret:19000:0:99999:7:::\n", "- $6$secret\n", "{$6$secret", "- [$6$secret]\n", "\u{0}$6$secret"];
        for secret in secrets {
            fs::write(&outside, secret).unwrap();
            let reason = read(&outside).unwrap_err();
            assert!(!reason.contains("secret") && !reason.contains("$6"), "{reason}");
        }
        fs::write(&outside, "- 127.0.0.1:1\n").unwrap();
        let link = inside.join("list");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        assert!(read(&link).unwrap_err().contains("out of its folder"));
        fs::write(inside.join("real"), "- 127.0.0.1:1\n").unwrap();
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        assert_eq!(read(&link).unwrap().len(), 1);
        assert!(read(&inside).unwrap_err().contains("regular file"));
    }

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
