//! Responses as a call's body: HTTP/2 is handed what it sends by reference, and copies none of it.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

use super::response::Response;
use crate::serve::blocked::Exit;

/// The response stream of a call. HTTP/2 asks it for a piece when it has sent the one before, so at most one response is
/// under way, and `responses` is asked for the next one when that has gone out: what has changed twice in between is sent
/// once. It also means that nothing in here runs while a piece waits for the peer; for that there is `exit`.
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

/// There may be a private key in what is being sent.
impl<S: fmt::Debug> fmt::Debug for Outbound<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting: usize = self.current.iter().map(Bytes::len).sum();
        f.debug_struct("Outbound")
            .field("responses", &self.responses)
            .field("waiting", &waiting)
            .finish_non_exhaustive()
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
                    this.current = response.into_pieces();
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http_body::Body as _;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::serve::blocked::Blocked;
    use crate::serve::testing::svid;
    use crate::serve::version::Version;
    use crate::serve::wire::encoding::Encoder;

    #[tokio::test]
    async fn a_response_that_is_being_sent_does_not_show_its_key() {
        let svid = svid("web");
        let encoded = Encoder::default().certificate(&svid, Version::of_certificate(&svid));
        let response = Response::sotw("", "n".to_owned(), "default", encoded);
        let exit = std::sync::Arc::<Blocked>::default().exit(CancellationToken::new());
        let responses = Some(futures::stream::iter([Ok(response)]));
        let mut body = Outbound { responses, current: VecDeque::new(), exit };
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) else { panic!("it is ready") };
        body.current.push_front(frame.into_data().unwrap());
        let shown = format!("{body:?}");
        assert!(shown.contains("waiting") && shown.len() < 300 && !shown.contains("PRIVATE"), "{shown}");
    }
}
