//! How the recovery controller is asked, wherever it leads.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    api::RecoveryReport,
    mesh::{Failure, Mesh},
    overlays::Refusal,
    secret,
    store::ERRAND_TTL,
};

/// What the controller can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Errand {
    /// Fail a plan over, and why.
    Failover(String, String),
    /// Fail it back, and why.
    Failback(String, String),
    /// Every plan.
    Reports,
    /// Answered when everything that happened before has been taken into account.
    Settle,
}

/// The plans that were asked for.
pub(crate) type Answer = Result<Vec<RecoveryReport>, Refusal>;

/// Bound on waiting for the leader to take something into account.
const SETTLE: Duration = Duration::from_millis(1500);
/// Between two looks for the leader's answer.
const LOOK: Duration = Duration::from_millis(30);

/// How the API speaks with the controller: the one of this process while it leads, else the leader's.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(super) asks: mpsc::Sender<(Errand, oneshot::Sender<Answer>)>,
    pub(super) leading: watch::Receiver<Option<u64>>,
    pub(super) mesh: Arc<Mesh>,
}

impl Handle {
    /// Whether this instance leads.
    pub(crate) fn leads(&self) -> bool {
        self.leading.borrow().is_some()
    }

    /// Asks the controller of this process.
    pub(crate) async fn run(&self, errand: Errand) -> Answer {
        let stopped = || Refusal::Conflict("the recovery controller has stopped".to_owned());
        if self.mesh.store.is_shared() {
            // What came before at other instances counts, too.
            self.mesh.follow_leases().await.map_err(|e| Refusal::Conflict(format!("leases cannot be read: {e:?}")))?;
        }
        let (reply, answer) = oneshot::channel();
        self.asks.send((errand, reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    async fn ask(&self, errand: Errand) -> Result<Vec<RecoveryReport>, Failure> {
        if self.leads() {
            return Ok(self.run(errand).await?);
        }
        let failed = |e: std::io::Error| Failure::Internal(e.to_string());
        let (store, id) = (&self.mesh.store, secret::random_hex(8).map_err(failed)?);
        store.send_errand(&id, &errand).await?;
        let until = Instant::now() + ERRAND_TTL;
        while Instant::now() < until {
            tokio::time::sleep(LOOK).await;
            if let Some(answer) = store.errand_answer::<Answer>(&id).await? {
                return Ok(answer?);
            }
        }
        Err(Refusal::Conflict("no control plane leads at the moment; try again in a few seconds".to_owned()).into())
    }

    async fn one(&self, errand: Errand) -> Result<RecoveryReport, Failure> {
        let missing = || Failure::Internal("the recovery controller did not tell the plan".to_owned());
        self.ask(errand).await?.pop().ok_or_else(missing)
    }

    pub(crate) async fn failover(&self, plan: String, reason: String) -> Result<RecoveryReport, Failure> {
        self.one(Errand::Failover(plan, reason)).await
    }

    pub(crate) async fn failback(&self, plan: String, reason: String) -> Result<RecoveryReport, Failure> {
        self.one(Errand::Failback(plan, reason)).await
    }

    pub(crate) async fn reports(&self) -> Result<Vec<RecoveryReport>, Failure> {
        self.ask(Errand::Reports).await
    }

    /// Waits until everything that happened before has been taken into account.
    pub(crate) async fn settle(&self) {
        // Without a controller there is nothing to wait for; one that begins to lead reads everything first.
        let _ = tokio::time::timeout(SETTLE, self.ask(Errand::Settle)).await;
    }
}
