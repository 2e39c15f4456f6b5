//! Responses as a call's body: the encodings of secrets are handed to HTTP/2 by reference, not copied.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use prost::Message;
use tonic::Status;
use tonic::body::Body;

use super::HEADER;
use crate::serve::blocked::Exit;

/// A response of more bytes than this is worth a look: so large is no bundle of a mesh that is well.
const LARGE: usize = 1 << 20;

/// One response message. Protobuf messages are merged by writing them one after the other, so it consists of what is
/// this response's own (the nonce) and of encodings that may be shared with other streams.
#[derive(Debug)]
pub(crate) struct Response {
    pieces: VecDeque<Bytes>,
}

impl Response {
    /// The response that has the fields of `own` and of each message in `encoded`. A scalar field that is in several
    /// of them is taken from the last.
    pub(crate) fn new(own: &impl Message, encoded: impl IntoIterator<Item = Bytes>) -> Self {
        let mut pieces = VecDeque::with_capacity(2);
        // HTTP/2 makes a frame of each piece, so the header and the few bytes of `own` share one.
        pieces.push_back(Bytes::new());
        pieces.extend(encoded);
        let length = own.encoded_len() + pieces.iter().map(Bytes::len).sum::<usize>();
        let mut head = BytesMut::with_capacity(HEADER + own.encoded_len());
        head.put_u8(0);
        // No secret comes near 4 GiB: bundles are bounded in certificates, and requests in names.
        head.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        head.put_slice(&own.encode_to_vec());
        pieces[0] = head.freeze();
        Self { pieces }
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum::<usize>().saturating_sub(HEADER)
    }

    /// Whether operators should know of it (item 9). Envoy takes much larger ones.
    pub(crate) fn is_large(&self) -> bool {
        self.len() > LARGE
    }
}

/// The response stream of a call. HTTP/2 asks it for a piece when it has sent the one before, so at most one response is
/// under way, and `responses` is asked for the next one when that has gone out: what has changed twice in between is sent
/// once. It also means that nothing in here runs while a piece waits for the peer; for that there is `exit`.
#[derive(Debug)]
pub(crate) struct Outbound<S> {
    /// `None` once the trailers have been sent.
    responses: Option<S>,
    current: VecDeque<Bytes>,
    exit: Exit,
}

impl<S> Outbound<S>
where
    S: Stream<Item = Result<Response, Status>> + Send + Unpin + 'static,
{
    /// The HTTP response that carries `responses`.
    pub(crate) fn response(responses: S, exit: Exit) -> http::Response<Body> {
        let mut response =
            http::Response::new(Body::new(Self { responses: Some(responses), current: VecDeque::new(), exit }));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }
}

impl<S> http_body::Body for Outbound<S>
where
    S: Stream<Item = Result<Response, Status>> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        this.exit.asked();
        loop {
            if let Some(piece) = this.current.pop_front() {
                this.exit.handed_over();
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let Some(responses) = &mut this.responses else { return Poll::Ready(None) };
            let status = match ready!(Pin::new(responses).poll_next(cx)) {
                Some(Ok(response)) => {
                    this.current = response.pieces;
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::ok(""),
            };
            // Everything that the stream held on to goes now, not when HTTP/2 forgets the call.
            this.responses = None;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))));
        }
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    if let Err(unprintable) = status.add_header(&mut trailers) {
        tracing::error!(error = %unprintable, "a status cannot be written");
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("13"));
    }
    trailers
}
