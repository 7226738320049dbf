//! An endpoint that writes down, byte for byte, what reaches it, and answers what it is told to.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::AtomicUsize, atomic::Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use xds::snapshot::Endpoint;

use super::wire::{self, End, Kind, Message};
use crate::support::ip;

/// A request that reached the endpoint.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Number of the connection, from 0.
    pub connection: usize,
    pub message: Message,
}

/// What the endpoint writes for a request; then it goes on reading, or closes.
#[derive(Clone, Debug)]
pub struct Reply {
    pub bytes: Vec<u8>,
    pub close: bool,
}

impl Reply {
    /// 200 with a small body, where the method allows one.
    pub fn ok(to: &Message) -> Self {
        let body = if to.start.starts_with("HEAD ") { "" } else { "ok" };
        Self { bytes: format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{body}").into(), close: false }
    }
}

/// When the endpoint answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// When the request's end has come.
    Whole,
    /// When its head has come, whatever of the body.
    Head,
}

#[derive(Debug, Default)]
struct Log {
    whole: Vec<Arrived>,
    /// Requests that never came to their end.
    cut: Vec<Message>,
    broken: Vec<String>,
}

/// The endpoint.
#[derive(Debug)]
pub struct Recorder {
    pub address: SocketAddr,
    log: Arc<Mutex<Log>>,
    task: JoinHandle<()>,
}

impl Recorder {
    /// `answer` is asked for every whole request.
    pub async fn start(answer: impl Fn(&Message) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(When::Whole, answer).await
    }

    /// `answer` is asked for every request, at this point of it.
    pub async fn with(when: When, answer: impl Fn(&Message) -> Reply + Send + Sync + 'static) -> Self {
        let address = SocketAddr::new(ip(), 8080);
        let listener = TcpListener::bind(address).await.unwrap();
        let log = Arc::new(Mutex::new(Log::default()));
        let (shared, answer, count) = (log.clone(), Arc::new(answer), AtomicUsize::new(0));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection = count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, connection, shared.clone(), (when, answer.clone())));
            }
        });
        Self { address, log, task }
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint { name: "recorder".into(), address: self.address, version: "v1".into(), weight: 1 }
    }

    /// Whole requests since the last call. Panics if anything came that a strict reader refuses.
    pub fn arrived(&self) -> Vec<Arrived> {
        let mut log = self.log.lock().unwrap();
        assert!(log.broken.is_empty(), "the proxy wrote {:?}", log.broken);
        std::mem::take(&mut log.whole)
    }

    /// Beginnings of requests that broke off, since the last call.
    pub fn cut(&self) -> Vec<Message> {
        std::mem::take(&mut self.log.lock().unwrap().cut)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<A>(mut stream: TcpStream, connection: usize, log: Arc<Mutex<Log>>, (when, answer): (When, Arc<A>))
where
    A: Fn(&Message) -> Reply,
{
    let mut input = Vec::new();
    let mut answered = false;
    loop {
        let found = match wire::read(&input, Kind::Request) {
            Err(reason) => return log.lock().unwrap().broken.push(reason),
            Ok(found) => found,
        };
        let whole = match &found {
            Some((_, End::At(length))) => Some(*length),
            _ => None,
        };
        let mut close = false;
        if let Some((message, _)) = &found
            && !answered
            && (whole.is_some() || when == When::Head)
        {
            let reply = answer(message);
            answered = true;
            if let Some(length) = whole {
                input.drain(..length);
                log.lock().unwrap().whole.push(Arrived { connection, message: message.clone() });
            }
            close = stream.write_all(&reply.bytes).await.is_err() || reply.close;
        } else if let (Some((message, _)), Some(length)) = (&found, whole) {
            input.drain(..length);
            log.lock().unwrap().whole.push(Arrived { connection, message: message.clone() });
        }
        if whole.is_some() {
            answered = false;
        }
        if close {
            return;
        }
        if whole.is_none() && stream.read_buf(&mut input).await.unwrap_or(0) == 0 {
            let mut log = log.lock().unwrap();
            match found {
                Some((message, _)) => log.cut.push(message),
                None if !input.is_empty() => log.broken.push(format!("{:?}", String::from_utf8_lossy(&input))),
                None => {}
            }
            return;
        }
    }
}
