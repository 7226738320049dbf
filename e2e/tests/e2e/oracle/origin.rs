//! The endpoints of one case on one side: they say who they are, remember who was asked, and misbehave as told.
//!
//! A script is what each try of a request meets, in order, the last for all further ones: `503,reset,200`. A request
//! carries it in `x-script`; without it the endpoint's own holds.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::wire::{Message, Wire};

/// Active checks ask for this path.
pub const CHECKED: &str = "/healthz";

/// An answer of which most is missing.
const CUT: &str = "HTTP/1.1 200 Scripted\r\ncontent-length: 100\r\n\r\nonly this";

/// What an endpoint does with a request.
enum Act {
    /// Answers.
    Answer(u16, String),
    /// Answers with a body that ends early.
    Cut,
    /// Answers with a body that never ends.
    Stall,
    /// Answers something that is not HTTP.
    Garbage,
    /// Closes the connection.
    Close,
    /// Resets the connection, or the stream.
    Reset,
    /// Refuses the stream unseen (HTTP/2).
    Refuse,
    /// Says nothing.
    Hang,
}

struct Host {
    name: String,
    passes: AtomicBool,
    script: Mutex<String>,
    got: Mutex<Got>,
}

/// What an endpoint got, checks left out.
#[derive(Clone, Debug, Default)]
pub struct Got {
    /// How many requests.
    pub requests: u64,
    /// The last one: `GET /path at host`.
    pub last: String,
}

struct Shared {
    hosts: HashMap<String, Arc<Host>>,
    /// Request id → endpoints that got it, in order.
    tries: Mutex<HashMap<String, Vec<String>>>,
    /// Requests that are being held.
    held: watch::Sender<usize>,
    /// Whether more are to be.
    holding: watch::Sender<bool>,
}

/// Endpoints. They end when this is dropped.
pub struct Origin {
    shared: Arc<Shared>,
    _listening: JoinSet<()>,
}

impl Origin {
    /// Starts them: name, address, whether checks pass.
    pub async fn start(hosts: Vec<(String, SocketAddr, bool)>) -> Self {
        let mut known = HashMap::new();
        let mut sockets = Vec::new();
        for (name, address, passes) in hosts {
            let socket = TcpListener::bind(address).await.unwrap_or_else(|e| panic!("{name} on {address}: {e}"));
            let script = Mutex::new("200".to_owned());
            let (passes, got) = (AtomicBool::new(passes), Mutex::default());
            let host = Arc::new(Host { name: name.clone(), passes, script, got });
            known.insert(name, Arc::clone(&host));
            sockets.push((socket, host));
        }
        let (held, holding) = (watch::Sender::new(0), watch::Sender::new(true));
        let shared = Arc::new(Shared { hosts: known, tries: Mutex::default(), held, holding });
        let mut listening = JoinSet::new();
        for (socket, host) in sockets {
            listening.spawn(accept(socket, host, Arc::clone(&shared)));
        }
        Self { shared, _listening: listening }
    }

    /// Changes an endpoint's own script.
    pub fn behave(&self, name: &str, script: &str) {
        script.clone_into(&mut self.shared.hosts[name].script.lock().unwrap());
    }

    /// Changes whether an endpoint's active checks pass.
    pub fn pass(&self, name: &str, passes: bool) {
        self.shared.hosts[name].passes.store(passes, Ordering::Release);
    }

    /// What an endpoint got.
    pub fn got(&self, name: &str) -> Got {
        self.shared.hosts[name].got.lock().unwrap().clone()
    }

    /// Who got a request.
    pub fn tries(&self, id: &str) -> Vec<String> {
        self.shared.tries.lock().unwrap().get(id).cloned().unwrap_or_default()
    }

    /// Waits until so many requests are being held.
    pub async fn holds(&self, count: usize) -> Result<(), String> {
        let mut held = self.shared.held.subscribe();
        let waited = tokio::time::timeout(super::PATIENCE, held.wait_for(|held| *held == count)).await;
        let is = || format!("{} requests are held, not {count}", *self.shared.held.borrow());
        waited.map_err(|_| is())?.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Whether requests with script `hold` are held; those that are, are answered when no more are.
    pub fn hold(&self, on: bool) {
        self.shared.holding.send_replace(on);
    }
}

async fn accept(socket: TcpListener, host: Arc<Host>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = socket.accept().await {
        let _ = stream.set_nodelay(true);
        connections.spawn(serve(stream, Arc::clone(&host), Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, host: Arc<Host>, shared: Arc<Shared>) {
    let mut first = [0; 3];
    match stream.peek(&mut first).await {
        Ok(3) if &first == b"PRI" => serve_http2(stream, host, shared).await,
        Ok(1..) => serve_http1(Wire::new(stream, Vec::new()), &host, &shared).await,
        _ => {}
    }
}

async fn serve_http1(mut wire: Wire, host: &Host, shared: &Shared) {
    while let Ok(Some(request)) = wire.request().await {
        let act = tokio::select! {
            act = act(host, shared, &request) => act,
            () = wire.closed() => return,
        };
        let answer = match act {
            Act::Answer(status, body) => {
                let length = body.len();
                let name = &host.name;
                let head = format!("HTTP/1.1 {status} Scripted\r\nx-host: {name}\r\ncontent-length: {length}\r\n\r\n");
                // The answer to HEAD tells the length and sends nothing.
                if request.start.starts_with("HEAD ") { head } else { head + &body }
            }
            Act::Cut => CUT.to_owned(),
            Act::Stall => {
                // A caller that is gone is seen by the wait.
                let _ = wire.write(CUT.as_bytes()).await;
                return wire.closed().await;
            }
            Act::Garbage => "this is not HTTP\r\n\r\n".to_owned(),
            Act::Close => return,
            Act::Reset | Act::Refuse => return wire.reset(),
            Act::Hang => return wire.closed().await,
        };
        let last = !answer.starts_with("HTTP/1.1") || answer == CUT;
        if wire.write(answer.as_bytes()).await.is_err() || last {
            return;
        }
    }
}

async fn serve_http2(stream: TcpStream, host: Arc<Host>, shared: Arc<Shared>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (host, shared) = (Arc::clone(&host), Arc::clone(&shared));
        streams.spawn(async move {
            let request = as_message(&request);
            match act(&host, &shared, &request).await {
                Act::Answer(status, body) => {
                    let response = http::Response::builder().status(status).header("x-host", &host.name).body(());
                    if let Ok(mut body_to) = respond.send_response(response.expect("a status"), false) {
                        // A caller that is gone needs no body.
                        let _ = body_to.send_data(Bytes::from(body), true);
                    }
                }
                Act::Refuse => respond.send_reset(h2::Reason::REFUSED_STREAM),
                Act::Hang | Act::Stall => {
                    let _ = std::future::poll_fn(|context| respond.poll_reset(context)).await;
                }
                Act::Reset | Act::Close | Act::Cut | Act::Garbage => respond.send_reset(h2::Reason::INTERNAL_ERROR),
            }
        });
    }
}

fn as_message<T>(request: &http::Request<T>) -> Message {
    let headers = request.headers().iter();
    Message {
        start: format!("{} {} HTTP/2", request.method(), request.uri().path()),
        headers: headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
            .collect(),
        body: Vec::new(),
        whole: true,
    }
}

async fn act(host: &Host, shared: &Shared, request: &Message) -> Act {
    if request.start.split(' ').nth(1) == Some(CHECKED) {
        let status = if host.passes.load(Ordering::Acquire) { 200 } else { 503 };
        return Act::Answer(status, String::new());
    }
    {
        let mut got = host.got.lock().unwrap();
        got.requests += 1;
        got.last = echo(request);
    }
    let before = request.header("x-request-id").map_or(0, |id| {
        let mut tries = shared.tries.lock().unwrap();
        let tries = tries.entry(id.to_owned()).or_default();
        tries.push(host.name.clone());
        tries.len() - 1
    });
    let script = request.header("x-script").map_or_else(|| host.script.lock().unwrap().clone(), str::to_owned);
    let words: Vec<&str> = script.split(',').collect();
    let word = words[before.min(words.len() - 1)];
    let text = format!("{} got it", host.name);
    match word {
        "cut" => Act::Cut,
        "stall" => Act::Stall,
        "garbage" => Act::Garbage,
        "close" => Act::Close,
        "reset" => Act::Reset,
        "refuse" => Act::Refuse,
        "hang" => Act::Hang,
        "echo" => Act::Answer(200, echo(request)),
        "hold" => {
            hold(shared).await;
            Act::Answer(200, text)
        }
        _ => match word.split_once(':') {
            Some(("late", millis)) => {
                tokio::time::sleep(Duration::from_millis(millis.parse().expect("milliseconds"))).await;
                Act::Answer(200, text)
            }
            Some(("tell", header)) => Act::Answer(200, tell(request, header)),
            _ => Act::Answer(word.parse().unwrap_or_else(|_| panic!("no such script: {word}")), text),
        },
    }
}

/// What came, so that a case can compare what was made of its request on the way.
fn echo(request: &Message) -> String {
    let target = request.start.rsplit_once(' ').map_or("", |(target, _)| target);
    format!("{target} at {}", request.header("host").unwrap_or("-"))
}

/// All values of a header that came.
fn tell(request: &Message, header: &str) -> String {
    let values = request.headers.iter().filter(|(name, _)| name == header).map(|(_, value)| value.as_str());
    let values: Vec<&str> = values.collect();
    if values.is_empty() { "-".to_owned() } else { values.join(",") }
}

async fn hold(shared: &Shared) {
    /// Counts down also where the caller goes away.
    struct Held<'a>(&'a watch::Sender<usize>);
    impl Drop for Held<'_> {
        fn drop(&mut self) {
            self.0.send_modify(|held| *held -= 1);
        }
    }
    let mut holding = shared.holding.subscribe();
    shared.held.send_modify(|held| *held += 1);
    let _held = Held(&shared.held);
    let _ = holding.wait_for(|on| !on).await;
}
