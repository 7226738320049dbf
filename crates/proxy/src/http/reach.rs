//! A connection to an endpoint for bytes, whatever brought them: chosen, tried elsewhere, watched for its first answer.

use std::{
    sync::{Arc, atomic::Ordering},
    task::Context,
    time::{Duration, Instant},
};

use xds::snapshot::RoutingPriority;

use crate::{
    http::{alarm::Alarm, relay::DRAIN},
    link::{ConnectError, Link},
    upstream::{
        cluster::Cluster,
        host::{Active, Host},
        view::Aim,
    },
};

/// Endpoints tried before the caller's connection is closed. Nothing was sent to those that did not connect.
const TRIES: usize = 3;
/// The usual time to an endpoint's first bytes, held within these bounds, is how long they are waited for.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(2500));

/// Waits for the first bytes that an endpoint sends after the caller's first. Of a protocol in which endpoints answer, a
/// silence says what it says of a request: the kernel takes connections and bytes for a process that hangs.
#[derive(Debug, Default)]
pub struct FirstAnswer {
    sent: Option<Instant>,
    /// How long it is waited for; `None` where nothing is known of this cluster's answers, or the silence is told.
    patience: Option<Duration>,
    over: bool,
    alarm: Alarm,
}

impl FirstAnswer {
    /// Takes note of the bytes that the endpoint has got, and that came from it.
    pub fn poll(&mut self, (asked, answered): (u64, u64), cluster: &Cluster, host: &Host, cx: &mut Context<'_>) {
        if self.over || asked == 0 && answered == 0 {
            return;
        }
        let now = Instant::now();
        let sent = *self.sent.get_or_insert_with(|| {
            self.patience = cluster.first_bytes.usual_or_slowest().map(|usual| usual.clamp(PATIENCE.0, PATIENCE.1));
            now
        });
        if answered > 0 {
            self.over = true;
            host.spoke();
            if asked > 0 {
                cluster.first_bytes.observe_seldom(now.saturating_duration_since(sent), now);
            }
        } else if let Some(patience) = self.patience
            && let Some(until) = sent.checked_add(patience)
            && self.alarm.poll(until.into(), cx).is_ready()
        {
            self.patience = None;
            cluster.unanswered(host, sent, patience, now);
        }
    }
}

/// A connection to an endpoint, with what may end it: seen from before it was made, so that no change is missed.
#[derive(Debug)]
pub struct Connected {
    link: Link,
    /// The endpoint.
    pub host: Arc<Host>,
    epoch: u64,
    trust: u64,
    /// Endpoints tried.
    pub tries: u32,
    active: Active,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreached {
    /// Nobody is healthy.
    Nobody,
    /// The cluster has as many connections as it may.
    Overflow,
    /// Those that were tried did not connect.
    Failed,
}

impl Connected {
    /// Splits off what may end it, and what says while it is kept that the endpoint is busy: the link, and a future that is
    /// ready when the endpoint left, or is not believed any more.
    pub fn split(self, cluster: Arc<Cluster>) -> (Link, Arc<Host>, Active, impl Future<Output = ()> + Send + use<>) {
        let Self { link, host, epoch, mut trust, tries: _, active } = self;
        let (chain, over) = (link.chain.clone(), host.clone());
        let ended = async move {
            let distrusted = async {
                loop {
                    cluster.trust.over(trust).await;
                    trust = cluster.trust.number();
                    if !cluster.tls().is_none_or(|tls| tls.verifier.accepts(&chain)) {
                        return;
                    }
                }
            };
            let left = async {
                over.epoch_over(epoch).await;
                tokio::time::sleep(DRAIN).await;
            };
            tokio::select! {
                () = distrusted => {}
                () = left => {}
            }
        };
        (link, host, active, ended)
    }
}

/// Connects to an endpoint of the cluster.
///
/// # Errors
/// When none takes it.
pub async fn connect(cluster: &Arc<Cluster>) -> Result<Connected, Unreached> {
    let mut tried = Vec::new();
    let mut random = fastrand::Rng::new();
    let mut aim = Aim::Load;
    for left in (0..TRIES).rev() {
        let view = cluster.view();
        let none = if tried.is_empty() { Unreached::Nobody } else { Unreached::Failed };
        let chosen = view.choose(aim, &tried, &mut random).ok_or(none)?;
        // The last try crosses tiers, as a request's does.
        aim = if left == 1 { Aim::Beyond(chosen.tier) } else { Aim::Load };
        let host = chosen.host;
        host.tries.fetch_add(1, Ordering::Relaxed);
        let (epoch, trust, config) = (host.epoch(), cluster.trust.number(), &view.config);
        let most = (RoutingPriority::Default, config.breakers.connections);
        match Link::connect(cluster, &host, most, config.connect_timeout).await {
            Ok(link) => {
                cluster.connected(&view, &host);
                let active = Active::new(&host);
                let tries = u32::try_from(tried.len()).unwrap_or(u32::MAX).saturating_add(1);
                return Ok(Connected { link, host, epoch, trust, tries, active });
            }
            Err(ConnectError::Overflow) => return Err(Unreached::Overflow),
            Err(error) => cluster.failed(&host, &error.to_string(), Instant::now()),
        }
        tried.push(host.id);
    }
    Err(Unreached::Failed)
}
