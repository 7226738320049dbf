//! Every parser of ours on mutated input: it may refuse, it may not panic, hang or take much memory.
//!
//! `cargo run --release -p fuzz [TARGET]` runs each target (or one) for `FUZZ_SECONDS` (60), as many at once as there are
//! processors. An input whose answer has not been seen before joins the corpus, so that the search goes where the parser's
//! answers differ. It needs stable Rust and nothing else. A panic writes the input to `fuzz/crashes/` and ends the run with its path;
//! `cargo run --release -p fuzz TARGET FILE` replays it.

mod mutate;
mod reference;
mod target;

use std::{
    cell::RefCell,
    collections::HashSet,
    num::NonZero,
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use mutate::Mutator;
use target::{TARGETS, Target};

thread_local! {
    /// The input that this thread tries, for the panic hook.
    static CURRENT: RefCell<(&'static str, Vec<u8>)> = const { RefCell::new(("", Vec::new())) };
}

/// More inputs than this are not kept: memory stays bounded.
const CORPUS: usize = 4096;
/// Longer inputs are cut: the parsers' own bounds are far below.
const LONGEST: usize = 1 << 20;
/// One input may take no longer; the largest legal one takes milliseconds.
const SLOWEST: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        CURRENT.with_borrow(|(name, input)| {
            let path = keep(name, input);
            eprintln!("{info}\ninput kept in {path:?}; replay: cargo run --release -p fuzz {name} <that file>");
        });
        std::process::exit(1);
    }));
    let mut words = std::env::args().skip(1);
    let (name, replay) = (words.next(), words.next());
    let chosen: Vec<&Target> = TARGETS.iter().filter(|t| name.as_deref().is_none_or(|n| n == t.name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
        eprintln!("no such target; there are: {}", names.join(", "));
        return ExitCode::from(2);
    }
    if let Some(path) = replay {
        return match std::fs::read(&path) {
            Ok(input) => {
                println!("{}", attempt(chosen[0], &input));
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{path}: {error}");
                ExitCode::from(2)
            }
        };
    }
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    let failed = fuzz_all(&chosen, Duration::from_secs(seconds));
    println!("{} passed, {failed} failed", chosen.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Each target for this long, a thread for each processor. Answers how many failed.
fn fuzz_all(targets: &[&'static Target], length: Duration) -> usize {
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get).min(targets.len()) {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !fuzz(target, length) {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    failed.into_inner()
}

/// Tries mutated inputs until the time is over; false if one took too long.
fn fuzz(target: &'static Target, length: Duration) -> bool {
    let mut corpus = (target.seeds)();
    let mut seen = HashSet::new();
    for seed in &corpus {
        seen.insert(attempt(target, seed));
    }
    let seeds = corpus.len();
    let mut mutator = Mutator::new(0x5eed ^ target.name.len() as u64, target.words);
    let started = Instant::now();
    let (mut tried, mut slowest) = (0_u64, Duration::ZERO);
    while started.elapsed() < length {
        let mut input = mutator.mutate(&corpus);
        input.truncate(LONGEST);
        let begun = Instant::now();
        let answer = attempt(target, &input);
        let took = begun.elapsed();
        tried += 1;
        slowest = slowest.max(took);
        if took > SLOWEST {
            let path = keep(target.name, &input);
            eprintln!("{}: an input took {took:?}; kept in {path:?}", target.name);
            return false;
        }
        if corpus.len() < CORPUS && seen.insert(answer) {
            corpus.push(input);
        }
    }
    println!(
        "fuzz {}: {tried} inputs from {seeds} seeds in {:.0} s, {} different answers, slowest {slowest:?}, no panic",
        target.name,
        started.elapsed().as_secs_f64(),
        seen.len()
    );
    true
}

/// Runs the parser; answers with what it said, numbers and quoted input folded so that answers differ by kind.
fn attempt(target: &'static Target, input: &[u8]) -> String {
    CURRENT.with_borrow_mut(|(name, kept)| {
        *name = target.name;
        input.clone_into(kept);
    });
    fold(&(target.run)(input))
}

fn fold(answer: &str) -> String {
    let mut folded = String::new();
    let mut quoted = false;
    for c in answer.chars().take(400) {
        match c {
            '`' | '"' => quoted = !quoted,
            _ if quoted => {}
            c if c.is_ascii_digit() => {
                if !folded.ends_with('0') {
                    folded.push('0');
                }
            }
            c => folded.push(c),
        }
    }
    folded
}

fn keep(target: &str, input: &[u8]) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("crashes");
    let name = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    let path = folder.join(format!("{target}-{name:016x}"));
    if let Err(error) = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, input)) {
        eprintln!("the input cannot be kept: {error}");
    }
    path
}
