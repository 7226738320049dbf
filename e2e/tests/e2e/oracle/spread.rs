//! Whether counts follow a distribution: Pearson's χ² with a significance so small that it fails only on a difference.

use std::collections::BTreeMap;

/// Standard normal quantile of the test's significance (3·10⁻⁷): with some hundred tests a run, one run in
/// thirty thousand would fail by chance.
const QUANTILE: f64 = 5.0;

/// How often each name answered.
pub type Counts = BTreeMap<String, u64>;

/// Checks counts against shares (any unit, relative to their sum).
///
/// # Errors
/// What differs.
pub fn follows(counts: &Counts, shares: &[(&str, f64)]) -> Result<(), String> {
    let total: u64 = counts.values().sum();
    let sum: f64 = shares.iter().map(|(_, share)| share).sum();
    let stranger = counts.keys().find(|name| shares.iter().all(|(known, share)| known != name || *share == 0.0));
    if let Some(stranger) = stranger {
        return Err(format!("{stranger} should have got nothing: {counts:?}"));
    }
    let terms = shares.iter().filter(|(_, share)| *share > 0.0).map(|(name, share)| {
        let expected = total as f64 * share / sum;
        let found = counts.get(*name).copied().unwrap_or_default() as f64;
        (found - expected).powi(2) / expected
    });
    let used = shares.iter().filter(|(_, share)| *share > 0.0).count();
    judge(terms.sum(), used.saturating_sub(1), || format!("{counts:?} does not follow {shares:?}"))
}

/// Checks that two counts may come from one distribution.
///
/// # Errors
/// What differs.
pub fn alike(one: &Counts, other: &Counts) -> Result<(), String> {
    let (n, m) = (one.values().sum::<u64>() as f64, other.values().sum::<u64>() as f64);
    let names: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let terms = names.iter().map(|name| {
        let (a, b) = (one.get(*name).copied().unwrap_or_default(), other.get(*name).copied().unwrap_or_default());
        let (a, b) = (a as f64, b as f64);
        let (of_n, of_m) = ((a + b) * n / (n + m), (a + b) * m / (n + m));
        (a - of_n).powi(2) / of_n + (b - of_m).powi(2) / of_m
    });
    judge(terms.sum(), names.len().saturating_sub(1), || format!("{one:?} and {other:?} differ"))
}

fn judge(statistic: f64, freedom: usize, what: impl FnOnce() -> String) -> Result<(), String> {
    let bound = bound(freedom);
    if statistic <= bound { Ok(()) } else { Err(format!("{} (χ² {statistic:.1} above {bound:.1})", what())) }
}

/// χ² that is exceeded by chance with the test's significance: Wilson and Hilferty's approximation, which lies above the
/// exact value for few degrees of freedom.
fn bound(freedom: usize) -> f64 {
    if freedom == 0 {
        return f64::EPSILON;
    }
    let k = freedom as f64;
    let spread = 2.0 / (9.0 * k);
    k * (1.0 - spread + QUANTILE * spread.sqrt()).powi(3)
}

#[test]
fn a_difference_is_seen_and_chance_is_not() {
    let counts = |a: u64, b: u64| Counts::from([("a".to_owned(), a), ("b".to_owned(), b)]);
    follows(&counts(1430, 570), &[("a", 70.0), ("b", 30.0)]).unwrap();
    follows(&counts(1600, 400), &[("a", 70.0), ("b", 30.0)]).unwrap_err();
    follows(&counts(1999, 1), &[("a", 100.0), ("b", 0.0)]).unwrap_err();
    follows(&counts(2000, 0), &[("a", 98.0), ("b", 2.0)]).unwrap_err();
    alike(&counts(1430, 570), &counts(1370, 630)).unwrap();
    alike(&counts(1430, 570), &counts(1200, 800)).unwrap_err();
}
