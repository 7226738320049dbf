//! Who was let into the mesh and who was refused is in the ledger: join tokens that were handed out, and refusals.

use std::{convert::Infallible, path::PathBuf, time::Duration};

use control::{
    api::{ControlEvent, Events, LogEntry, Logged},
    client::Client,
};
use evidence::ledger::{Ledger, LedgerError};
use serde_json::{Value, json};

/// Kind of the entries of tokens.
const TOKENS: &str = "joinTokensCreated";
/// Kind of the entries of refusals.
const REFUSALS: &str = "joinsRefused";
/// Between two records: strangers must not fill the ledger.
const PACE: Duration = Duration::from_secs(30);
/// Refusals that an entry tells one by one.
const TOLD: usize = 20;
/// Pause after the control plane was not reached.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest wait of one question.
const POLL: Duration = Duration::from_secs(10);

/// Follows the control plane of a state folder, for ever.
pub async fn record(state: PathBuf) -> Infallible {
    let mut after = 0;
    loop {
        let events = match Client::from_state(&state) {
            Ok(client) => client.events(after, POLL).await,
            Err(error) => Err(error),
        };
        let Ok(Events { events, next, .. }) = events else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        after = next;
        let (tokens, refusals) = (tokens(&events), refusals(&events));
        if tokens.is_none() && refusals.is_none() {
            continue;
        }
        let (folder, time) = (state.join("ledger"), xds::clock::Clock::anchored().now().0);
        let write = move || {
            let mut ledger = Ledger::open(&folder)?;
            for (kind, body) in [(TOKENS, tokens), (REFUSALS, refusals)] {
                if let Some(body) = body {
                    ledger.append(kind, time, body)?;
                }
            }
            Ok::<_, LedgerError>(())
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "who joined and who was refused is not in the ledger"),
            Err(error) => tracing::error!(%error, "who joined and who was refused is not in the ledger"),
        }
        tokio::time::sleep(PACE).await;
    }
}

fn of_control(events: &[LogEntry]) -> impl Iterator<Item = (i64, &ControlEvent)> {
    events.iter().filter_map(|entry| match &entry.what {
        Logged::Control(event) => Some((entry.time.0, event)),
        Logged::Proxy { .. } => None,
    })
}

fn tokens(events: &[LogEntry]) -> Option<Value> {
    let tokens = of_control(events).filter_map(|(time, event)| match event {
        ControlEvent::TokenCreated { subject, proxy, expires } => Some(json!({
            "time": evidence::entry::rfc3339(time),
            "subject": subject,
            "proxy": proxy,
            "expires": evidence::entry::rfc3339(expires.0),
        })),
        _ => None,
    });
    let tokens: Vec<Value> = tokens.collect();
    (!tokens.is_empty()).then(|| json!({"tokens": tokens}))
}

/// The first ones as they were, and how many more there were.
fn refusals(events: &[LogEntry]) -> Option<Value> {
    let mut count = 0;
    let mut told = Vec::new();
    for (time, event) in of_control(events) {
        let (what, proxy, reason, untold) = match event {
            ControlEvent::CertificateRefused { proxy, reason, untold } => ("certificate", proxy, reason, untold),
            ControlEvent::ProxyRefused { proxy, reason, untold } => ("stream", proxy, reason, untold),
            _ => continue,
        };
        count += 1 + untold;
        if told.len() < TOLD {
            let time = evidence::entry::rfc3339(time);
            told.push(json!({"time": time, "what": what, "proxy": proxy, "reason": reason}));
        }
    }
    (count > 0).then(|| json!({"count": count, "refusals": told}))
}

#[cfg(test)]
mod tests {
    use control::api::Stamp;

    use super::*;

    fn entry(event: ControlEvent) -> LogEntry {
        LogEntry { sequence: 1, time: Stamp(0), what: Logged::Control(event) }
    }

    #[test]
    fn a_flood_of_refusals_is_one_short_entry() {
        let refused = |n: u64| {
            let (proxy, reason) = (format!("p{n}"), "no".to_owned());
            entry(ControlEvent::CertificateRefused { proxy, reason, untold: n })
        };
        let events: Vec<LogEntry> = (0..100).map(refused).collect();
        let body = refusals(&events).unwrap();
        assert_eq!(body["count"], 100 + 99 * 50);
        assert_eq!(body["refusals"].as_array().unwrap().len(), TOLD);
        assert_eq!(body["refusals"][1]["proxy"], "p1");
        assert_eq!(tokens(&events), None);
        assert_eq!(refusals(&[entry(ControlEvent::LeadershipLost {})]), None);
        let subject = "service/fx".to_owned();
        let token = entry(ControlEvent::TokenCreated { subject, proxy: None, expires: Stamp(0) });
        assert_eq!(tokens(&[token]).unwrap()["tokens"][0]["subject"], "service/fx");
    }
}
