//! Runs one case on one side.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::{
    PATIENCE,
    ask::Ask,
    case::{Case, Expect, Seen, Shares, Step, named},
    origin::Origin,
    place::Place,
    proxy::Proxy,
    spread::{self, Counts},
    topology::State,
    wire::{Message, Wire},
};

/// Connections over which many requests are sent.
const CONNECTIONS: u32 = 4;

/// Requests between two looks at what a proxy sees.
const BATCH: u32 = 50;

/// What came of a case.
#[derive(Default)]
pub struct Outcome {
    /// What was not as expected.
    pub wrong: Vec<String>,
    /// Who answered, by the number of the step.
    pub counts: BTreeMap<usize, Counts>,
}

/// Starts the endpoints of a case.
pub async fn origin(case: &Case, place: Place) -> Origin {
    let listening = case.topology.hosts().iter().filter(|host| host.state != State::Refuses);
    let hosts = listening
        .map(|host| (host.name.clone(), case.topology.address(place, &host.name), host.state != State::FailsChecks));
    Origin::start(hosts.collect()).await
}

/// Goes through the steps; a step that cannot be made ends the case.
pub async fn run(case: Arc<Case>, place: Place, proxy: Arc<Proxy>, origin: Arc<Origin>) -> Outcome {
    let mut runner =
        Runner { case, place, proxy, origin, asked: 0, crowd: JoinSet::new(), outcome: Outcome::default() };
    if let Err(error) = runner.settle().await {
        runner.outcome.wrong.push(error);
        return runner.outcome;
    }
    let case = Arc::clone(&runner.case);
    for (index, step) in case.steps.iter().enumerate() {
        if let Err(error) = runner.step(index, step).await {
            runner.outcome.wrong.push(format!("step {index}: {error}"));
            break;
        }
    }
    runner.outcome
}

struct Runner {
    case: Arc<Case>,
    place: Place,
    proxy: Arc<Proxy>,
    origin: Arc<Origin>,
    asked: u32,
    crowd: JoinSet<(Ask, String, Option<Message>)>,
    outcome: Outcome,
}

impl Runner {
    /// Every endpoint is seen as the case says.
    async fn settle(&self) -> Result<(), String> {
        if !self.case.is_checked() {
            return Ok(());
        }
        for host in self.case.topology.hosts() {
            let seen = if host.state == State::Fine { Seen::Fine } else { Seen::Unhealthy };
            self.sees(&host.name, seen).await?;
        }
        Ok(())
    }

    async fn step(&mut self, index: usize, step: &Step) -> Result<(), String> {
        match step {
            Step::Ask(ask, expect) => {
                let line = self.ask(ask).await?;
                self.compare(index, &line, expect);
            }
            Step::Spread(ask, count, expect) => self.spread(index, ask, *count, expect).await?,
            Step::Crowd(ask, count, answered, expect) => self.crowd(index, ask, *count, *answered, expect).await?,
            Step::Held(count) => self.origin.holds(*count).await?,
            Step::Release(expect) => {
                self.origin.hold(false);
                while let Some(line) = self.next_of_crowd().await? {
                    self.compare(index, &line, expect);
                }
            }
            Step::Behave(name, script) => self.origin.behave(name, script),
            Step::Pass(name, passes) => self.origin.pass(name, *passes),
            Step::Await(name, expect) => self.sees(name, *expect.of(self.place.side)).await?,
            Step::Until(ask, name, seen) => self.until(ask, name, *seen).await?,
            Step::Stays(ask, count) => self.stays(ask, *count).await?,
            Step::Got(name, count, expect) => self.got(name, *count, *expect.of(self.place.side)).await?,
            Step::Heard(name, expect) => self.heard(name, expect.of(self.place.side)).await?,
            Step::Count(seen, expect) => {
                let is = self.proxy.count(&self.place.cluster(0), *seen).await?;
                let expected = *expect.of(self.place.side);
                if is != expected {
                    self.outcome.wrong.push(format!("step {index}: {is} endpoints are {seen:?}, not {expected}"));
                }
            }
        }
        Ok(())
    }

    async fn stays(&mut self, ask: &Ask, count: u32) -> Result<(), String> {
        let mut hosts = BTreeSet::new();
        for _ in 0..count {
            let id = self.id();
            let answer = within(ask.send(self.place.listener(), &id)).await?.ok_or("no answer")?;
            hosts.insert(answer.header("x-host").unwrap_or("nobody").to_owned());
        }
        if hosts.len() == 1 { Ok(()) } else { Err(format!("{hosts:?} got the same request")) }
    }

    async fn got(&self, name: &str, count: u32, percent: f64) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let requests = self.origin.got(name).requests;
            let rest = u64::from(count).saturating_sub(requests);
            let counts = Counts::from([("got".to_owned(), requests), ("rest".to_owned(), rest)]);
            let counts = counts.into_iter().filter(|(_, number)| *number > 0).collect();
            match spread::follows(&counts, &[("got", percent), ("rest", 100.0 - percent)]) {
                Ok(()) => return Ok(()),
                Err(what) if started.elapsed() > PATIENCE => return Err(format!("{name}: {what}")),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn heard(&self, name: &str, expected: &str) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let last = self.origin.got(name).last;
            if last == expected {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("{name} got `{last}`, not `{expected}`"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until(&mut self, ask: &Ask, name: &str, seen: Seen) -> Result<(), String> {
        let address = self.case.topology.address(self.place, name);
        let started = Instant::now();
        while self.proxy.look(address).await.ok() != Some(seen) {
            if started.elapsed() > PATIENCE {
                return Err(format!("{name} is not {seen:?} after {PATIENCE:?}"));
            }
            let mut wire = Wire::connect(self.place.listener()).await.map_err(|error| error.to_string())?;
            for number in 0..BATCH {
                within(ask.exchange(&mut wire, None, number)).await?.ok_or("the connection ended without an answer")?;
            }
        }
        Ok(())
    }

    fn compare(&mut self, index: usize, line: &str, expect: &Expect<&'static str>) {
        let expected = *expect.of(self.place.side);
        if line != expected {
            self.outcome.wrong.push(format!("step {index}: `{line}`, not `{expected}`"));
        }
    }

    async fn sees(&self, name: &str, seen: Seen) -> Result<(), String> {
        let address = self.case.topology.address(self.place, name);
        self.proxy.sees(address, seen).await.map_err(|error| format!("{name}: {error}"))
    }

    fn id(&mut self) -> String {
        self.asked += 1;
        format!("{}-{}", self.place.case, self.asked)
    }

    async fn ask(&mut self, ask: &Ask) -> Result<String, String> {
        let id = self.id();
        let answer = if ask.is_left() {
            let mut wire = Wire::connect(self.place.listener()).await.map_err(|error| error.to_string())?;
            wire.write(&ask.encode(Some(&id), 0)).await.map_err(|error| error.to_string())?;
            self.origin.holds(1).await?;
            drop(wire);
            None
        } else {
            within(ask.send(self.place.listener(), &id)).await?
        };
        let line = self.line(ask, &id, answer.as_ref()).await?;
        if ask.is_left() {
            // The endpoint is told, so that it need not go on.
            self.origin.holds(0).await?;
        }
        Ok(line)
    }

    async fn line(&self, ask: &Ask, id: &str, answer: Option<&Message>) -> Result<String, String> {
        let flags = if ask.is_logged() { self.proxy.flags(id).await? } else { "?".to_owned() };
        let mut line = ask.line(answer, &flags, &self.origin.tries(id));
        if ask.is_judged() {
            line += &format!(" {}", self.proxy.decision(id));
        }
        Ok(line)
    }

    async fn crowd(
        &mut self,
        index: usize,
        ask: &Ask,
        count: usize,
        answered: usize,
        expect: &Expect<&'static str>,
    ) -> Result<(), String> {
        for _ in 0..count {
            let (id, ask, to) = (self.id(), ask.clone(), self.place.listener());
            self.crowd.spawn(async move {
                let answer = ask.send(to, &id).await;
                (ask, id, answer)
            });
        }
        for _ in 0..answered {
            let line = self.next_of_crowd().await?.ok_or("all are answered")?;
            self.compare(index, &line, expect);
        }
        Ok(())
    }

    async fn next_of_crowd(&mut self) -> Result<Option<String>, String> {
        let Some(ended) = within(self.crowd.join_next()).await? else { return Ok(None) };
        let (ask, id, answer) = ended.map_err(|error| error.to_string())?;
        self.line(&ask, &id, answer.as_ref()).await.map(Some)
    }

    async fn spread(&mut self, index: usize, ask: &Ask, count: u32, expect: &Expect<Shares>) -> Result<(), String> {
        let shares = *expect.of(self.place.side);
        let mut connections = JoinSet::new();
        for part in 0..CONNECTIONS {
            let numbers = part * count / CONNECTIONS..(part + 1) * count / CONNECTIONS;
            connections.spawn(many(self.place.listener(), ask.clone(), numbers, shares));
        }
        let mut counts = Counts::new();
        while let Some(part) = connections.join_next().await {
            for (name, number) in part.map_err(|error| error.to_string())?? {
                *counts.entry(name).or_default() += number;
            }
        }
        if let Err(what) = spread::follows(&counts, shares) {
            self.outcome.wrong.push(format!("step {index}: {what}"));
        }
        self.outcome.counts.insert(index, counts);
        Ok(())
    }
}

async fn many(to: SocketAddr, ask: Ask, numbers: Range<u32>, shares: Shares) -> Result<Counts, String> {
    let mut counts = Counts::new();
    let mut wire = Wire::connect(to).await.map_err(|error| error.to_string())?;
    for number in numbers {
        let answer =
            within(ask.exchange(&mut wire, None, number)).await?.ok_or("the connection ended without an answer")?;
        let name = match answer.header("x-host") {
            Some(host) => named(shares, host),
            None => answer.status().unwrap_or_default().to_string(),
        };
        *counts.entry(name).or_default() += 1;
        if !answer.keeps_alive() {
            wire = Wire::connect(to).await.map_err(|error| error.to_string())?;
        }
    }
    Ok(counts)
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(PATIENCE, work).await.map_err(|_| format!("no end after {PATIENCE:?}"))
}
