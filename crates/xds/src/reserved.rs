//! Addresses that stay a user's own while nobody listens at them. Their supervisor binds each with `SO_REUSEPORT` and does not
//! listen: the kernel then lets only processes of the same user bind it as well, so that no other user takes the address of a
//! process that died, before it is started again.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// An address that is reserved until this is dropped.
#[derive(Debug)]
pub struct Reservation(#[allow(dead_code, reason = "what it does is to be open")] TcpSocket);

/// Reserves an address that nobody has, not even another reservation of the same user.
///
/// # Errors
/// If it is not to be had.
pub fn reserve(address: SocketAddr) -> io::Result<Reservation> {
    drop(std::net::TcpListener::bind(address)?);
    let socket = shared(address)?;
    // It was needed where connections of an earlier run are in TIME_WAIT. From here on it would let any user listen.
    socket.set_reuseaddr(false)?;
    Ok(Reservation(socket))
}

/// Listens at an address that may be reserved for this user.
///
/// # Errors
/// If somebody listens there, or it is not to be had.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match alone(address) {
        // Shared only with a reservation: a program that listens there has not allowed that.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => shared(address)?.listen(BACKLOG),
        done => done,
    }
}

fn alone(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn shared(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = socket(address)?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reserved_address_is_its_users_while_nobody_listens_there() {
        let free = listen(([127, 77, 1, 1], 0).into()).unwrap();
        let address = free.local_addr().unwrap();
        assert_eq!(
            listen(address).unwrap_err().kind(),
            io::ErrorKind::AddrInUse,
            "a program that listens shares nothing"
        );
        drop(free);
        let reservation = reserve(address).unwrap();
        assert_eq!(reserve(address).unwrap_err().kind(), io::ErrorKind::AddrInUse, "by one supervisor");
        // Nobody answers there, and a program that does not know of it cannot have it.
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
        assert_eq!(std::net::TcpListener::bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        for _ in 0..2 {
            let listener = listen(address).unwrap();
            let (connected, accepted) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
            drop((connected.unwrap(), accepted.unwrap()));
        }
        drop(reservation);
        std::net::TcpListener::bind(address).unwrap();
    }
}
