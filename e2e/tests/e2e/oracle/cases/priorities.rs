//! Load over priority tiers, by health: 140 % overprovisioning, spill, normalisation, panic.

use crate::oracle::{
    ask::get,
    case::{Case, Shares},
};

/// Name, endpoints, panic threshold, who answers.
type Row = (&'static str, &'static str, u8, Shares);

const ROWS: &[Row] = &[
    ("all healthy: the first tier takes all", "a0 a1 | b0 b1", 50, &[("a", 100.0), ("b", 0.0)]),
    ("half of the first tier: 70 to 30", "a0 a1! | b0 b1", 50, &[("a", 70.0), ("b", 30.0)]),
    ("three of four count as whole", "a0 a1 a2 a3! | b0", 50, &[("a", 100.0), ("b", 0.0)]),
    ("two of three: 93 to 7", "a0 a1 a2! | b0", 50, &[("a", 93.0), ("b", 7.0)]),
    ("a dead first tier hands over", "a0! a1! | b0 b1", 50, &[("a", 0.0), ("b", 100.0)]),
    ("a quarter of the first tier: 35 to 65", "a0 a1! a2! a3! | b0 b1", 50, &[("a", 35.0), ("b", 65.0)]),
    ("half of both tiers", "a0 a1! | b0 b1!", 50, &[("a", 70.0), ("b", 30.0)]),
    ("three tiers, the third is not needed", "a0 a1! | b0 b1! | c0", 50, &[("a", 70.0), ("b", 30.0), ("c", 0.0)]),
    ("three tiers share", "a0 a1! a2! a3! | b0 b1! b2! b3! | c0 c1 c2", 50, &[("a", 35.0), ("b", 35.0), ("c", 30.0)]),
    ("two dead tiers hand over to the third", "a0! | b0! | c0", 50, &[("a", 0.0), ("b", 0.0), ("c", 100.0)]),
    ("the middle tier is dead", "a0 a1! | b0! | c0", 50, &[("a", 70.0), ("b", 0.0), ("c", 30.0)]),
    (
        "too little in all: what there is is normalised",
        "a0 a1! a2! a3! | b0 b1! b2! b3! b4!",
        0,
        &[("a", 56.0), ("b", 44.0)],
    ),
    (
        "panic everywhere: by the number of endpoints, health ignored",
        "a0 a1! a2! a3! | b0! b1!",
        50,
        &[("a0", 16.7), ("a1", 16.7), ("a2", 16.7), ("a3", 16.7), ("b0", 16.6), ("b1", 16.6)],
    ),
    (
        "panic in the first tier only",
        "a0 a1! a2! a3! a4! | b0 b1!",
        50,
        &[("a0", 5.8), ("a1", 5.8), ("a2", 5.8), ("a3", 5.8), ("a4", 5.8), ("b0", 71.0), ("b1", 0.0)],
    ),
    ("nobody healthy: panic sends to all", "a0! a1! a2! | b0!", 50, &[("a", 75.0), ("b", 25.0)]),
    ("one tier below its threshold", "a0 a1! a2!", 50, &[("a0", 33.4), ("a1", 33.3), ("a2", 33.3)]),
    ("one tier at its threshold", "a0 a1!", 50, &[("a0", 100.0), ("a1", 0.0)]),
    ("one tier above a lower threshold", "a0 a1! a2!", 30, &[("a0", 100.0), ("a1", 0.0), ("a2", 0.0)]),
    ("threshold 100 panics on any loss", "a0 a1!", 100, &[("a0", 50.0), ("a1", 50.0)]),
    ("threshold 0 never panics", "a0 a1! a2! a3! a4! a5!", 0, &[("a0", 100.0), ("a1", 0.0)]),
    ("threshold 0 and nobody healthy: refused", "a0! | b0!", 0, &[("503", 100.0), ("a", 0.0)]),
    ("endpoint weights do not weigh in a tier's health", "a0*9 a1! | b0", 50, &[("a", 70.0), ("b", 30.0)]),
];

pub fn cases() -> Vec<Case> {
    let case = |(name, topology, threshold, shares): &Row| {
        let case = Case::new(name, topology).checked();
        let case = match threshold {
            0 => case.cluster(|cluster| cluster.panic_threshold = 0),
            30 => case.cluster(|cluster| cluster.panic_threshold = 30),
            100 => case.cluster(|cluster| cluster.panic_threshold = 100),
            _ => case,
        };
        case.spread(get("/"), 1200, shares)
    };
    let mut cases: Vec<Case> = ROWS.iter().map(case).collect();
    let refused = Case::new("nobody healthy is told as UH", "a0! | b0!").checked();
    cases.push(refused.cluster(|cluster| cluster.panic_threshold = 0).ask(get("/"), "503 UH -"));
    cases.push(Case::new("a cluster without endpoints", "").ask(get("/"), "503 UH -"));
    cases.push(Case::new("a first tier without endpoints", " | b0").ask(get("/"), "200 - b0"));
    cases
}
