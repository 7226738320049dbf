//! What callers notice when the primary is lost and when it comes back: an open-loop client, a primary, a standby.

mod case;
mod client;
mod measure;
pub mod origin;
mod server;

use std::{collections::BTreeMap, time::Duration};

use case::Case;
pub use case::Mode;
pub use client::Kind;
use futures_util::future::join_all;
use measure::Figures;
pub use server::Server;

use crate::{failure::Failure, table};

/// Cases that run at once; more disturb each other.
const AT_ONCE: usize = 3;

/// What is measured of failovers.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Proxies by the name of their scripts, with what is asked through them.
    pub peers: Vec<(String, Vec<Kind>)>,
    /// How the primary is hurt.
    pub modes: Vec<Mode>,
    /// Requests a second.
    pub rate: u32,
    /// Length of the fault.
    pub outage: Duration,
    /// Longest observation of the way back.
    pub back: Duration,
}

/// Measures and prints a table for each kind of request.
///
/// # Errors
/// When the machine refuses.
pub async fn run(plan: &Plan) -> Result<(), Failure> {
    let mut tables: BTreeMap<&'static str, Vec<Vec<String>>> = BTreeMap::new();
    for (peer, kinds) in &plan.peers {
        for kind in kinds {
            let modes: Vec<Mode> = plan.modes.iter().copied().filter(|mode| mode.concerns(*kind)).collect();
            let rows = tables.entry(kind.as_str()).or_default();
            for modes in modes.chunks(AT_ONCE) {
                let names: Vec<&str> = modes.iter().map(|mode| mode.as_str()).collect();
                eprintln!("# failover {}: {peer}, {}", kind.as_str(), names.join(", "));
                for (mode, result) in at_once(plan, peer, *kind, modes).await? {
                    match result {
                        Ok(figures) => rows.push(row(peer, mode, &figures)),
                        Err(why) => println!("# failover {} leaves {peer} out: it {why}", kind.as_str()),
                    }
                }
            }
        }
    }
    for (kind, mut rows) in tables {
        let order = |row: &Vec<String>| plan.modes.iter().position(|mode| row[0] == mode.as_str());
        rows.sort_by_key(order);
        rows.insert(0, header());
        let (rate, outage, back) = (plan.rate, plan.outage.as_secs(), plan.back.as_secs());
        table::print(
            &format!("failover {kind}: {rate}/s, out for {outage} s, watched for {back} s more at most"),
            &rows,
        );
    }
    Ok(())
}

async fn at_once(
    plan: &Plan,
    peer: &str,
    kind: Kind,
    modes: &[Mode],
) -> Result<Vec<(Mode, Result<Figures, String>)>, Failure> {
    let folder = tempfile::tempdir().map_err(Failure::io("temporary folder"))?;
    let cases = modes.iter().zip(0u8..).map(|(mode, slot)| {
        let (peer, mode) = (peer.to_owned(), *mode);
        let case = Case { peer, kind, mode, rate: plan.rate, outage: plan.outage, back: plan.back, slot };
        let folder = folder.path().join(mode.as_str());
        async move {
            std::fs::create_dir_all(&folder).map_err(Failure::io(folder.display().to_string()))?;
            Ok((mode, case::run(&case, &folder).await?))
        }
    });
    join_all(cases).await.into_iter().collect()
}

fn header() -> Vec<String> {
    [
        "fault",
        "peer",
        "sent",
        "failed",
        "how",
        "first standby ms",
        "last failure ms",
        "p50 before ms",
        "p99 ms",
        "longest ms",
        "> 100 ms",
        "back: failed",
        "back: > 100 ms",
        "first primary ms",
        "settled ms",
    ]
    .map(str::to_owned)
    .into()
}

fn row(peer: &str, mode: Mode, figures: &Figures) -> Vec<String> {
    let ms = |time: Option<f64>, never: &str| time.map_or(never.to_owned(), |time| format!("{time:.1}"));
    let kinds: Vec<String> = figures.kinds.iter().map(|(how, count)| format!("{how} ×{count}")).collect();
    vec![
        mode.to_string(),
        peer.to_owned(),
        figures.sent.to_string(),
        figures.failed.to_string(),
        if kinds.is_empty() { "-".to_owned() } else { kinds.join(", ") },
        ms(figures.first_standby, "never"),
        ms(figures.last_failure, "-"),
        ms(figures.median_before, "-"),
        ms(figures.p99, "-"),
        ms(figures.longest, "-"),
        figures.slow.to_string(),
        figures.back_failed.to_string(),
        figures.back_slow.to_string(),
        ms(figures.first_primary, "never"),
        ms(figures.settled, "never"),
    ]
}
