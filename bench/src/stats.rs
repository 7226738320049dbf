//! Figures out of samples.

/// The middle value; of an even number the lower one. `None` of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    quantile(values, 0.5)
}

/// The value that this part of the values (0 to 1) does not exceed. `None` of nothing.
pub fn quantile(values: impl IntoIterator<Item = f64>, part: f64) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    values.get((last as f64 * part).floor() as usize).copied()
}

/// Median, and smallest and largest in brackets.
pub fn spread(values: &[f64], digits: usize) -> String {
    let Some(middle) = median(values.iter().copied()) else { return "-".to_owned() };
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{middle:.digits$} [{least:.digits$} {most:.digits$}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middles() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(quantile([1.0, 2.0, 3.0, 4.0], 1.0), Some(4.0));
        assert_eq!(spread(&[2.0, 1.0, 9.0], 1), "2.0 [1.0 9.0]");
        assert_eq!(spread(&[], 1), "-");
    }
}
