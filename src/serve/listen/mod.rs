//! Where Envoys connect. Sockets are bound first, so that the addresses are known and mistakes are found before anything
//! else starts; then they are served by loops that nothing a peer does, and no lack of file descriptors, can end.

mod calls;
mod connection;
mod failed_handshakes;
mod handshakes;
mod http2;
mod last_good;
mod places;
#[cfg(test)]
mod raw_http2;
mod tcp;
mod tls;
mod tls_dates;
mod turns;
mod unix;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};

pub use connection::{Connection, Peer};
pub(crate) use failed_handshakes::HandshakeFailure;
pub use tls::{Checked, TlsError, TlsFiles, check};

use self::places::ConnectionPlaces;
use crate::model::certificate::Validity;
use crate::model::diagnostic::Problem;
use crate::runtime::clock::Clock;
use crate::runtime::descriptors;
use crate::runtime::tasks::Tasks;
use crate::serve::SdsServer;
use crate::serve::metrics::Metrics;

/// Connections that the kernel keeps until they are accepted, if the system lets it (`net.core.somaxconn`). Where there is no
/// room, a connecting peer's first packet is dropped, and it comes again a second later: thousands connect at once
/// when a server comes back.
const LISTEN_BACKLOG: u32 = 4096;

/// From accepting a connection to the end of HTTP/2's preface, TLS handshake included.
const HELLO: Duration = Duration::from_secs(10);

/// Accepted connections that wait for the server to take them.
const BACKLOG: usize = 64;

/// One place to listen at.
#[derive(Debug, Clone)]
pub struct ListenerSettings {
    /// The address.
    pub endpoint: Endpoint,
    /// TLS; for TCP only.
    pub tls: Option<TlsFiles>,
}

/// An address to listen at.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// `host:port`; port 0 picks a free one.
    Tcp(String),
    /// A unix socket.
    Unix {
        /// The socket file.
        path: PathBuf,
        /// Its permissions, such as `0o660`.
        mode: u32,
    },
}

/// Why there is no listening.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be had.
    #[error("cannot listen at {address}: {source}")]
    Socket {
        /// As configured.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The TLS files are no good.
    #[error("cannot listen at {address}: {source}")]
    Tls {
        /// As configured.
        address: String,
        /// What is wrong with them.
        source: TlsError,
    },
    /// TLS over a unix socket is not supported.
    #[error("cannot listen at {address}: a unix socket has no TLS; its peer is known by its user and group")]
    UnixTls {
        /// As configured.
        address: String,
    },
}

/// Sockets that are listening; see [`bind`].
#[derive(Debug)]
pub struct Bound {
    addresses: Vec<String>,
    listeners: Vec<Listener>,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener, Option<Box<tls::Tls>>),
    Unix(UnixListener, unix::SocketFile),
}

impl Bound {
    /// What is wrong with the TLS files of each listener that has any.
    pub fn problems(&self) -> Vec<watch::Receiver<Arc<Vec<Problem>>>> {
        self.tls().map(|(_, tls)| tls.problems()).collect()
    }

    /// How long each listener's own certificate is valid, by the address, of those that have one.
    pub fn certificates(&self) -> Vec<(String, watch::Receiver<Option<Validity>>)> {
        self.tls().map(|(address, tls)| (address.clone(), tls.validity())).collect()
    }

    fn tls(&self) -> impl Iterator<Item = (&String, &tls::Tls)> {
        self.addresses.iter().zip(&self.listeners).filter_map(|(address, listener)| match listener {
            Listener::Tcp(_, tls) => Some((address, tls.as_deref()?)),
            Listener::Unix(..) => None,
        })
    }

    /// The real addresses, in the order of the settings: `127.0.0.1:43121`, `unix:/path`.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }
}

/// Binds every listener and loads its TLS files.
///
/// # Errors
/// [`BindError`] for the first that does not work.
pub async fn bind(listeners: &[ListenerSettings], clock: &Clock) -> Result<Bound, BindError> {
    let mut bound = Bound { addresses: Vec::new(), listeners: Vec::new() };
    for ListenerSettings { endpoint, tls } in listeners {
        let (address, listener) = match endpoint {
            Endpoint::Tcp(address) => {
                let failed = |source| BindError::Socket { address: address.clone(), source };
                let tls = tls.clone().map(|files| tls::Tls::load(files, clock)).transpose();
                let tls = tls.map_err(|source| BindError::Tls { address: address.clone(), source })?;
                let socket = tcp::bind(address).await.map_err(failed)?;
                (socket.local_addr().map_err(failed)?.to_string(), Listener::Tcp(socket, tls.map(Box::new)))
            }
            Endpoint::Unix { path, mode } => {
                let address = format!("unix:{}", path.display());
                if tls.is_some() {
                    return Err(BindError::UnixTls { address });
                }
                match unix::bind(path, *mode).await {
                    Ok((socket, file)) => (address, Listener::Unix(socket, file)),
                    Err(source) => return Err(BindError::Socket { address, source }),
                }
            }
        };
        tracing::debug!(%address, tls = tls.is_some(), "bound");
        bound.addresses.push(address);
        bound.listeners.push(listener);
    }
    Ok(bound)
}

/// How long connections live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// A connection that is to end is closed after this time if it has not ended by then. Longer than streams are given
    /// ([`super::ServeSettings::drain`]), which end with a status.
    pub drain: Duration,
    /// After this time, a tenth more or less, a connection is to end, so that proxies spread over the replicas that there
    /// are by then (item 103); `None` for never.
    pub max_age: Option<Duration>,
}

/// Serves `server` on what is bound until shutdown begins; the connections, each of them a task, end within
/// `lifetimes.drain` of that. To be spawned with [`Tasks::spawn_to_end`].
pub async fn serve(
    bound: Bound,
    server: SdsServer,
    tasks: Tasks,
    clock: Clock,
    lifetimes: Lifetimes,
    metrics: Metrics,
) {
    let (accepted, connections) = mpsc::channel(BACKLOG);
    let places = ConnectionPlaces::new(descriptors::for_connections());
    for listener in bound.listeners {
        let accepted = accepted.clone();
        match listener {
            Listener::Tcp(socket, tls) => {
                let tls = tls.map(|tls| tls.start(&tasks, clock.clone(), metrics.clone(), server.refusals()));
                tasks
                    .spawn_essential("tcp listener", tcp::accept(socket, tls, tasks.clone(), places.clone(), accepted));
            }
            Listener::Unix(socket, file) => {
                tasks.spawn_essential("unix listener", unix::accept(socket, file, places.clone(), accepted));
            }
        }
    }
    drop(accepted);
    http2::serve(connections, server, tasks, lifetimes).await;
}

/// What to do about an error of `accept`: nothing if it is the peer's, and a pause if it is ours (EMFILE and the like),
/// because trying again at once would only burn a processor.
async fn accept_failed(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) {
        tracing::warn!(%error, "cannot accept a connection; trying again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[cfg(test)]
#[path = "listen_tests.rs"]
mod tests;

#[cfg(test)]
mod transport_tests;
