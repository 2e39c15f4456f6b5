//! A stream on HTTP/2: messages out of its bytes, answers into them, and how it ended.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use futures::FutureExt;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use tokio::time::Instant;

use super::messages::HEADER;
use super::plan::Role;
use super::proxy::{Proxy, Surroundings};

/// The largest message that is taken; a bundle of a thousand CAs is far below it.
const LARGEST: usize = 16 << 20;

/// One stream that is open, or was.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Which proxy of the connection's, and which of its channels.
    pub(crate) proxy: usize,
    pub(crate) channel: usize,
    state: State,
    send: SendStream<Bytes>,
    /// The beginning of a message.
    partial: BytesMut,
    /// When the responses came whose answers are not out yet.
    unsent: VecDeque<Instant>,
    has_asked: bool,
}

#[derive(Debug)]
enum State {
    Opening(ResponseFuture),
    Open(RecvStream),
    Over,
}

/// Why a stream is over: in general, and in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) what: String,
    pub(crate) detail: String,
    /// Whether it is wrong even if the client comes back: the server has said what none should say, or can never serve all of it.
    pub(crate) is_final: bool,
}

impl End {
    /// One that may happen to a good server, too.
    pub(crate) fn new(what: impl Into<String>, detail: impl ToString) -> Self {
        Self { what: what.into(), detail: detail.to_string(), is_final: false }
    }

    /// One that coming back does not mend.
    pub(crate) fn for_good(what: impl Into<String>, detail: impl ToString) -> Self {
        Self { is_final: true, ..Self::new(what, detail) }
    }
}

impl Stream {
    pub(crate) fn new(proxy: usize, channel: usize, response: ResponseFuture, send: SendStream<Bytes>) -> Self {
        let state = State::Opening(response);
        Self { proxy, channel, state, send, partial: BytesMut::new(), unsent: VecDeque::new(), has_asked: false }
    }

    /// Whether the server has let it in, and it is not over.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Queues the first request.
    ///
    /// # Errors
    /// If the stream is over.
    pub(crate) fn ask(&mut self, pieces: [Bytes; 2]) -> Result<(), End> {
        self.send(pieces)?;
        self.send.reserve_capacity(1);
        Ok(())
    }

    /// Whether HTTP/2 has passed on all of the first request, as [`Self::note_sent`] has it.
    pub(crate) fn has_asked(&mut self) -> bool {
        self.has_asked |= self.send.capacity() > 0;
        self.has_asked
    }

    /// Queues a request.
    ///
    /// # Errors
    /// If the stream is over.
    fn send(&mut self, pieces: [Bytes; 2]) -> Result<(), End> {
        for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
            self.send.send_data(piece, false).map_err(|error| End::new("stream ended", error))?;
        }
        Ok(())
    }

    /// Does what can be done without waiting, and says whether that was anything.
    ///
    /// # Errors
    /// Why the stream is over; not called again then.
    pub(crate) fn advance(&mut self, cx: &mut Context<'_>, proxy: &mut Proxy, run: &Surroundings) -> Result<bool, End> {
        let mut advanced = self.note_sent(run);
        loop {
            match self.step(cx, proxy, run) {
                Poll::Pending => return Ok(advanced),
                Poll::Ready(Ok(())) => advanced = true,
                Poll::Ready(Err(why)) => {
                    self.state = State::Over;
                    return Err(why);
                }
            }
        }
    }

    /// An answer is out when HTTP/2 has passed on all of it, which the server's windows may delay: there is room for another
    /// byte only then, as connections are made with a send buffer of one.
    fn note_sent(&mut self, run: &Surroundings) -> bool {
        if self.unsent.is_empty() || self.send.capacity() == 0 {
            return false;
        }
        let current = run.meters.current();
        self.unsent.drain(..).for_each(|received| current.time("ack", received.elapsed()));
        true
    }

    fn step(&mut self, cx: &mut Context<'_>, proxy: &mut Proxy, run: &Surroundings) -> Poll<Result<(), End>> {
        match &mut self.state {
            State::Over => Poll::Pending,
            State::Opening(response) => {
                let response =
                    std::task::ready!(response.poll_unpin(cx)).map_err(|error| End::new("stream ended", error))?;
                if response.status() != 200 {
                    return Poll::Ready(Err(End::new(format!("HTTP {}", response.status()), "instead of a stream")));
                }
                if let Some(status) = status(response.headers()) {
                    return Poll::Ready(Err(status));
                }
                self.state = State::Open(response.into_body());
                proxy.let_in(self.channel, run);
                Poll::Ready(Ok(()))
            }
            State::Open(body) => match std::task::ready!(body.poll_data(cx)) {
                Some(Ok(data)) => {
                    let _ = body.flow_control().release_capacity(data.len());
                    Poll::Ready(self.take(data, proxy, run))
                }
                Some(Err(error)) => Poll::Ready(Err(End::new("stream ended", error))),
                None => {
                    let trailers = std::task::ready!(body.poll_trailers(cx)).ok().flatten();
                    let status = trailers.as_ref().and_then(status);
                    Poll::Ready(Err(status.unwrap_or_else(|| End::new("stream ended", "without a status"))))
                }
            },
        }
    }

    fn take(&mut self, data: Bytes, proxy: &mut Proxy, run: &Surroundings) -> Result<(), End> {
        self.partial.extend_from_slice(&data);
        while let Some(message) = next_message(&mut self.partial)? {
            let at = Instant::now();
            let subscription = &mut proxy.channels[self.channel].subscription;
            let received = subscription.receive(message, &proxy.manner);
            let received = received.map_err(|violation| End::for_good(violation.what, violation.detail))?;
            self.send(received.answer)?;
            self.send.reserve_capacity(1);
            self.unsent.push_back(at);
            let counters = &run.meters.counters;
            let counter = if proxy.role == Role::Refuses { &counters.nacks } else { &counters.acks };
            counter.fetch_add(1, Relaxed);
            proxy.received(self.channel, received.changes, at, run);
        }
        Ok(())
    }
}

/// The next whole message; the buffer is given up with the last one.
fn next_message(partial: &mut BytesMut) -> Result<Option<Bytes>, End> {
    let Some(header) = partial.get(..HEADER) else { return Ok(None) };
    if header[0] != 0 {
        return Err(End::for_good("a compressed message", "none was asked for"));
    }
    let length = (&header[1..]).get_u32() as usize;
    if length > LARGEST {
        return Err(End::for_good("a message that is too large", format!("{length} bytes")));
    }
    if partial.len() < HEADER + length {
        return Ok(None);
    }
    partial.advance(HEADER);
    let message = partial.split_to(length).freeze();
    if partial.is_empty() {
        *partial = BytesMut::new();
    }
    Ok(Some(message))
}

/// The status of gRPC, if it is there.
fn status(headers: &HeaderMap) -> Option<End> {
    let code = headers.get("grpc-status")?.to_str().unwrap_or("?");
    let message = headers.get("grpc-message").map(http::HeaderValue::as_bytes).unwrap_or_default();
    let message = percent_encoding::percent_decode(message).decode_utf8_lossy();
    Some(End::new(format!("stream ended: {}", code_name(code)), &message))
}

/// `google.rpc.Code`.
fn code_name(code: &str) -> &str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    code.parse::<usize>().ok().and_then(|code| NAMES.get(code).copied()).unwrap_or(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_put_together_from_any_pieces() {
        let wire = b"\0\0\0\0\x03abc\0\0\0\0\0\0\0\0\0\x01d";
        for size in 1..=wire.len() {
            let (mut partial, mut messages) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(size) {
                partial.extend_from_slice(piece);
                while let Some(message) = next_message(&mut partial).unwrap() {
                    messages.push(message);
                }
            }
            assert_eq!(messages, [&b"abc"[..], b"", b"d"], "in pieces of {size}");
            assert_eq!(partial.capacity(), 0, "nothing is kept");
        }
        let refused = |wire: &[u8]| next_message(&mut BytesMut::from(wire)).unwrap_err();
        for (wire, expected) in
            [(b"\x01\0\0\0\0", "a compressed message"), (b"\0\xff\0\0\0", "a message that is too large")]
        {
            let end = refused(wire);
            assert!(end.what == expected && end.is_final, "{end:?}");
        }
    }

    #[test]
    fn the_end_of_a_stream_is_named() {
        let mut headers = HeaderMap::new();
        assert_eq!(status(&headers), None);
        headers.insert("grpc-status", http::HeaderValue::from_static("14"));
        headers.insert("grpc-message", http::HeaderValue::from_static("later"));
        assert_eq!(status(&headers), Some(End::new("stream ended: UNAVAILABLE", "later")));
        assert_eq!((code_name("99"), code_name("x")), ("99", "x"));
    }
}
