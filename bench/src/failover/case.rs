//! One case: a proxy, its origins, a client, a fault, and its end.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use super::{
    client::{Client, Kind},
    measure::{Figures, Record, Span, figures},
    origin::{self, Behaviour},
    server::Server,
};
use crate::{
    failure::Failure,
    peer::{self, Place},
    probe::Speaks,
};

/// Nothing but the primary for so long: the way back is over.
const SETTLED: Duration = Duration::from_secs(3);
/// Length of the ups and downs of a flapping primary.
const FLAP: Duration = Duration::from_secs(3);
/// What a primary takes that is `slow` later, before and then.
const USUAL: Duration = Duration::from_millis(2);
/// Requests a second that a primary can do that comes back overloaded.
const OVERLOADED: u32 = 200;
/// How long it stays overloaded.
const OVERLOAD: Duration = Duration::from_secs(5);

/// How the primary is hurt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Its process is killed.
    Kill,
    /// Its process stops: the kernel still takes connections and bytes.
    Stop,
    /// It answers 503.
    Unavailable,
    /// It resets connections in the middle of the response.
    Reset,
    /// It takes fifty times as long.
    Slow,
    /// One of its two instances is killed.
    Half,
    /// Requests reach it and are carried out; no answer comes back.
    OneWay,
    /// It is killed and started again each three seconds.
    Flap,
    /// It is killed, and comes back with room for less than half of the load.
    Overloaded,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Kill,
        Self::Stop,
        Self::Unavailable,
        Self::Reset,
        Self::Slow,
        Self::Half,
        Self::OneWay,
        Self::Flap,
        Self::Overloaded,
    ];

    /// For people and for `MODES`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Unavailable => "503",
            Self::Reset => "reset",
            Self::Slow => "slow",
            Self::Half => "half",
            Self::OneWay => "one-way",
            Self::Flap => "flap",
            Self::Overloaded => "overloaded",
        }
    }

    /// Whether lines over TCP can be hurt so.
    pub fn concerns(self, kind: Kind) -> bool {
        kind != Kind::Tcp || !matches!(self, Self::Unavailable | Self::Overloaded)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a case is.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name of the proxy's script, with its flavour.
    pub peer: String,
    /// What is asked.
    pub kind: Kind,
    /// How the primary is hurt.
    pub mode: Mode,
    /// Requests a second.
    pub rate: u32,
    /// Length of the fault.
    pub outage: Duration,
    /// Longest observation of the way back.
    pub back: Duration,
    /// Cases that run at once differ in it: the last number of their addresses.
    pub slot: u8,
}

/// The processes behind a proxy.
struct Scene<'a> {
    case: &'a Case,
    folder: &'a Path,
    primary: Option<Server>,
    starts: u32,
    _second: Option<Server>,
    _standby: Server,
}

/// Runs a case. `Err` inside says why the proxy is left out.
///
/// # Errors
/// When the machine refuses.
pub async fn run(case: &Case, folder: &Path) -> Result<Result<Figures, String>, Failure> {
    let at = |third: u8| Ipv4Addr::new(127, 77, third, case.slot + 1);
    let (listen, a, a2, b) = (at(11), at(12), at(13), at(14));
    let mut scene = Scene {
        case,
        folder,
        primary: None,
        starts: 0,
        _second: match case.mode {
            Mode::Half => Some(Server::start("a2", a2, Duration::ZERO, &folder.join("a2")).await?),
            _ => None,
        },
        _standby: Server::start("b", b, scene_delay(case.mode), &folder.join("b")).await?,
    };
    scene.start_primary().await?;
    let (speaks, protocol) = match case.kind {
        Kind::Get | Kind::Post => (Speaks::Http1, "http"),
        Kind::H2Get | Kind::H2Post | Kind::Grpc => (Speaks::Http2, "http2"),
        Kind::Tcp => (Speaks::Lines, "tcp"),
    };
    let mut more = vec![("UP_PROTOCOL", protocol.to_owned())];
    if case.mode == Mode::Half {
        more.push(("A2_HOST", a2.to_string()));
    }
    let place = Place {
        variant: "failover",
        speaks,
        listen: SocketAddr::from((listen, 18080)),
        admin_port: 18099,
        a,
        b,
        up_port: if case.kind == Kind::Tcp { origin::LINES } else { origin::HTTP },
        certificates: folder.to_owned(),
        more,
    };
    let _proxy = match peer::start(&case.peer, &place, &folder.join("proxy")).await? {
        Err(why) => return Ok(Err(why)),
        Ok(proxy) => proxy,
    };
    // Health checks settle.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let client = Client::start(place.listen, case.kind, case.rate);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let fault = Instant::now();
    scene.hurt().await?;
    let back = Instant::now();
    scene.restore().await?;
    settle(&client, back, case).await;
    let end = Instant::now();
    let records = client.end().await;
    Ok(Ok(figures(&records, Span { fault, back, end }, "a", "b")))
}

fn scene_delay(mode: Mode) -> Duration {
    if mode == Mode::Slow { USUAL } else { Duration::ZERO }
}

impl Scene<'_> {
    async fn start_primary(&mut self) -> Result<(), Failure> {
        let host = Ipv4Addr::new(127, 77, 12, self.case.slot + 1);
        self.starts += 1;
        let log = self.folder.join(format!("a-{}", self.starts));
        self.primary = Some(Server::start("a", host, scene_delay(self.case.mode), &log).await?);
        Ok(())
    }

    fn tell(&mut self, behaviour: Behaviour) -> Result<(), Failure> {
        self.primary.as_mut().map_or(Ok(()), |primary| primary.tell(behaviour))
    }

    async fn kill(&mut self) {
        if let Some(primary) = self.primary.take() {
            primary.kill().await;
        }
    }

    /// Hurts the primary, and waits until that is to end.
    async fn hurt(&mut self) -> Result<(), Failure> {
        let end = tokio::time::Instant::now() + self.case.outage;
        match self.case.mode {
            Mode::Kill | Mode::Half | Mode::Overloaded => self.kill().await,
            Mode::Stop => self.primary.iter().for_each(Server::stop),
            Mode::Unavailable => self.tell(Behaviour::Unavailable)?,
            Mode::Reset => self.tell(Behaviour::Reset)?,
            Mode::Slow => self.tell(Behaviour::Slow(USUAL * 50))?,
            Mode::OneWay => self.tell(Behaviour::Silent)?,
            Mode::Flap => {
                while tokio::time::Instant::now() < end {
                    self.kill().await;
                    tokio::time::sleep(FLAP).await;
                    self.start_primary().await?;
                    tokio::time::sleep(FLAP).await;
                }
            }
        }
        tokio::time::sleep_until(end).await;
        Ok(())
    }

    async fn restore(&mut self) -> Result<(), Failure> {
        match self.case.mode {
            Mode::Kill | Mode::Half => self.start_primary().await,
            Mode::Stop => {
                self.primary.iter().for_each(Server::go_on);
                Ok(())
            }
            Mode::Unavailable | Mode::Reset | Mode::Slow | Mode::OneWay => self.tell(Behaviour::Good),
            Mode::Flap => Ok(()),
            Mode::Overloaded => {
                self.start_primary().await?;
                self.tell(Behaviour::Overloaded(OVERLOADED))?;
                tokio::time::sleep(OVERLOAD).await;
                self.tell(Behaviour::Good)
            }
        }
    }
}

/// Waits until the primary has all the load again, at most as long as the case says.
async fn settle(client: &Client, back: Instant, case: &Case) {
    let deadline = back + case.back;
    while Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let from = Instant::now().checked_sub(SETTLED).unwrap_or(back);
        let recent = |record: &&Record| record.due > from;
        let all_back = client.look(|records| {
            records
                .iter()
                .rev()
                .take_while(|r| r.due + Duration::from_secs(6) > from)
                .filter(recent)
                .all(|r| r.is_of("a"))
        });
        if all_back && Instant::now() > back + SETTLED + Duration::from_secs(1) {
            return;
        }
    }
}
