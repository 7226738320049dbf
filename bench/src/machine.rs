//! The machine: its name, its cores, and what the kernel counts about them.

use std::fs;

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::failure::Failure;

/// Where the proxy runs, alone.
pub const PROXY_CORE: usize = 0;
/// Where the load generator and the origins run.
pub const LOAD_CORE: usize = 1;

/// Binds this process to a core.
///
/// # Errors
/// When the machine has no such core.
pub fn pin_to(core: usize) -> Result<(), Failure> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set)
        .map_err(|error| Failure::Io(format!("core {core} (a benchmark needs two)"), error.into()))
}

/// Lets the processes of this session go before those of others, where the kernel weighs sessions against each other
/// before it looks at processes; until this is dropped.
#[derive(Debug)]
pub struct Precedence {
    before: Option<String>,
}

const AUTOGROUP: &str = "/proc/self/autogroup";

impl Precedence {
    /// Takes precedence, if this user may: without, more samples are noisy.
    pub fn take() -> Self {
        let before =
            fs::read_to_string(AUTOGROUP).ok().and_then(|text| Some(text.split("nice ").nth(1)?.trim().to_owned()));
        Self { before: before.filter(|_| fs::write(AUTOGROUP, "-20").is_ok()) }
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // It could be raised, so it can be lowered.
            let _ = fs::write(AUTOGROUP, before);
        }
    }
}

/// One line for people: processor, cores, kernel.
pub fn described() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names: Vec<&str> =
        info.lines().filter(|line| line.starts_with("model name")).filter_map(|line| line.split(": ").nth(1)).collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "{}, {} cores, Linux {}, firedrill {version}",
        names.first().copied().unwrap_or("unknown processor"),
        names.len(),
        kernel.trim()
    )
}

/// Microseconds that a core was busy since the start of the machine, those that other guests of the host took among them.
pub fn busy_micros(core: usize) -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let name = format!("cpu{core}");
    let fields = stat.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(' ')).unwrap_or_default();
    // user nice system idle iowait irq softirq steal
    let ticks = fields.split_whitespace().enumerate().filter(|(n, _)| *n < 8 && !matches!(n, 3 | 4));
    micros(ticks.filter_map(|(_, text)| text.parse::<u64>().ok()).sum())
}

/// Clock ticks in microseconds.
pub fn micros(ticks: u64) -> u64 {
    ticks.saturating_mul(1_000_000) / rustix::param::clock_ticks_per_second().max(1)
}
