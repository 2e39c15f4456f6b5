//! One connection, from its first attempt to the end of the run: a single task, which drives HTTP/2 and every stream on it.

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use h2::Reason;
use h2::client::{Builder, Connection, SendRequest};
use http::{Request, Uri, header};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, sleep_until};

use super::backoff::Backoff;
use super::nudge::Nudge;
use super::plan::Role;
use super::proxy::{Proxy, Surroundings};
use super::stream::{End, Stream};
use super::transport::{Io, Server, Unconnected};

/// Windows for what the server sends: as large as Envoy may set them, so that it never waits for them.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// See [`Stream::advance`]: with this, room for one byte says that nothing is left unsent.
const SEND_BUFFER: usize = 1;

/// Streams on a connection whose first request is not out yet. HTTP/2 opens all that it may before it sends what they say, and
/// servers bound how many there are of which they know nothing: no Envoy has more than a few.
const UNASKED: usize = 64;

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
    let (mut attempt, mut backoff) = (0, Backoff::default());
    loop {
        let forget = shared.forget && attempt > 0;
        proxies.iter_mut().for_each(|proxy| proxy.begin(at, forget, &shared.run));
        let ended = tokio::select! {
            biased;
            () = nudge.given() => Ended::Nudged,
            lost = session(&shared, index, attempt, &mut proxies, &mut permit, &mut backoff) => Ended::Lost(lost),
        };
        attempt += 1;
        nudge.serves(false);
        let (mut wait, was_nudged) = (None, matches!(ended, Ended::Nudged));
        match ended {
            Ended::Nudged => backoff.reset(),
            Ended::Lost(why) if !shared.reconnect || why.is_final => {
                for proxy in proxies.iter_mut().filter(|proxy| !proxy.failed) {
                    proxy.fail(&shared.run, why.what.clone(), &why.detail);
                }
            }
            Ended::Lost(why) => {
                // That of a connection on which nobody is left is our own doing.
                if proxies.iter().any(|proxy| !proxy.failed) {
                    meters.interrupt(why.what, || format!("connection {index}: {}", why.detail));
                }
                wait = Some(backoff.wait());
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

/// One life of a connection. Dropping it closes the connection, as the end of a process does. When anybody is served on it,
/// `backoff` begins anew.
async fn session(
    shared: &Shared,
    index: usize,
    attempt: usize,
    proxies: &mut [Proxy],
    permit: &mut Option<OwnedSemaphorePermit>,
    backoff: &mut Backoff,
) -> End {
    let began = Instant::now();
    let connected = shared.server.connect(index, attempt, shared.connections).await;
    let io = match connected {
        Ok(io) => io,
        Err(Unconnected { what, detail }) => return End::new(what, detail),
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
    let (streams, unopened, waiting) = (Vec::new(), unopened(proxies), FuturesUnordered::new());
    let needed = unopened.len();
    let mut session = Session { shared, index, requests, connection, needed, streams, unopened, waiting };
    session.drive(proxies, permit, backoff).await
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

fn no_http(error: &h2::Error) -> End {
    End::new("connection lost", format!("{error}; does the server want TLS (--tls-ca)?"))
}

/// Proxies need more streams at a time than the server allows on one connection (RFC 9113, section 5.1.2).
fn too_many(needed: usize, proxies: usize, allowed: usize) -> End {
    let advice = match allowed * proxies / needed {
        0 => "let each proxy have one stream for all its names (--one-stream)".to_owned(),
        fit => format!("let no more than {fit} share a connection (--connections)"),
    };
    End::for_good(
        "more streams on a connection than the server allows",
        format!("{needed} for {proxies} proxies, and {allowed} are allowed at a time; {advice}"),
    )
}

struct Session<'s> {
    shared: &'s Shared,
    index: usize,
    requests: SendRequest<Bytes>,
    connection: Connection<Box<dyn Io>, Bytes>,
    /// Streams at a time.
    needed: usize,
    streams: Vec<Stream>,
    unopened: Vec<(usize, usize)>,
    /// Those that have ended and are opened again, each in its own time.
    waiting: FuturesUnordered<BoxFuture<'static, (usize, usize)>>,
}

impl Session<'_> {
    /// Until there is nothing left of it.
    async fn drive(
        &mut self,
        proxies: &mut [Proxy],
        permit: &mut Option<OwnedSemaphorePermit>,
        backoff: &mut Backoff,
    ) -> End {
        loop {
            let end = poll_fn(|cx| {
                loop {
                    match self.connection.poll_unpin(cx) {
                        Poll::Ready(Ok(())) => {
                            return Poll::Ready(Some(End::new("connection lost", "the server closed it")));
                        }
                        Poll::Ready(Err(error)) if self.is_answered_otherwise(&error) => {
                            return Poll::Ready(Some(no_http(&error)));
                        }
                        Poll::Ready(Err(error)) => return Poll::Ready(Some(lost(&error))),
                        Poll::Pending => {}
                    }
                    let advanced = match self.advance(cx, proxies) {
                        Ok(advanced) => advanced,
                        Err(end) => return Poll::Ready(Some(end)),
                    };
                    if advanced {
                        if proxies.iter().any(|proxy| proxy.served) {
                            backoff.reset();
                        }
                        let all = proxies.iter().all(|proxy| proxy.served || proxy.failed);
                        self.shared.nudges[self.index].serves(all);
                        if all {
                            *permit = None;
                        }
                    } else {
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

    /// Whether what came first on a connection without TLS is no frame of HTTP/2, as the alert of a server that wants TLS.
    fn is_answered_otherwise(&self, error: &h2::Error) -> bool {
        let is_no_frame = matches!(error.reason(), Some(Reason::FRAME_SIZE_ERROR | Reason::PROTOCOL_ERROR));
        is_no_frame
            && error.is_library()
            && !self.shared.server.is_secure()
            && !self.streams.iter().any(Stream::is_open)
    }

    /// Opens streams and drives those that are open; says whether there was anything to do.
    fn advance(&mut self, cx: &mut std::task::Context<'_>, proxies: &mut [Proxy]) -> Result<bool, End> {
        // Any number, until the server's SETTINGS are there, which may come as late as its first answer. Streams beyond it would
        // wait in HTTP/2 for ever, as none of the others ends.
        let allowed = self.requests.current_max_send_streams();
        if allowed < self.needed {
            return Err(too_many(self.needed, proxies.iter().filter(|proxy| !proxy.failed).count(), allowed));
        }
        let (mut advanced, mut has_ended) = (false, false);
        while let Poll::Ready(Some(next)) = self.waiting.poll_next_unpin(cx) {
            self.unopened.push(next);
        }
        let mut unasked = match self.unopened.as_slice() {
            [] => 0,
            _ => self.streams.iter_mut().map(Stream::has_asked).filter(|has_asked| !has_asked).count(),
        };
        while unasked < UNASKED
            && let Some((number, channel)) = self.unopened.last().copied()
        {
            match self.requests.poll_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Err(lost(&error)),
                Poll::Ready(Ok(())) => {
                    self.unopened.pop();
                    let opened = self.open(number, channel, &mut proxies[number])?;
                    self.streams.push(opened);
                    unasked += 1;
                    advanced = true;
                }
            }
        }
        for stream in &mut self.streams {
            let proxy = &mut proxies[stream.proxy];
            match stream.advance(cx, proxy, &self.shared.run) {
                Ok(this) => advanced |= this,
                Err(end) => {
                    has_ended = true;
                    if !self.shared.reconnect || end.is_final {
                        proxy.fail(&self.shared.run, end.what, &end.detail);
                    } else if !proxy.failed {
                        self.waiting.push(again(self.shared, stream, proxy, end));
                    }
                }
            }
        }
        if has_ended {
            self.streams.retain(|stream| !stream.is_over());
        }
        if self.unopened.is_empty() && self.waiting.is_empty() && self.streams.is_empty() {
            return Err(End::new("connection lost", "none of its streams is left"));
        }
        Ok(advanced || has_ended)
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
        stream.ask(proxy.channels[channel].subscription.first(&proxy.manner))?;
        Ok(stream)
    }
}

/// A stream has ended, and its connection has not: as with Envoy, it alone is opened again, after a wait of its own. What this gives
/// says when.
fn again(shared: &Shared, stream: &Stream, proxy: &mut Proxy, end: End) -> BoxFuture<'static, (usize, usize)> {
    let number = proxy.number;
    shared.run.meters.interrupt(end.what, || format!("proxy {number}: {}", end.detail));
    let at = Instant::now() + proxy.channels[stream.channel].backoff.wait();
    proxy.reopens(stream.channel, at, &shared.run);
    let which = (stream.proxy, stream.channel);
    sleep_until(at).map(move |()| which).boxed()
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
