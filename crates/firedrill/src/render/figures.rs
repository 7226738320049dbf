//! Numbers as people read them.

use std::{collections::BTreeMap, time::Duration};

/// `0.91 s`, `12.3 s`: seconds with the precision that matters at their size.
pub fn seconds(value: f64) -> String {
    format!("{} s", bare_seconds(value))
}

/// The same without the unit.
pub fn bare_seconds(value: f64) -> String {
    let size = value.abs();
    if size >= 99.95 {
        format!("{value:.0}")
    } else if size >= 9.995 {
        format!("{value:.1}")
    } else if size >= 0.0995 || size == 0.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

/// An objective: `5 s`, `1.5 s`, `250 ms`: as it was written, without needless digits.
pub fn bound(value: f64) -> String {
    if value > 0.0 && value < 1.0 { format!("{} ms", trimmed(value * 1e3)) } else { format!("{} s", trimmed(value)) }
}

/// `+0.004 s`: a time since the fault.
pub fn offset(value: f64) -> String {
    format!("{}{} s", if value < 0.0 { "−" } else { "+" }, bare_seconds(value.abs()))
}

/// `3.1 ms`, `0.84 s`: a latency.
pub fn latency(value: Duration) -> String {
    let millis = value.as_secs_f64() * 1e3;
    if millis >= 1000.0 {
        seconds(value.as_secs_f64())
    } else if millis >= 99.95 {
        format!("{millis:.0} ms")
    } else {
        format!("{millis:.1} ms")
    }
}

/// `12 345`: digits in groups of three; up to 9999 as one group.
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    if digits.len() <= 4 {
        return digits;
    }
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// `1 request`, `12 345 requests`.
pub fn requests(value: u64) -> String {
    format!("{} request{}", number(value), if value == 1 { "" } else { "s" })
}

/// Longest text of a command that is shown on one line, in characters.
const LONGEST: usize = 300;

/// What a command said, on one line, without control characters; the evidence has the whole of it.
pub fn one_line(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut shown = lines.join(" | ").replace(char::is_control, " ");
    if let Some((end, _)) = shown.char_indices().nth(LONGEST) {
        shown.truncate(end);
        shown.push('…');
    }
    shown
}

/// `100 %`, `99.95 %`: never rounded up to 100.
pub fn percent(value: f64) -> String {
    let cut = (value * 100.0).floor() / 100.0;
    format!("{} %", trimmed(cut))
}

/// `east 98 %, west 2 %`.
pub fn shares(shares: &BTreeMap<String, f64>) -> String {
    let shown: Vec<_> = shares
        .iter()
        .filter(|(_, share)| **share > 0.0)
        .map(|(region, share)| {
            let rounded = if *share < 1.0 { format!("{share:.1}") } else { format!("{:.0}", share.floor()) };
            format!("{region} {rounded} %")
        })
        .collect();
    shown.join(", ")
}

/// `sha256:4c1f08…`: enough to compare by eye.
pub fn short_digest(digest: &str) -> String {
    let keep = digest.find(':').map_or(0, |at| at + 1) + 12;
    match digest.char_indices().nth(keep) {
        Some((end, _)) => format!("{}…", &digest[..end]),
        None => digest.to_owned(),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_keep_what_matters() {
        for (value, text) in [
            (0.0, "0.00 s"),
            (0.0021, "0.002 s"),
            (0.0996, "0.10 s"),
            (0.914, "0.91 s"),
            (9.999, "10.0 s"),
            (12.34, "12.3 s"),
            (123.4, "123 s"),
        ] {
            assert_eq!(seconds(value), text);
        }
        assert_eq!(offset(-0.001), "−0.001 s");
        assert_eq!(offset(0.9), "+0.90 s");
    }

    #[test]
    fn numbers_are_grouped() {
        for (value, text) in [(0, "0"), (1998, "1998"), (9999, "9999"), (10_000, "10 000"), (1_234_567, "1 234 567")] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn one_request_is_one() {
        assert_eq!(["0 requests", "1 request", "12 345 requests"], [0, 1, 12_345].map(requests));
    }

    #[test]
    fn what_a_command_said_stays_on_its_line() {
        for (said, shown) in
            [("done", "done"), ("one\n  two\n\n", "one | two"), ("\u{1b}[2Jcleared\r\n", " [2Jcleared"), ("", "")]
        {
            assert_eq!(one_line(said), shown);
        }
        assert_eq!(one_line(&"x".repeat(1000)).chars().count(), LONGEST + 1);
    }

    #[test]
    fn a_percentage_is_not_rounded_up_to_all() {
        assert_eq!(percent(100.0), "100 %");
        assert_eq!(percent(99.999), "99.99 %");
        assert_eq!(percent(99.5), "99.5 %");
        assert_eq!(percent(0.0), "0 %");
    }

    #[test]
    fn bounds_and_latencies() {
        assert_eq!(bound(5.0), "5 s");
        assert_eq!(bound(1.5), "1.5 s");
        assert_eq!(bound(0.25), "250 ms");
        assert_eq!(latency(Duration::from_micros(3_140)), "3.1 ms");
        assert_eq!(latency(Duration::from_millis(250)), "250 ms");
        assert_eq!(latency(Duration::from_millis(1250)), "1.25 s");
    }

    #[test]
    fn digests_are_shortened() {
        assert_eq!(short_digest("sha256:0123456789abcdef"), "sha256:0123456789ab…");
        assert_eq!(short_digest("short"), "short");
    }
}
