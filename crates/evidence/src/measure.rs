//! (being written)
use crate::{record::*, results::*};

/// Measured values and verdict of an attempt. Total: any record gives a result.
pub fn measure(attempt: &Attempt) -> Results {
    Results {
        drill: attempt.drill.clone(),
        attempt: attempt.number,
        verdict: Verdict::Inconclusive,
        reasons: Vec::new(),
        measured: Measured {
            recovery: None,
            execution: None,
            phases: PhaseTimes::default(),
            loss: None,
            bad_seconds: 0.0,
            longest_gap: 0.0,
            time_to_abort: None,
            failback: None,
        },
        objectives: Vec::new(),
        timeline: Vec::new(),
        probes: Vec::new(),
        guards: Vec::new(),
        findings: attempt.findings.clone(),
        residue: ResidueResult { proxies: 0, unchanged: 0 },
    }
}
