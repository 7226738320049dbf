//! The nearest known word to one that is not known.

/// Edits (insert, delete, replace, swap neighbours) from one word to the other; Damerau-Levenshtein, restricted
/// (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows.pop().and_then(|row| row.last().copied()).unwrap_or(0)
}

/// The known word that was probably meant: a difference in case, at most a third of the letters wrong, or the same
/// beginning.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.is_empty() || word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    let rank = |known: &'a str| {
        let other = known.to_lowercase();
        let edits = distance(&lower, &other);
        let close = edits <= (word.chars().count().max(3) / 3).max(1);
        let shared = lower.chars().zip(other.chars()).take_while(|(a, b)| a == b).count();
        let prefix = shared >= 4 || (shared >= 3 && shared == lower.len().min(other.len()));
        (close || prefix).then_some((edits, known))
    };
    known.into_iter().filter_map(rank).min().map(|(_, known)| known)
}

/// `a`, `a and b`, `a, b and c`, each in backticks.
pub(crate) fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().take(30).map(|w| format!("`{w}`")).collect();
    match words.split_last() {
        None => "nothing".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant() {
        let known = ["timeout", "retries", "hedge", "detection", "trustDomain"];
        for (word, meant) in [
            ("timout", Some("timeout")),
            ("TimeOut", Some("timeout")),
            ("retry", Some("retries")),
            ("trust_domain", Some("trustDomain")),
            ("hegde", Some("hedge")),
            ("zebra", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }
}
