//! Numbers with their units, as people write them: `500ms`, `99.9%`, `200/s`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// A share of a whole, 0–100.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Percent(pub f64);

/// Events a second, above 0.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate(pub f64);

/// Why a text is not a quantity: what one looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(pub &'static str);

const PERCENT: UnitError = UnitError("a percentage is a number from 0 to 100 and `%`, as `99.9%`");
const RATE: UnitError = UnitError("a rate is a number above 0, at most 100000, and `/s`, as `200/s`");
const DURATION: UnitError =
    UnitError("a duration is a number and its unit, one of us, ms, s, m, h, d, as `500ms` or `1.5s`");
const TOO_LONG: UnitError = UnitError("a duration is at most 366d");
const TOO_FINE: UnitError = UnitError("a duration is a whole number of microseconds");

/// Digits, at most one point between digits: no sign, exponent, infinity.
fn is_plain_number(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| (1..=18).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
    digits(whole) && digits(fraction)
}

fn plain_number(text: &str) -> Option<f64> {
    is_plain_number(text).then(|| text.parse().ok()).flatten()
}

impl FromStr for Percent {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let number = text.strip_suffix('%').and_then(|n| plain_number(n.trim_end())).ok_or(PERCENT)?;
        if number <= 100.0 { Ok(Self(number)) } else { Err(PERCENT) }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl FromStr for Rate {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let number = text.strip_suffix("/s").and_then(|n| plain_number(n.trim_end())).ok_or(RATE)?;
        if number > 0.0 && number <= 100_000.0 { Ok(Self(number)) } else { Err(RATE) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}

/// Units of time in microseconds, longest suffix first where one ends with another.
const UNITS: [(&str, u64); 6] =
    [("us", 1), ("ms", 1_000), ("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000)];

/// Reads `500ms`, `1.5s`, `5m`, `24h`, `7d`: exact, a whole number of microseconds, at most 366 days.
///
/// # Errors
/// What a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = UNITS.iter().find_map(|(s, us)| Some((text.strip_suffix(s)?, *us))).ok_or(DURATION)?;
    let number = number.trim_end();
    if !is_plain_number(number) {
        return Err(DURATION);
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = fraction.trim_end_matches('0');
    let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| DURATION)?);
    let digits = |s: &str| if s.is_empty() { Ok(0u128) } else { s.parse::<u128>().map_err(|_| DURATION) };
    // At most 36 digits by `is_plain_number`, times a unit below 10^11: u128 could overflow, hence checked.
    let value = digits(whole)?.checked_mul(scale).and_then(|v| v.checked_add(digits(fraction).ok()?));
    let scaled = value.and_then(|v| v.checked_mul(u128::from(unit))).ok_or(TOO_LONG)?;
    if scaled % scale != 0 {
        return Err(TOO_FINE);
    }
    let micros = u64::try_from(scaled / scale).map_err(|_| TOO_LONG)?;
    if micros > 366 * 86_400_000_000 { Err(TOO_LONG) } else { Ok(Duration::from_micros(micros)) }
}

/// Writes a duration in the largest unit that divides it, so that [`parse_duration`] gives it back. Finer than a
/// microsecond is cut off.
pub fn print_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    if micros == 0 {
        return "0s".to_owned();
    }
    // Days only for whole numbers of them above two: people say 24h.
    let units = [("d", 86_400_000_000u128), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)];
    for (suffix, unit) in units {
        if micros.is_multiple_of(unit) && (suffix != "d" || micros > 2 * unit) {
            return format!("{}{suffix}", micros / unit);
        }
    }
    format!("{micros}us")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_exactly() {
        for (text, micros) in [
            ("0s", 0),
            ("1us", 1),
            ("500ms", 500_000),
            ("1.5s", 1_500_000),
            ("0.000001s", 1),
            ("5m", 300_000_000),
            ("24h", 86_400_000_000),
            ("366d", 31_622_400_000_000),
            ("2 s", 2_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_micros(micros)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "1e3s",
            "1.s",
            ".5s",
            "1..5s",
            "5sec",
            "367d",
            "0.5us",
            "99999999999999999999s",
            "1 m s",
            "∞s",
            "5M",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn percentages_and_rates() {
        assert_eq!("99.9%".parse(), Ok(Percent(99.9)));
        assert_eq!("0%".parse(), Ok(Percent(0.0)));
        assert_eq!("2000/s".parse(), Ok(Rate(2000.0)));
        assert_eq!("0.5/s".parse(), Ok(Rate(0.5)));
        for text in ["", "%", "101%", "-1%", "1e1%", "NaN%", "50"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
        for text in ["", "/s", "0/s", "100001/s", "5/m", "5", "inf/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn durations_come_back(micros in 0u64..=31_622_400_000_000) {
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&print_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = parse_duration(&text);
            let _ = text.parse::<Percent>();
            let _ = text.parse::<Rate>();
        }
    }
}
