//! Every parser of ours on mutated input: it may refuse, it may not panic, hang or take much memory.
//!
//! `cargo run --release -p fuzz [TARGET]` runs each target (or one) for `FUZZ_SECONDS` (60). An input whose answer has not been
//! seen before joins the corpus, so that the search goes where the parser's answers differ. It needs stable Rust and
//! nothing else. A panic writes the input to `fuzz/crashes/` and ends the run with its path;
//! `cargo run --release -p fuzz TARGET FILE` replays it.

mod mutate;
mod target;

use std::{
    collections::HashSet,
    path::PathBuf,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use mutate::Mutator;
use target::{TARGETS, Target};

/// The input that is being tried, for the panic hook.
static CURRENT: Mutex<(&str, Vec<u8>)> = Mutex::new(("", Vec::new()));

/// More inputs than this are not kept: memory stays bounded.
const CORPUS: usize = 4096;
/// Longer inputs are cut: the parsers' own bounds are far below.
const LONGEST: usize = 1 << 20;
/// One input may take no longer; the largest legal one takes milliseconds.
const SLOWEST: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let path = keep(current.0, &current.1);
        eprintln!("{info}\ninput kept in {path:?}; replay: cargo run --release -p fuzz {} <that file>", current.0);
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
    let mut passed = 0;
    for target in &chosen {
        if !fuzz(target, Duration::from_secs(seconds)) {
            println!("{passed} passed, 1 failed");
            return ExitCode::FAILURE;
        }
        passed += 1;
    }
    println!("{passed} passed, 0 failed");
    ExitCode::SUCCESS
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
    {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        current.0 = target.name;
        input.clone_into(&mut current.1);
    }
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
