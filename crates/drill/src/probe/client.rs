//! A bare HTTP/1.1 client that keeps connections and never repeats a request that may have been sent.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use evidence::record::Outcome;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A connection that can take a request.
type Connection = SendRequest<Full<Bytes>>;

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// Status line and headers.
    pub head: Response<()>,
    /// Up to the asked bound.
    pub body: Bytes,
    /// The body went on beyond the bound.
    pub cut: bool,
}

/// Kept connections to one address.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    most_idle: usize,
    idle: Mutex<Vec<Connection>>,
    out_of_descriptors: AtomicBool,
}

impl Client {
    /// No connection is made yet.
    pub fn new(address: SocketAddr, most_idle: usize) -> Self {
        Self { address, most_idle, idle: Mutex::new(Vec::new()), out_of_descriptors: AtomicBool::new(false) }
    }

    /// Whether this process, or the machine, ever had no descriptor left for a connection.
    pub fn is_out_of_descriptors(&self) -> bool {
        self.out_of_descriptors.load(Ordering::Relaxed)
    }

    async fn connect(&self) -> Result<Connection, Outcome> {
        connect(self.address).await.map_err(|error| {
            use rustix::io::Errno;
            if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE)) {
                self.out_of_descriptors.store(true, Ordering::Relaxed);
            }
            unconnected(&error)
        })
    }

    /// Sends one request and reads its answer. `sent` is called once, when the request is given to a connection.
    /// Dropping the future closes the connection that it used.
    ///
    /// # Errors
    /// [`Outcome::Connect`], [`Outcome::Reset`], or [`Outcome::NotSent`] where this machine has no room for a connection.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        body_bound: usize,
        mut sent: impl FnMut(),
    ) -> Result<Answer, Outcome> {
        let mut connection = match self.kept().await {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        sent();
        let response = match connection.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                // The request comes back only when not a byte of it was written: the kept connection was already
                // closed by the other side, and a new one is what any client would use.
                let unsent = error.take_message().ok_or(Outcome::Reset)?;
                connection = self.connect().await?;
                connection.send_request(unsent).await.map_err(|_| Outcome::Reset)?
            }
        };
        let answer = read(response, body_bound).await.map_err(|_| Outcome::Reset)?;
        if !answer.cut {
            self.keep(connection);
        }
        Ok(answer)
    }

    async fn kept(&self) -> Option<Connection> {
        loop {
            let mut connection = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if !connection.is_closed() && connection.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.most_idle && !connection.is_closed() {
            idle.push(connection);
        }
    }
}

/// Whether nobody takes connections there, or this process cannot make any: out of descriptors, memory, or ports.
fn unconnected(error: &std::io::Error) -> Outcome {
    use rustix::io::Errno;
    let own = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL, Errno::ADDRINUSE];
    let own = Errno::from_io_error(error).is_some_and(|errno| own.contains(&errno));
    if own { Outcome::NotSent } else { Outcome::Connect }
}

async fn connect(address: SocketAddr) -> std::io::Result<Connection> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (connection, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    // Ends with the connection; its error is seen by the request that it carries.
    tokio::task::spawn(driver);
    Ok(connection)
}

async fn read(response: Response<Incoming>, bound: usize) -> hyper::Result<Answer> {
    let (head, mut incoming) = response.into_parts();
    let mut body = BytesMut::new();
    let mut cut = false;
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if body.len() + data.len() > bound {
            cut = true;
            break;
        }
        body.extend_from_slice(&data);
    }
    Ok(Answer { head: Response::from_parts(head, ()), body: body.freeze(), cut })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_not_the_services_failure() {
        let check = |errno: rustix::io::Errno, expected: Outcome| {
            assert_eq!(unconnected(&errno.into()), expected, "{errno}");
        };
        check(rustix::io::Errno::CONNREFUSED, Outcome::Connect);
        check(rustix::io::Errno::TIMEDOUT, Outcome::Connect);
        check(rustix::io::Errno::MFILE, Outcome::NotSent);
        check(rustix::io::Errno::ADDRNOTAVAIL, Outcome::NotSent);
        assert_eq!(unconnected(&std::io::Error::other("no such thing")), Outcome::Connect);
    }
}
