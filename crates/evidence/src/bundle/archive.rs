//! The outer form of a bundle: a `tar` with fixed metadata, so that the same parts always give the same bytes, and any
//! other bytes are not a bundle. Pure.

use std::borrow::Cow;

use tar::{EntryType, Header};

/// A block of the format.
const BLOCK: usize = 512;

/// Most parts that are read.
const MAX_PARTS: usize = 1024;

/// A named part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Path inside the archive.
    pub name: String,
    /// Content; borrowed from the file where it was read.
    pub bytes: Cow<'a, [u8]>,
}

impl<'a> Part<'a> {
    /// A part.
    pub fn new(name: impl Into<String>, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { name: name.into(), bytes: bytes.into() }
    }

    /// The same part without a copy of its content.
    pub fn borrowed(&self) -> Part<'_> {
        Part { name: self.name.clone(), bytes: Cow::Borrowed(&self.bytes) }
    }
}

/// The part of this name.
pub fn find<'a>(parts: &'a [Part<'a>], name: &str) -> Result<&'a Part<'a>, String> {
    parts.iter().find(|part| part.name == name).ok_or_else(|| format!("{name} is missing"))
}

/// The header of a part.
fn header(name: &str, size: usize) -> Result<[u8; BLOCK], String> {
    let mut header = Header::new_ustar();
    header.set_path(name).map_err(|error| format!("part {name:?}: {error}"))?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size as u64);
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// The one spelling of these parts: ustar headers without owner or time, zero padding, two zero blocks at the end.
pub fn write(parts: &[Part]) -> Result<Vec<u8>, String> {
    let mut bytes =
        Vec::with_capacity(parts.iter().map(|part| part.bytes.len() + 2 * BLOCK).sum::<usize>() + 2 * BLOCK);
    for part in parts {
        bytes.extend_from_slice(&header(&part.name, part.bytes.len())?);
        bytes.extend_from_slice(&part.bytes);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    }
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    Ok(bytes)
}

/// Reads parts; tolerant in what [`locate_difference`] finds afterwards.
pub fn read(bytes: &[u8]) -> Result<Vec<Part<'_>>, String> {
    let (mut parts, mut at): (Vec<Part<'_>>, _) = (Vec::new(), 0);
    loop {
        let place =
            || format!("byte {at}, the header after {}", parts.last().map_or("the start", |part| part.name.as_str()));
        let Some(block) = bytes.get(at..at + BLOCK).and_then(|block| <&[u8; BLOCK]>::try_from(block).ok()) else {
            return Err(format!("{}: the file ends here; it was cut", place()));
        };
        if block.iter().all(|byte| *byte == 0) {
            return Ok(parts);
        }
        if parts.len() == MAX_PARTS {
            return Err(format!("more than {MAX_PARTS} parts"));
        }
        let mut header = Header::new_ustar();
        header.as_mut_bytes().copy_from_slice(block);
        let name = String::from_utf8(header.path_bytes().into_owned())
            .map_err(|_| format!("{}: the name is not text", place()))?;
        let size = header.entry_size().ok().and_then(|size| usize::try_from(size).ok());
        let size = size.ok_or_else(|| format!("{}: the size is not a number", place()))?;
        let start = at + BLOCK;
        let content = start.checked_add(size).and_then(|end| bytes.get(start..end));
        let content = content.ok_or_else(|| format!("{}: {name} has {size} bytes, more than the file", place()))?;
        parts.push(Part::new(name, content));
        at = start.saturating_add(size).next_multiple_of(BLOCK);
    }
}

/// Where `bytes` differ from the one spelling of `parts`, in words; `None` if they do not.
pub fn locate_difference(bytes: &[u8], parts: &[Part]) -> Option<String> {
    let mut at = 0;
    for part in parts {
        let header = match header(&part.name, part.bytes.len()) {
            Ok(header) => header,
            Err(why) => return Some(why),
        };
        let found = bytes.get(at..).unwrap_or_default();
        let offset = crate::canonical::first_difference(&header, found);
        if offset < BLOCK {
            return Some(format!("byte {}, in the header of {}, is not as it is written", at + offset, part.name));
        }
        let end = at + BLOCK + part.bytes.len();
        at = end.next_multiple_of(BLOCK);
        let padding = bytes.get(end..at.min(bytes.len())).unwrap_or_default();
        if let Some(offset) = padding.iter().position(|byte| *byte != 0) {
            return Some(format!("byte {}, in the padding of {}, is not zero", end + offset, part.name));
        }
    }
    let written = at + 2 * BLOCK;
    let rest = bytes.get(at..).unwrap_or_default();
    let offset = rest.iter().take(2 * BLOCK).position(|byte| *byte != 0).map(|offset| at + offset);
    let offset = offset.or_else(|| (bytes.len() != written).then(|| written.min(bytes.len())));
    offset.map(|offset| {
        format!("byte {offset}, behind the last part: {} bytes are there, {written} were written", bytes.len())
    })
}

/// First byte of each part's content.
pub fn offset_of(parts: &[Part], name: &str) -> usize {
    let before = parts.iter().take_while(|part| part.name != name);
    before.map(|part| BLOCK + part.bytes.len().next_multiple_of(BLOCK)).sum::<usize>() + BLOCK
}
