//! TCP, with TLS or without.

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connection::{Connection, Io};
use super::handshakes::Handshakes;
use super::places::ConnectionPlaces;
use super::{HELLO, accept_failed};
use crate::runtime::tasks::Tasks;

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
