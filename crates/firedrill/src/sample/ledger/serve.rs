//! The ledger's HTTP interface.

use hyper::{Method, StatusCode, body::Bytes};
use serde_json::{Value, json};

use super::{
    Ledger, Phase, Role, Written,
    book::{Change, Entry},
    peers::LedgerStatus,
};
use crate::sample::http::{self, Answer, Call};

impl Ledger {
    /// Answers one request.
    pub(super) async fn handle(&self, call: Call) -> Result<Answer, Answer> {
        let path = call.path.as_str();
        match (&call.method, path) {
            (&Method::GET, "/healthz") => Ok(self.health()),
            (&Method::GET, "/status") => {
                if call.parameter("peer").is_some() {
                    self.heard();
                }
                Ok(answer(&self.status()))
            }
            (&Method::GET, "/replicate") => Ok(self.replicate(&call)),
            (&Method::GET, "/entries") => Ok(self.entries(call.parameter("probe"))),
            (&Method::POST, "/entries") => self.store(call).await,
            (&Method::POST, "/handover") => Ok(self.hand_over(&call)),
            (&Method::POST, "/promote") => self.promote().await,
            (&Method::GET, _) => match path.strip_prefix("/balances/") {
                Some(account) if !account.is_empty() => Ok(self.balance(account)),
                _ => Err(http::failure(StatusCode::NOT_FOUND, "try /balances/42, /entries or /status")),
            },
            _ => Err(http::failure(StatusCode::METHOD_NOT_ALLOWED, "only GET, and POST /entries")),
        }
    }

    fn health(&self) -> Answer {
        if *self.phase.borrow() == Phase::Starting {
            return http::failure(StatusCode::SERVICE_UNAVAILABLE, "asking the peers for the present epoch");
        }
        answer(&self.status())
    }

    fn status(&self) -> LedgerStatus {
        let inner = self.lock();
        LedgerStatus {
            region: self.region.clone(),
            role: inner.book.role(),
            epoch: inner.book.epoch(),
            entries: inner.book.len(),
        }
    }

    fn replicate(&self, call: &Call) -> Answer {
        let (Some(after), Some(epoch)) = (call.number("after"), call.number("epoch")) else {
            return http::failure(StatusCode::BAD_REQUEST, "needs `after` and `epoch`");
        };
        self.heard();
        let page = self.lock().book.page(usize::try_from(after).unwrap_or(usize::MAX), epoch);
        answer(&page)
    }

    /// A peer asked something: there is one that may take over.
    fn heard(&self) {
        self.lock().heard = Some(std::time::Instant::now());
    }

    fn entries(&self, probe: Option<&str>) -> Answer {
        let inner = self.lock();
        let listed: Vec<&Entry> = inner.book.list(probe).collect();
        answer(&listed)
    }

    fn balance(&self, account: &str) -> Answer {
        let cents = self.lock().book.balance(account);
        let balance = format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100);
        answer(&json!({ "account": account, "balance": balance, "workload": self.name, "region": self.region }))
    }

    async fn store(&self, call: Call) -> Result<Answer, Answer> {
        let entry: Entry = serde_json::from_slice(&call.body)
            .map_err(|e| http::failure(StatusCode::BAD_REQUEST, format!("a payment has `id` and `sequence`: {e}")))?;
        // Twice: the role may have changed hands while the write waited.
        for _ in 0..2 {
            if !self.settled().await {
                break;
            }
            match self.write(entry.clone()) {
                Written::Stored(epoch) => return Ok(self.acknowledge(&entry, epoch)),
                Written::Refused(refusal) => {
                    return Err(http::failure(StatusCode::UNPROCESSABLE_ENTITY, refusal.to_string()));
                }
                Written::Failed(error) => {
                    tracing::error!(%error, "cannot store");
                    return Err(http::failure(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot store: {error}")));
                }
                Written::Elsewhere(Some(primary)) if !call.forwarded => {
                    return self.forward(&primary, call.body).await;
                }
                // Was stopped and has not asked yet, or has no primary: one more round, then give up.
                Written::Elsewhere(_) => tokio::time::sleep(super::PULL).await,
            }
        }
        Err(http::failure(StatusCode::SERVICE_UNAVAILABLE, "no primary is known: promote one"))
    }

    async fn forward(&self, primary: &str, body: Bytes) -> Result<Answer, Answer> {
        match self.peers.forward(primary, body).await {
            Ok((status, body)) => match serde_json::from_slice::<Value>(&body) {
                Ok(body) => Ok(http::answer(status, &body)),
                Err(_) => Err(http::failure(status, String::from_utf8_lossy(&body).into_owned())),
            },
            Err(error) => {
                let reason = format!("the primary in {primary} does not answer: {error}");
                Err(http::failure(StatusCode::SERVICE_UNAVAILABLE, reason))
            }
        }
    }

    fn acknowledge(&self, entry: &Entry, epoch: u64) -> Answer {
        let body = json!({
            "id": entry.id, "sequence": entry.sequence, "epoch": epoch, "region": self.region, "workload": self.name,
        });
        http::answer(StatusCode::CREATED, &body)
    }

    /// A peer takes over: no write is taken here from now on. Repeating it changes nothing.
    fn hand_over(&self, call: &Call) -> Answer {
        let to = call.parameter("to").unwrap_or_default().to_owned();
        if to.is_empty() || to == self.region {
            return http::failure(StatusCode::BAD_REQUEST, "needs `to`, another region");
        }
        let was = self.status();
        if was.role == Role::Primary
            && let Err(error) = self.step_down(was.epoch, Some(to))
        {
            return broken(&error);
        }
        answer(&LedgerStatus { entries: self.lock().book.len(), ..was })
    }

    /// Becomes primary: handed over by the present one if it can be reached, else by force.
    async fn promote(&self) -> Result<Answer, Answer> {
        // Under the lock of the phase, so that two promotions of one ledger never run at once.
        let begun = self.phase.send_if_modified(|phase| {
            let free = *phase == Phase::Settled;
            if free {
                *phase = Phase::Promoting;
            }
            free
        });
        if !begun {
            return Err(http::failure(StatusCode::CONFLICT, "the ledger is starting, or being promoted already"));
        }
        let promoted = self.take_over().await;
        self.phase.send_replace(Phase::Settled);
        promoted
    }

    async fn take_over(&self) -> Result<Answer, Answer> {
        let before = self.status();
        if before.role == Role::Primary {
            return Ok(answer(&report(&before, "already", Vec::new())));
        }
        let (mut epoch, mut how, mut silent) = (before.epoch, "forced", Vec::new());
        for (region, peer) in self.peers.hand_over().await {
            match peer {
                Ok(status) => {
                    epoch = epoch.max(status.epoch);
                    self.pull_all(&region).await;
                    if status.role == Role::Primary {
                        if self.status().entries < status.entries {
                            let reason =
                                format!("not all of the {} entries of {region} could be copied", status.entries);
                            return Err(http::failure(StatusCode::SERVICE_UNAVAILABLE, reason));
                        }
                        how = "handedOver";
                    }
                }
                Err(error) => silent.push(format!("{region}: {error}")),
            }
        }
        let epoch = epoch.max(self.status().epoch).saturating_add(1);
        {
            let mut inner = self.lock();
            Self::commit(&mut inner, vec![Change::Role { role: Role::Primary, epoch }]).map_err(|e| broken(&e))?;
            inner.primary = None;
            inner.heard = None;
        }
        tracing::info!(epoch, how, ?silent, "primary from now on");
        Ok(answer(&report(&self.status(), how, silent)))
    }
}

/// What `POST /promote` answers; read by `firedrill sample promote`.
fn report(status: &LedgerStatus, how: &str, silent: Vec<String>) -> Value {
    json!({
        "region": status.region, "role": status.role, "epoch": status.epoch, "entries": status.entries,
        "how": how, "silent": silent,
    })
}

fn answer(body: &impl serde::Serialize) -> Answer {
    match serde_json::to_value(body) {
        Ok(body) => http::answer(StatusCode::OK, &body),
        Err(error) => http::failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn broken(error: &std::io::Error) -> Answer {
    http::failure(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot store the role: {error}"))
}
