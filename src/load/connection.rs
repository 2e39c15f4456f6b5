//! One connection, from its first attempt to the end of the run: a single task, which drives HTTP/2 and every stream on it.

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use h2::client::{Builder, Connection, SendRequest};
use http::{Request, Uri, header};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, sleep};

use super::meters::Meters;
use super::plan::Role;
use super::proxy::{Proxy, Surroundings};
use super::stream::{End, Stream};
use super::transport::{Io, Server};

/// Windows for what the server sends: as large as Envoy may set them, so that it never waits for them.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// See [`Stream::advance`]: with this, room for one byte says that nothing is left unsent.
const SEND_BUFFER: usize = 1;

/// Envoy's waits before it connects again: of these, a random part each time, doubled from one to the next.
const BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// What all connections of a run have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) run: Surroundings,
    pub(crate) server: Server,
    /// The method's address.
    pub(crate) uri: Uri,
    /// Connections of the run.
    pub(crate) connections: usize,
    pub(crate) reconnect: bool,
    pub(crate) forget: bool,
    pub(crate) slow_pause: Duration,
    /// By connection.
    pub(crate) nudges: Vec<Nudge>,
}

/// Tells a connection to drop what it has, and come back.
#[derive(Debug, Default)]
pub(crate) struct Nudge {
    told: Notify,
    is_pending: AtomicBool,
}

impl Nudge {
    /// From now on it counts as one that is away, until those who are on it do.
    pub(crate) fn give(&self, meters: &Meters) {
        if !self.is_pending.swap(true, Relaxed) {
            meters.left();
            self.told.notify_one();
        }
    }

    fn is_heeded(&self, meters: &Meters) {
        self.is_pending.store(false, Relaxed);
        meters.back();
    }

    /// Nobody is there any more who could heed one.
    fn is_futile(&self, meters: &Meters) {
        if self.is_pending.swap(true, Relaxed) {
            meters.back();
        }
    }
}

/// How a connection begins for the first time.
#[derive(Debug)]
pub(crate) struct Start {
    /// When it was to: times are taken from then, so that a client which is late itself hides nothing.
    pub(crate) at: Instant,
    /// Held until its proxies have their first secrets.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// How a connection ended.
#[derive(Debug)]
enum Ended {
    /// We were told to leave and come back.
    Nudged,
    /// The server, or the way to it, did.
    Lost(End),
}

/// Runs a connection with these proxies, until the run ends or all of them are given up.
pub(crate) async fn run(shared: Arc<Shared>, index: usize, mut proxies: Vec<Proxy>, start: Start) {
    let Start { mut at, mut permit } = start;
    let (nudge, meters) = (&shared.nudges[index], &shared.run.meters);
    let (mut attempt, mut backoff) = (0, BACKOFF);
    loop {
        let forget = shared.forget && attempt > 0;
        proxies.iter_mut().for_each(|proxy| proxy.begin(at, forget, &shared.run));
        let ended = tokio::select! {
            biased;
            () = nudge.told.notified() => Ended::Nudged,
            lost = session(&shared, index, attempt, &mut proxies, &mut permit) => Ended::Lost(lost),
        };
        attempt += 1;
        let was_served = proxies.iter().any(|proxy| proxy.served);
        let (mut wait, was_nudged) = (None, matches!(ended, Ended::Nudged));
        match ended {
            Ended::Nudged => backoff = BACKOFF,
            Ended::Lost(why) if !shared.reconnect => {
                for proxy in proxies.iter_mut().filter(|proxy| !proxy.failed) {
                    proxy.fail(&shared.run, why.what.clone(), &why.detail);
                }
            }
            Ended::Lost(why) => {
                // That of a connection on which nobody is left is our own doing.
                if proxies.iter().any(|proxy| !proxy.failed) {
                    meters.interrupt(why.what, || format!("connection {index}: {}", why.detail));
                }
                backoff = if was_served { BACKOFF } else { (backoff * 2).min(LONGEST_BACKOFF) };
                wait = Some(backoff.mul_f64(fastrand::f64()));
            }
        }
        proxies.iter_mut().for_each(|proxy| proxy.disconnected(&shared.run));
        if was_nudged {
            nudge.is_heeded(meters);
        }
        if proxies.iter().all(|proxy| proxy.failed) {
            return nudge.is_futile(meters);
        }
        if let Some(wait) = wait {
            sleep(wait).await;
        }
        at = Instant::now();
    }
}

/// One life of a connection. Dropping it closes the connection, as the end of a process does.
async fn session(
    shared: &Shared,
    index: usize,
    attempt: usize,
    proxies: &mut [Proxy],
    permit: &mut Option<OwnedSemaphorePermit>,
) -> End {
    let began = Instant::now();
    let connected = shared.server.connect(index, attempt, shared.connections).await;
    let io = match connected {
        Ok(io) => io,
        Err(error) => return End::new(format!("cannot connect: {}", error.kind()), error),
    };
    shared.run.meters.current().time("handshake", began.elapsed());
    shared.run.meters.counters.connections.fetch_add(1, Relaxed);
    proxies.iter_mut().for_each(|proxy| proxy.connected(&shared.run));
    let handshake = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false)
        .handshake::<_, Bytes>(io)
        .await;
    let (requests, connection) = match handshake {
        Ok(made) => made,
        Err(error) => return lost(&error),
    };
    let mut session = Session { shared, requests, connection, streams: Vec::new(), unopened: unopened(proxies) };
    session.drive(proxies, permit).await
}

/// Streams to be opened, the last one first: proxy, channel.
fn unopened(proxies: &[Proxy]) -> Vec<(usize, usize)> {
    let all = proxies.iter().enumerate().filter(|(_, proxy)| !proxy.failed);
    let all = all.flat_map(|(number, proxy)| (0..proxy.channels.len()).map(move |channel| (number, channel)));
    let mut all: Vec<_> = all.collect();
    all.reverse();
    all
}

fn lost(error: &h2::Error) -> End {
    End::new("connection lost", error)
}

struct Session<'s> {
    shared: &'s Shared,
    requests: SendRequest<Bytes>,
    connection: Connection<Box<dyn Io>, Bytes>,
    streams: Vec<Stream>,
    unopened: Vec<(usize, usize)>,
}

impl Session<'_> {
    /// Until there is nothing left of it.
    async fn drive(&mut self, proxies: &mut [Proxy], permit: &mut Option<OwnedSemaphorePermit>) -> End {
        loop {
            let end = poll_fn(|cx| {
                loop {
                    match self.connection.poll_unpin(cx) {
                        Poll::Ready(Ok(())) => {
                            return Poll::Ready(Some(End::new("connection lost", "the server closed it")));
                        }
                        Poll::Ready(Err(error)) => return Poll::Ready(Some(lost(&error))),
                        Poll::Pending => {}
                    }
                    let advanced = match self.advance(cx, proxies) {
                        Ok(advanced) => advanced,
                        Err(end) => return Poll::Ready(Some(end)),
                    };
                    if permit.is_some() && proxies.iter().all(|proxy| proxy.served || proxy.failed) {
                        *permit = None;
                    }
                    if !advanced {
                        // Whoever reads seldom does so when it has what it came for.
                        let seldom = proxies.iter().all(|proxy| proxy.role == Role::Slow && proxy.served);
                        return if seldom { Poll::Ready(None) } else { Poll::Pending };
                    }
                }
            })
            .await;
            match end {
                Some(end) => return end,
                None if self.shared.slow_pause.is_zero() => pending().await,
                None => sleep(self.shared.slow_pause).await,
            }
        }
    }

    /// Opens streams and drives those that are open; says whether there was anything to do.
    fn advance(&mut self, cx: &mut std::task::Context<'_>, proxies: &mut [Proxy]) -> Result<bool, End> {
        let mut advanced = false;
        while let Some((number, channel)) = self.unopened.last().copied() {
            match self.requests.poll_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Err(lost(&error)),
                Poll::Ready(Ok(())) => {
                    self.unopened.pop();
                    let opened = self.open(number, channel, &mut proxies[number])?;
                    self.streams.push(opened);
                    advanced = true;
                }
            }
        }
        for stream in self.streams.iter_mut().filter(|stream| !stream.is_over()) {
            let proxy = &mut proxies[stream.proxy];
            match stream.advance(cx, proxy, &self.shared.run) {
                Ok(this) => advanced |= this,
                Err(end) if self.shared.reconnect && !end.is_violation => return Err(end),
                Err(end) => {
                    proxy.fail(&self.shared.run, end.what, &end.detail);
                    advanced = true;
                }
            }
        }
        if self.unopened.is_empty() && self.streams.iter().all(Stream::is_over) {
            return Err(End::new("connection lost", "none of its streams is left"));
        }
        Ok(advanced)
    }

    fn open(&mut self, number: usize, channel: usize, proxy: &mut Proxy) -> Result<Stream, End> {
        let mut request = Request::post(self.shared.uri.clone())
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(())
            .map_err(|error| End::new("bad request", error))?;
        request.headers_mut().extend(proxy.headers.clone());
        let (response, send) = self.requests.send_request(request, false).map_err(|error| lost(&error))?;
        let mut stream = Stream::new(number, channel, response, send);
        stream.send(proxy.channels[channel].subscription.first(&proxy.manner))?;
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::meters::{Concerns, Current};
    use crate::load::results::PhaseKind;

    #[test]
    fn who_is_told_to_leave_is_away_until_it_is_back_or_given_up() {
        let phase = Current::new(1, "churn".to_owned(), PhaseKind::Churn, Concerns::Nothing, 0);
        let meters = Meters::new(0, 1, 1, phase);
        let nudge = Nudge::default();
        nudge.give(&meters);
        nudge.give(&meters);
        assert_eq!(meters.away(), 1, "once, however often it is told");
        meters.left();
        nudge.is_heeded(&meters);
        assert_eq!(meters.away(), 1, "the proxy itself");
        nudge.give(&meters);
        nudge.is_futile(&meters);
        nudge.give(&meters);
        assert_eq!(meters.away(), 1, "nobody heeds it any more");
    }
}
