//! Where a request stands in a trace, and what a hop makes of it. W3C Trace Context, level 2. Pure.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

const SAMPLED: u8 = 1;
/// The trace id was drawn at random.
const RANDOM: u8 = 2;

/// A span of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace; not 0.
    pub trace: u128,
    /// The span; not 0.
    pub span: u64,
    flags: u8,
}

impl Context {
    /// Whether the trace is recorded.
    pub fn sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Reads a `traceparent`. One of a later version is read as far as it is like ours.
    pub fn read(value: &[u8]) -> Option<Self> {
        let (ours, rest) = value.split_at_checked(55)?;
        let text = std::str::from_utf8(ours).ok()?;
        let mut fields = text.split('-');
        let mut field = |length: usize| {
            let digits = fields.next().filter(|field| field.len() == length)?;
            let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            if !digits.bytes().all(lower) {
                return None;
            }
            u128::from_str_radix(digits, 16).ok()
        };
        let (version, trace, span, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
        let whole = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        if !whole || trace == 0 || span == 0 {
            return None;
        }
        let flags = u8::try_from(flags).ok()? & (SAMPLED | RANDOM);
        Some(Self { trace, span: u64::try_from(span).ok()?, flags })
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// A request's span at this hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Ours, which the next hop is told.
    pub context: Context,
    /// The caller's span, if it told one.
    pub parent: Option<u64>,
}

/// Makes a request's next span, and writes it into its headers. Whether a trace is recorded is the first hop's decision:
/// `ratio` of the traces that begin here. A caller whose decision does not count (`trusted` is false, as at the edge of
/// the mesh) has its ids kept, and is decided about anew.
pub fn hop(headers: &mut HeaderMap, trusted: bool, ratio: f64, random: &mut fastrand::Rng) -> Hop {
    let caller = {
        let mut told = headers.get_all(TRACEPARENT).iter();
        match (told.next(), told.next()) {
            (Some(only), None) => Context::read(only.as_bytes()),
            _ => None,
        }
    };
    if caller.is_none() {
        // The state belongs to a parent that is not known.
        headers.remove(TRACESTATE);
    }
    let mut flags = caller.map_or(RANDOM, |caller| caller.flags);
    if !(trusted && caller.is_some()) {
        let sampled = random.f64() < ratio;
        flags = flags & !SAMPLED | if sampled { SAMPLED } else { 0 };
    }
    let trace = caller.map_or_else(|| random.u128(1..), |caller| caller.trace);
    let context = Context { trace, span: random.u64(1..), flags };
    if let Ok(value) = HeaderValue::try_from(context.to_string()) {
        headers.insert(TRACEPARENT, value);
    }
    Hop { context, parent: caller.map(|caller| caller.span) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_well_formed_parents_are_read() {
        let context = Context::read(TOLD.as_bytes()).unwrap();
        assert_eq!(context.to_string(), TOLD);
        assert!(context.sampled());
        let ok = |text: &str| Context::read(text.as_bytes()).is_some();
        assert!(ok(&TOLD.replace("-01", "-00")));
        assert!(ok(&TOLD.replacen("00-", "cc-", 1)), "a later version");
        assert!(ok(&format!("{}-what-comes-later", TOLD.replacen("00-", "cc-", 1))));
        for bad in [
            String::new(),
            TOLD[..54].to_owned(),
            format!("{TOLD}-x"),
            format!("{}x", TOLD.replacen("00-", "cc-", 1)),
            TOLD.replacen("00-", "ff-", 1),
            TOLD.replace("4bf9", "4BF9"),
            TOLD.replace("4bf92f", "4bf-2f"),
            TOLD.replace("4bf9", "+bf9"),
            TOLD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            TOLD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            TOLD.replace('-', "_"),
            "é".repeat(28),
        ] {
            assert!(!ok(&bad), "{bad}");
        }
    }

    #[test]
    fn a_hop_is_a_child_of_its_caller() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut headers = headers(&[("traceparent", TOLD), ("tracestate", "a=1")]);
        let hop = hop(&mut headers, true, 0.0, &mut random);
        assert_eq!(hop.parent, Some(0x00f0_67aa_0ba9_02b7));
        assert_eq!(headers["traceparent"], hop.context.to_string().as_str());
        assert_eq!(headers["tracestate"], "a=1");
        let told = Context::read(TOLD.as_bytes()).unwrap();
        assert!(hop.context.trace == told.trace && hop.context.span != told.span);
        assert!(hop.context.sampled(), "as its caller decided");
    }

    #[test]
    fn a_caller_that_says_nothing_usable_begins_a_trace() {
        let mut random = fastrand::Rng::with_seed(2);
        for told in [vec![], vec![("traceparent", "junk")], vec![("traceparent", TOLD), ("traceparent", TOLD)]] {
            let mut headers = headers(&told);
            headers.append("tracestate", HeaderValue::from_static("a=1"));
            let hop = hop(&mut headers, true, 1.0, &mut random);
            assert!(hop.parent.is_none() && hop.context.sampled());
            assert!(!headers.contains_key("tracestate"));
            assert_eq!(headers.get_all("traceparent").iter().count(), 1);
        }
    }

    #[test]
    fn a_stranger_does_not_decide_what_is_recorded() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut sampled = 0;
        for _ in 0..10_000 {
            let mut headers = headers(&[("traceparent", TOLD)]);
            let hop = hop(&mut headers, false, 0.1, &mut random);
            assert_eq!(hop.parent, Some(0x00f0_67aa_0ba9_02b7));
            sampled += u32::from(hop.context.sampled());
        }
        assert!((850..1150).contains(&sampled), "{sampled}");
    }
}
