//! An origin that can be made to misbehave: `bench origin HOST NAME DELAY_MS`, told what to do on its standard input.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

use crate::failure::Failure;

/// Where it speaks HTTP, of both versions.
pub const HTTP: u16 = 18001;
/// Where it answers lines.
pub const LINES: u16 = 18002;
/// Size of an answer's body, in bytes.
const BODY: usize = 1024;
/// Requests that an overloaded origin works on at once; the others wait.
const AT_ONCE: usize = 4;
/// Of those that wait; a further one gets 503.
const QUEUE: u32 = 64;
/// Before a response breaks off, so that its beginning arrives.
const BEFORE_RESET: Duration = Duration::from_micros(500);

/// What it does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers.
    Good,
    /// Answers 503.
    Unavailable,
    /// Resets the connection (or stream) in the middle of the response.
    Reset,
    /// Answers this much later.
    Slow(Duration),
    /// Takes requests; its answers come when this is over.
    Silent,
    /// Can do no more than this number of requests a second.
    Overloaded(u32),
}

impl Behaviour {
    /// The line that tells it.
    pub fn line(self) -> String {
        match self {
            Self::Good => "good\n".to_owned(),
            Self::Unavailable => "unavailable\n".to_owned(),
            Self::Reset => "reset\n".to_owned(),
            Self::Slow(delay) => format!("slow {}\n", delay.as_millis()),
            Self::Silent => "silent\n".to_owned(),
            Self::Overloaded(rate) => format!("overloaded {rate}\n"),
        }
    }

    fn read(line: &str) -> Option<Self> {
        let (word, number) = line.split_once(' ').unwrap_or((line, "0"));
        Some(match word {
            "good" => Self::Good,
            "unavailable" => Self::Unavailable,
            "reset" => Self::Reset,
            "slow" => Self::Slow(Duration::from_millis(number.parse().ok()?)),
            "silent" => Self::Silent,
            "overloaded" => Self::Overloaded(number.parse().ok()?),
            _ => return None,
        })
    }
}

struct Origin {
    name: String,
    delay: Duration,
    behaviour: watch::Receiver<Behaviour>,
    room: Semaphore,
    waiting: AtomicU32,
}

/// Serves until it is killed.
///
/// # Errors
/// When the arguments are not understood or an address is taken.
pub async fn run(arguments: &[String]) -> Result<(), Failure> {
    let usage = || Failure::Usage("bench origin HOST NAME DELAY_MS".to_owned());
    let [host, name, delay] = arguments else { return Err(usage()) };
    let host: Ipv4Addr = host.parse().map_err(|_| usage())?;
    let delay = Duration::from_millis(delay.parse().map_err(|_| usage())?);
    let (tell, behaviour) = watch::channel(Behaviour::Good);
    let (room, waiting) = (Semaphore::new(AT_ONCE), AtomicU32::new(0));
    let origin = Arc::new(Origin { name: name.clone(), delay, behaviour, room, waiting });
    let http = bind(host, HTTP).await?;
    let lines = bind(host, LINES).await?;
    let mut told = BufReader::new(tokio::io::stdin()).lines();
    let mut listening = true;
    loop {
        tokio::select! {
            Ok((stream, _)) = http.accept() => { tokio::spawn(serve(origin.clone(), stream)); }
            Ok((stream, _)) = lines.accept() => { tokio::spawn(serve_line(origin.clone(), stream)); }
            line = told.next_line(), if listening => match line {
                Ok(Some(line)) => match Behaviour::read(&line) {
                    Some(behaviour) => drop(tell.send(behaviour)),
                    None => return Err(Failure::Usage(format!("told `{line}`"))),
                },
                Ok(None) | Err(_) => listening = false,
            },
        }
    }
}

async fn bind(host: Ipv4Addr, port: u16) -> Result<TcpListener, Failure> {
    let address = SocketAddr::from((host, port));
    TcpListener::bind(address).await.map_err(Failure::io(address.to_string()))
}

async fn serve(origin: Arc<Origin>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let abrupt = Arc::new(AtomicBool::new(false));
    let io = TokioIo::new(Abrupt { stream, abrupt: abrupt.clone() });
    let service = service_fn(move |request| {
        let (origin, abrupt) = (origin.clone(), abrupt.clone());
        async move { Ok::<_, Infallible>(origin.answer(request, &abrupt).await) }
    });
    // A caller that goes away is no business of ours.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
}

async fn serve_line(origin: Arc<Origin>, stream: TcpStream) {
    let mut io = Abrupt { stream, abrupt: Arc::default() };
    let mut asked = [0; 4];
    if io.read_exact(&mut asked).await.is_err() {
        return;
    }
    if origin.wait().await == Behaviour::Reset {
        io.abrupt.store(true, Ordering::Relaxed);
        let _ = io.write_all(&origin.name.as_bytes()[..1]).await;
        tokio::time::sleep(BEFORE_RESET).await;
        return;
    }
    let _ = io.write_all(format!("{}\n", origin.name).as_bytes()).await;
    let _ = io.shutdown().await;
}

type Answer = Response<BoxBody<Bytes, io::Error>>;

impl Origin {
    async fn answer(&self, request: Request<Incoming>, abrupt: &AtomicBool) -> Answer {
        let grpc = request.headers().get(CONTENT_TYPE).is_some_and(|value| value == "application/grpc");
        let _ = request.into_body().collect().await;
        let behaviour = self.wait().await;
        let mut answer = match behaviour {
            Behaviour::Unavailable => unavailable(grpc),
            Behaviour::Reset => {
                abrupt.store(true, Ordering::Relaxed);
                broken()
            }
            Behaviour::Overloaded(rate) => match self.turn(rate).await {
                true => good(grpc),
                false => unavailable(grpc),
            },
            Behaviour::Good | Behaviour::Slow(_) | Behaviour::Silent => good(grpc),
        };
        if let Ok(name) = HeaderValue::try_from(&self.name) {
            answer.headers_mut().insert("x-origin", name);
        }
        if grpc {
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        }
        answer
    }

    /// Takes the time that it takes now; gives what it does then.
    async fn wait(&self) -> Behaviour {
        let mut behaviour = self.behaviour.clone();
        let now = *behaviour.borrow();
        match now {
            Behaviour::Slow(delay) => tokio::time::sleep(delay).await,
            // Until it is over: then the answers come.
            Behaviour::Silent => drop(behaviour.wait_for(|now| *now != Behaviour::Silent).await),
            _ if !self.delay.is_zero() => tokio::time::sleep(self.delay).await,
            _ => {}
        }
        *self.behaviour.borrow()
    }

    /// Waits for a turn and uses its time; false when the queue is full.
    async fn turn(&self, rate: u32) -> bool {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let turn = self.room.acquire().await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let work = Duration::from_secs(1).mul_f64(AT_ONCE as f64 / f64::from(rate.max(1)));
        tokio::time::sleep(work).await;
        turn.is_ok()
    }
}

fn good(grpc: bool) -> Answer {
    if !grpc {
        return Response::new(Full::new(Bytes::from_static(&[b'x'; BODY])).map_err(|never| match never {}).boxed());
    }
    let message = Bytes::from_static(b"\0\0\0\0\x10sixteen bytes ok");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Frame::data(message), Frame::trailers(trailers)].map(Ok);
    Response::new(BodyExt::boxed(StreamBody::new(stream::iter(frames))))
}

fn unavailable(grpc: bool) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::new()).map_err(|never| match never {}).boxed());
    if grpc {
        answer.headers_mut().insert("grpc-status", HeaderValue::from_static("14"));
    } else {
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    answer
}

/// Half of an answer.
fn broken() -> Answer {
    let half = stream::once(async { Ok(Frame::data(Bytes::from_static(&[b'x'; BODY / 2]))) });
    let end = stream::once(async {
        tokio::time::sleep(BEFORE_RESET).await;
        Err(io::ErrorKind::ConnectionReset.into())
    });
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(half.chain(end))));
    answer.headers_mut().insert("content-length", HeaderValue::from(BODY));
    answer
}

/// A connection that can end with a reset instead of an orderly close.
struct Abrupt {
    stream: TcpStream,
    abrupt: Arc<AtomicBool>,
}

impl Drop for Abrupt {
    fn drop(&mut self) {
        if self.abrupt.load(Ordering::Relaxed) {
            let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Abrupt {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Abrupt {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
