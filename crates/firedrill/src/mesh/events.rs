//! One ordered log out of two: the control plane's (which carries the proxies') and the supervisor's.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use control::{
    api::{ControlEvent, LogEntry, Logged},
    client::Client as Control,
};
use drill::target::{Meaning, Observed, TargetError};
use serde_json::Value;
use xds::event::EventKind;

use super::{of_control, of_supervisor};
use crate::supervisor::{api::Event as SupervisorEvent, client::Client as Supervisor};

/// Entries kept for a reader that asks for them again.
const KEPT: usize = 65_536;

/// Reads both logs from where it stopped, and numbers what it reads in order of arrival.
#[derive(Debug, Default)]
pub struct Feed {
    control: u64,
    supervisor: u64,
    supervisor_boot: String,
    /// Last sequence seen by proxy and boot: a restarted control plane reads the proxies' logs anew.
    seen: HashMap<(String, String), u64>,
    next: u64,
    kept: VecDeque<Observed>,
}

impl Feed {
    /// Everything after a position; waits at most `wait` when there is nothing yet.
    pub async fn after(
        &mut self,
        after: u64,
        wait: Duration,
        control: &Control,
        supervisor: &Supervisor,
    ) -> Result<Vec<Observed>, TargetError> {
        let wait = if self.next > after { Duration::ZERO } else { wait };
        // Whichever answers first with something; the other's wait is given up, and nothing of it is lost.
        let from_control = control.events(self.control, wait);
        let from_supervisor = supervisor.events(self.supervisor, wait);
        tokio::pin!(from_control, from_supervisor);
        tokio::select! {
            answer = &mut from_control => {
                let events = answer.map_err(of_control)?;
                self.control = events.next;
                for entry in events.events {
                    self.take_control(entry);
                }
            }
            answer = &mut from_supervisor => {
                let events = answer.map_err(|e| of_supervisor("tell its events", e))?;
                if events.boot != self.supervisor_boot {
                    self.supervisor_boot = events.boot;
                    self.supervisor = 0;
                }
                for event in events.events {
                    self.take_supervisor(&event);
                }
            }
        }
        // Sequences are gapless, so what the reader has is a prefix.
        let first = self.kept.front().map_or(0, |event| event.sequence);
        let known = usize::try_from((after + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        Ok(self.kept.iter().skip(known).cloned().collect())
    }

    fn take_control(&mut self, entry: LogEntry) {
        if let Logged::Proxy { proxy, boot, event } = &entry.what {
            let last = self.seen.entry((proxy.clone(), boot.clone())).or_default();
            if event.sequence <= *last {
                return;
            }
            *last = event.sequence;
        }
        let source = match &entry.what {
            Logged::Proxy { proxy, .. } => format!("proxy {proxy}"),
            Logged::Control(_) => "control".to_owned(),
        };
        let (time, meaning) = (entry.time.0, meaning(&entry.what));
        self.push(time, source, meaning, raw(&entry.what));
    }

    fn take_supervisor(&mut self, event: &SupervisorEvent) {
        self.supervisor = self.supervisor.max(event.sequence);
        self.push(event.time.0, "supervisor".to_owned(), Meaning::Other, raw(&event.kind));
    }

    fn push(&mut self, time: i64, source: String, meaning: Meaning, raw: Value) {
        self.next += 1;
        self.kept.push_back(Observed { sequence: self.next, time, source, meaning, raw });
        if self.kept.len() > KEPT {
            self.kept.pop_front();
        }
    }
}

/// For the record. Our types always serialize; were one not to, its words would stand in its place.
fn raw<T: serde::Serialize + std::fmt::Debug>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_else(|_| Value::String(format!("{value:?}")))
}

/// What an entry of the merged log means for a drill.
pub fn meaning(what: &Logged) -> Meaning {
    match what {
        Logged::Proxy { event, .. } => of_proxy(&event.kind),
        Logged::Control(event) => of_control_plane(event),
    }
}

fn of_proxy(event: &EventKind) -> Meaning {
    match event {
        EventKind::Health { cluster, region, healthy, cause, .. } => match (service(cluster), healthy) {
            (Some(service), false) => Meaning::Detected { service, region: region.clone(), cause: cause.clone() },
            (Some(service), true) => Meaning::Readmitted { service, region: region.clone() },
            (None, _) => Meaning::Other,
        },
        EventKind::Ejected { cluster, region, cause, .. } => match service(cluster) {
            Some(service) => Meaning::Detected { service, region: region.clone(), cause: cause.clone() },
            None => Meaning::Other,
        },
        EventKind::Readmitted { cluster, region, .. } => match service(cluster) {
            Some(service) => Meaning::Readmitted { service, region: region.clone() },
            None => Meaning::Other,
        },
        EventKind::FirstAnswer { cluster, region } => match service(cluster) {
            Some(service) => Meaning::FirstAnswer { service, region: region.clone() },
            None => Meaning::Other,
        },
        EventKind::OverlayApplied { id, .. } => Meaning::OverlayApplied { id: id.clone() },
        EventKind::OverlayEnded { id, lapsed, .. } => Meaning::OverlayEnded { id: id.clone(), lapsed: *lapsed },
        _ => Meaning::Other,
    }
}

fn of_control_plane(event: &ControlEvent) -> Meaning {
    match event {
        ControlEvent::Detected { plan, .. } => Meaning::RecoveryDetected { plan: plan.clone() },
        ControlEvent::Decided { plan, .. } => Meaning::Decided { plan: plan.clone() },
        ControlEvent::ShiftCommanded { plan, overlays, .. } => {
            Meaning::ShiftCommanded { plan: plan.clone(), overlays: overlays.clone() }
        }
        ControlEvent::StepFinished { step, ok, took_ms, output, .. } => Meaning::StepFinished {
            name: step.clone(),
            took: Duration::from_millis(*took_ms),
            result: if *ok { Ok(()) } else { Err(output.clone()) },
        },
        ControlEvent::RampStep { percent, .. } => Meaning::RampStep { percent: f64::from(*percent) },
        ControlEvent::FailbackCommanded { plan, .. } => Meaning::FailbackCommanded { plan: plan.clone() },
        ControlEvent::FailbackDone { plan } => Meaning::FailbackDone { plan: plan.clone() },
        ControlEvent::RecoveryFailed { plan, reason } => {
            Meaning::RecoveryFailed { plan: plan.clone(), reason: reason.clone() }
        }
        _ => Meaning::Other,
    }
}

/// The service that a cluster stands for: `ledger` and `ledger.east` are both `ledger`. The cluster of a sidecar's own
/// workload says nothing of how others reach it.
fn service(cluster: &str) -> Option<String> {
    let name = cluster.split('.').next().unwrap_or(cluster);
    (name != "local").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use xds::{clock::Stamp, event::Event};

    use super::*;

    fn ended(boot: &str, sequence: u64) -> LogEntry {
        let kind = EventKind::OverlayEnded { id: "l/o".to_owned(), lapsed: true, digest: String::new() };
        LogEntry {
            sequence: 1,
            time: Stamp(5),
            what: Logged::Proxy {
                proxy: "edge".to_owned(),
                boot: boot.to_owned(),
                event: Event { sequence, time: Stamp(5), kind },
            },
        }
    }

    #[test]
    fn a_log_that_is_read_anew_counts_once() {
        let mut feed = Feed::default();
        for entry in [ended("a", 1), ended("a", 2), ended("a", 1), ended("a", 2), ended("a", 3), ended("b", 1)] {
            feed.take_control(entry);
        }
        assert_eq!(feed.kept.len(), 4);
        assert_eq!(feed.kept.iter().map(|e| e.sequence).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(feed.kept[0].source, "proxy edge");
        assert_eq!(feed.kept[0].meaning, Meaning::OverlayEnded { id: "l/o".to_owned(), lapsed: true });
    }

    #[test]
    fn a_failback_that_recovery_decided_itself_is_seen() {
        let event = ControlEvent::FailbackCommanded { plan: "bank".to_owned(), reason: "automatic".to_owned() };
        assert_eq!(meaning(&Logged::Control(event)), Meaning::FailbackCommanded { plan: "bank".to_owned() });
    }

    #[test]
    fn clusters_stand_for_services() {
        assert_eq!(service("ledger"), Some("ledger".to_owned()));
        assert_eq!(service("ledger.east"), Some("ledger".to_owned()));
        assert_eq!(service("local"), None);
    }
}
