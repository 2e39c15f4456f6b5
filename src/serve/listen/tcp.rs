//! TCP, with TLS or without.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connection::{Connection, Io};
use super::handshakes::Handshakes;
use super::places::ConnectionPlaces;
use super::{HELLO, LISTEN_BACKLOG, accept_failed};
use crate::runtime::tasks::Tasks;

/// Binds `address`, a `host:port`, at the first of what its name stands for that works.
pub(super) async fn bind(address: &str) -> io::Result<TcpListener> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name stands for no address");
    for address in tokio::net::lookup_host(address).await? {
        match bind_at(address) {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn bind_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart need not wait for connections of the old process to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// Accepts connections for as long as somebody takes them.
pub(super) async fn accept(
    socket: TcpListener,
    tls: Option<Handshakes>,
    tasks: Tasks,
    places: ConnectionPlaces,
    accepted: mpsc::Sender<Connection>,
) {
    while !accepted.is_closed() {
        if let Some(handshakes) = &tls {
            handshakes.room().await;
        }
        let place = places.take().await;
        let stream = match socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                accept_failed(&error).await;
                continue;
            }
        };
        // A secret and its ACK are small; nothing is gained by waiting for more of them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let deadline = Instant::now() + HELLO;
        match &tls {
            Some(handshakes) => handshakes.start(stream, place, deadline, &tasks, accepted.clone()),
            // An error means that the server is gone, which the loop notices.
            None => drop(accepted.send(Connection::new(Io::Plain(stream), deadline).at(place)).await),
        }
    }
}
