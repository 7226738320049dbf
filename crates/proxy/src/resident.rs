//! Gives back the pages of the program and its libraries that only the start needed: reading a configuration, making
//! certificates, parsing arguments. A machine runs a proxy for each workload.

use std::{fs, io, ops::Range, path::Path};

use rustix::mm::{Advice, madvise};

/// Lets go of every page that is only a copy of a file's; what is used comes back from the page cache, untouched by
/// this. How many bytes of mappings were let go of.
///
/// # Errors
/// When the kernel does not tell its mappings.
#[allow(unsafe_code, reason = "a page can be given back only by its address")]
pub fn give_back() -> io::Result<usize> {
    let program = fs::read_link("/proc/self/exe")?;
    let mappings = fs::read_to_string("/proc/self/smaps")?;
    let mut bytes = 0;
    for mapping in clean(&mappings, &program) {
        let start = std::ptr::without_provenance_mut(mapping.start);
        // SAFETY: the mapping is one of the program's own segments or of a library that it is linked with. Those are mapped
        // when the process starts and stay until it ends (the loader never unmaps what it loaded at the start), so no
        // other thread can have mapped anything else at these addresses since `smaps` was read. The mapping is private,
        // not writable, and none of its pages differs from the file (`Anonymous: 0`), nor can one come to differ: nothing
        // in this program changes a mapping's protection after the loader has run. The kernel brings back the same bytes
        // at the next access.
        if unsafe { madvise(start, mapping.len(), Advice::LinuxDontNeed) }.is_ok() {
            bytes += mapping.len();
        }
    }
    Ok(bytes)
}

/// Libraries that the program is linked with: they are mapped for as long as the process lives. Others may be unmapped (name
/// service modules, for instance), and something else may be mapped in their place at any moment.
const LINKED: [&str; 6] =
    ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libstdc++.so.6"];

/// Mappings of the program and the libraries that it is linked with which can be read back from their files: private, not
/// writable, and with no page that was ever written. What the loader relocated is not writable either, but was written.
fn clean(smaps: &str, program: &Path) -> Vec<Range<usize>> {
    let lasts = |path: &str| {
        let path = Path::new(path);
        path == program || path.file_name().is_some_and(|name| LINKED.iter().any(|linked| name == *linked))
    };
    let mut found = Vec::new();
    let mut present = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some(range) = range(first) {
            let private = words.next().is_some_and(|rights| rights.starts_with("r-") && rights.ends_with('p'));
            let file = words.nth(3).is_some_and(|path| path.starts_with('/') && lasts(path));
            present = Some(range).filter(|_| private && file);
        } else if first == "Anonymous:"
            && words.next() == Some("0")
            && let Some(range) = present.take()
        {
            found.push(range);
        }
    }
    found
}

fn range(word: &str) -> Option<Range<usize>> {
    let (from, to) = word.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(from)?..number(to)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0b312e000-55d0b3696000 r--p 00000000 fe:00 5311733                    /usr/bin/firedrill
Rss:                3448 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
55d0b3696000-55d0b4fd9000 r-xp 00567000 fe:00 5311733                    /usr/bin/firedrill
Rss:                8356 kB
Anonymous:             0 kB
55d0b4fd9000-55d0b5087000 r--p 01ea9000 fe:00 5311733                    /usr/bin/firedrill
Anonymous:           696 kB
55d0b5087000-55d0b5092000 rw-p 01f56000 fe:00 5311733                    /usr/bin/firedrill
Anonymous:             0 kB
7ee000000000-7ee000021000 r-xp 00000000 fe:00 77                         /usr/lib/x86_64-linux-gnu/libnss_dns.so.2
Anonymous:             0 kB
7f0000000000-7f0000021000 r--p 00000000 00:00 0
Anonymous:             0 kB
7f1000000000-7f1000021000 r--s 00000000 fe:00 99                         /var/lib/shared
Anonymous:             0 kB
7ffc1bdf2000-7ffc1bdf4000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
";

    #[test]
    fn only_what_a_file_has_as_it_is() {
        assert_eq!(
            clean(SMAPS, Path::new("/usr/bin/firedrill")),
            [0x55d0_b312_e000..0x55d0_b369_6000, 0x55d0_b369_6000..0x55d0_b4fd_9000]
        );
    }

    #[test]
    fn the_program_goes_on_without_its_pages() {
        let text: String = ('a'..='z').collect();
        assert!(give_back().unwrap() > 0);
        assert_eq!(text.len(), 26);
        assert!(clean("nonsense\n\u{fffd}-0 r--p\nAnonymous: 0 kB\n", Path::new("/x")).is_empty());
    }
}
