//! The access logs of gateways as evidence: read while probes run, bounded, and what is missing is counted.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evidence::{
    canonical::exact,
    record::{RequestEntry, RequestLog},
};
use model::config::{Drill, ProbeHost, ProbeKind};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::{
    context::Context,
    target::{Requests, Target, TargetError},
};

/// Between two questions: well within the time for which one keeps requests being collected.
const EACH: Duration = Duration::from_millis(500);
/// So many in one answer, and there are more behind them.
const MANY: usize = 1000;
/// Bound on a question.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads until it is stopped.
pub struct Reader {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Reader {
    /// Begins to read, if the drill asks for it.
    pub fn start<T: Target>(context: Arc<Context<T>>) -> Option<Self> {
        let most = context.drill.access_log?;
        context.facts().requests = Some(RequestLog { most: most.into(), ..RequestLog::default() });
        let (stop, stopped) = watch::channel(false);
        Some(Self { stop, task: tokio::spawn(read(context, stopped)) })
    }

    /// Reads what is left, and ends.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        // It ends within the bounds of its questions; were it to break, what it has read stays.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Gateways that the probes go through.
fn gateways(drill: &Drill) -> Vec<String> {
    let hosts = drill.probes.iter().flat_map(|probe| match &probe.kind {
        ProbeKind::Http(request) => vec![&request.host],
        ProbeKind::Writes { put, get } => vec![&put.host, &get.host],
    });
    let mut names: Vec<String> = hosts
        .filter_map(|host| match host {
            ProbeHost::Gateway(name) => Some(name.to_string()),
            ProbeHost::Address(_) => None,
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

async fn read<T: Target>(context: Arc<Context<T>>, mut stopped: watch::Receiver<bool>) {
    let mut places: BTreeMap<String, Place> =
        gateways(&context.drill).into_iter().map(|gateway| (gateway, Place::default())).collect();
    loop {
        // Before the question, so that the last one comes after the last request, and a while after: logs are told in lots.
        let last = timeout(EACH, stopped.wait_for(|stopped| *stopped)).await.is_ok();
        if last {
            tokio::time::sleep(EACH).await;
        }
        for (gateway, place) in &mut places {
            loop {
                let asked = timeout(PATIENCE, context.target.requests(gateway, place.after)).await;
                let mut facts = context.facts();
                let Some(log) = &mut facts.requests else { return };
                if !place.take(log, gateway, asked.ok()) {
                    break;
                }
            }
        }
        if last {
            return;
        }
    }
}

/// Where one gateway is read.
#[derive(Debug, Default)]
struct Place {
    boot: String,
    after: Option<u64>,
    lost: u64,
    silent: bool,
}

impl Place {
    /// Takes an answer in; `None` is one that did not come in time. Whether there is more to be read at once.
    fn take(&mut self, log: &mut RequestLog, gateway: &str, answer: Option<Result<Requests, TargetError>>) -> bool {
        let Some(Ok(answer)) = answer else {
            // One stretch, however often it is asked in vain.
            log.gaps += u64::from(!std::mem::replace(&mut self.silent, true));
            return false;
        };
        let first = self.after.is_none();
        if !first && answer.boot != self.boot {
            // What it had done when it ended, and until now, is not known.
            log.gaps += u64::from(!self.silent);
            *self = Self { boot: answer.boot, after: Some(0), lost: answer.lost, silent: false };
            return false;
        }
        self.silent = false;
        if !first {
            log.lost += answer.dropped + answer.lost.saturating_sub(self.lost);
        }
        (self.boot, self.after, self.lost) = (answer.boot, Some(answer.last), answer.lost);
        let more = answer.requests.len() >= MANY;
        for request in answer.requests {
            if (log.entries.len() as u64) < log.most {
                // A number too large for what is sealed would keep the whole attempt from it.
                let request = exact(request);
                log.entries.push(RequestEntry { gateway: gateway.to_owned(), request });
            } else {
                log.beyond += 1;
            }
        }
        more
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(boot: &str, last: u64, numbers: &[u64]) -> Option<Result<Requests, TargetError>> {
        let requests = numbers.iter().map(|number| json!({ "n": number })).collect();
        Some(Ok(Requests { boot: boot.into(), last, requests, ..Requests::default() }))
    }

    #[test]
    fn what_is_beyond_the_bound_and_what_is_missing_is_counted() {
        let mut log = RequestLog { most: 3, ..RequestLog::default() };
        let mut place = Place::default();
        assert!(!place.take(&mut log, "edge", answer("a", 7, &[])), "the beginning");
        assert!(!place.take(&mut log, "edge", answer("a", 9, &[8, 9])));
        let Some(Ok(requests)) = answer("a", 15, &[14, 15]) else { panic!() };
        place.take(&mut log, "edge", Some(Ok(Requests { dropped: 4, lost: 2, ..requests })));
        assert_eq!((log.entries.len(), log.beyond, log.lost, log.gaps), (3, 1, 6, 0));
        assert_eq!(place.after, Some(15));
    }

    #[test]
    fn silence_and_a_restart_are_one_gap() {
        let mut log = RequestLog { most: 9, ..RequestLog::default() };
        let mut place = Place::default();
        place.take(&mut log, "edge", answer("a", 7, &[]));
        assert!(!place.take(&mut log, "edge", None) && !place.take(&mut log, "edge", None));
        place.take(&mut log, "edge", answer("b", 0, &[]));
        assert_eq!((log.gaps, place.after), (1, Some(0)));
        assert!(place.take(&mut log, "edge", answer("b", 1000, &[1; MANY])));
        place.take(&mut log, "edge", answer("c", 0, &[]));
        assert_eq!((log.gaps, log.entries.len(), log.beyond, log.lost), (2, 9, MANY as u64 - 9, 0));
    }
}
