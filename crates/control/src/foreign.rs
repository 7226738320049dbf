//! A foreign trust domain as it is known: what its bundle said last, and whether it still says something. Pure.

use std::time::Duration;

use xds::clock::Stamp;

use crate::bundle::{Bundle, refresh_after};

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Its roots are others now.
    Taken,
    /// It answers again, as it did.
    Mended,
    /// It cannot be read or fetched; what it said last is kept.
    Failing(String),
}

/// What is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Foreign {
    /// Where its bundle comes from, in words.
    pub(crate) source: String,
    /// What it said last.
    pub(crate) bundle: Option<Bundle>,
    /// When.
    pub(crate) fresh: Option<Stamp>,
    /// Why it says nothing now.
    pub(crate) failing: Option<String>,
}

impl Foreign {
    /// Takes an answer, or a failure.
    pub(crate) fn saw(&mut self, seen: Result<Bundle, String>, now: Stamp) -> Option<News> {
        match seen {
            Ok(bundle) => {
                let mended = self.failing.take().is_some();
                let same = self.pem() == Some(bundle.pem());
                (self.bundle, self.fresh) = (Some(bundle), Some(now));
                if same { mended.then_some(News::Mended) } else { Some(News::Taken) }
            }
            Err(reason) => {
                let told = self.failing.as_ref() == Some(&reason);
                self.failing = Some(reason.clone());
                (!told).then_some(News::Failing(reason))
            }
        }
    }

    /// Its roots, PEM; `None`: nothing is known, or it vouches for nobody.
    pub(crate) fn roots(&self) -> Option<String> {
        self.pem().filter(|pem| !pem.is_empty())
    }

    fn pem(&self) -> Option<String> {
        self.bundle.as_ref().map(Bundle::pem)
    }

    /// Whether a newer bundle should have come by now: twice the time has passed that the last one is good for.
    pub(crate) fn is_stale(&self, now: Stamp) -> bool {
        let Some(fresh) = self.fresh else { return true };
        let age = Duration::from_nanos(now.0.saturating_sub(fresh.0).max(0).unsigned_abs());
        self.failing.is_some() && age > refresh_after(self.bundle.as_ref()) * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;

    fn bundle() -> Bundle {
        let state = tempfile::tempdir().unwrap();
        let authority = Authority::open(state.path(), xds::clock::Clock::anchored()).unwrap();
        Bundle { refresh_hint: Some(Duration::from_secs(10)), ..Bundle::of_pem(authority.roots()).unwrap() }
    }

    #[test]
    fn what_a_trust_domain_said_last_is_kept() {
        let (a, b) = (bundle(), bundle());
        let at = |seconds: i64| Stamp(seconds * 1_000_000_000);
        let mut known = Foreign::default();
        let fails = || Err("no answer".to_owned());
        assert_eq!(known.saw(fails(), at(0)), Some(News::Failing("no answer".to_owned())));
        assert!(known.roots().is_none() && known.is_stale(at(0)));
        assert_eq!(known.saw(Ok(a.clone()), at(1)), Some(News::Taken));
        let numbered = Bundle { sequence: Some(3), ..a.clone() };
        assert_eq!(known.saw(Ok(numbered), at(2)), None, "the same roots");
        assert_eq!(known.saw(fails(), at(3)), Some(News::Failing("no answer".to_owned())));
        assert_eq!(known.saw(fails(), at(4)), None, "told once");
        assert_eq!((known.roots(), known.fresh), (Some(a.pem()), Some(at(2))));
        assert!(!known.is_stale(at(18)) && known.is_stale(at(19)));
        assert_eq!(known.saw(Ok(a), at(20)), Some(News::Mended));
        assert_eq!(known.saw(Ok(b.clone()), at(21)), Some(News::Taken));
        // A set without keys is an answer: nobody is vouched for.
        let none = Bundle::parse(r#"{"keys": []}"#).unwrap();
        assert_eq!((known.saw(Ok(none), at(22)), known.roots()), (Some(News::Taken), None));
        assert_eq!((known.saw(Ok(b), at(23)), known.roots().is_some()), (Some(News::Taken), true));
    }
}
