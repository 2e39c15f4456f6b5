//! Requests from a call's body, without a buffer between messages.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use http_body::Body as _;
use prost::Message;
use tonic::Status;
use tonic::body::Body;

use super::HEADER;

/// The largest request: 34 times what a real Envoy sends, and twice what has to be accepted (xds-conformance item 7).
const LIMIT: usize = 2 << 20;

/// Room is made at once for no more than this, whatever length a peer announces.
const ROOM: usize = 64 << 10;

/// The requests of one call.
pub(crate) struct Inbound<T> {
    body: Body,
    /// What has arrived of the message, copied into one piece: decoding from HTTP/2's own pieces took half as much
    /// time again (61 KB nodes, measured) and keeps HTTP/2 from using its buffers again.
    received: BytesMut,
    /// Length of the message being received, once its header is known.
    expected: Option<usize>,
    message: PhantomData<fn() -> T>,
}

impl<T: Message + Default> Inbound<T> {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, received: BytesMut::new(), expected: None, message: PhantomData }
    }

    /// The next request; `None` when the client has ended the call, in whichever way (item 101).
    pub(crate) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, Status>>> {
        loop {
            match self.take_message() {
                Ok(None) => {}
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => {
                    tracing::debug!(%error, "the client has reset the stream");
                    return Poll::Ready(None);
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.received.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// Whether there is a part of a request that is not whole yet.
    pub(crate) fn is_partial(&self) -> bool {
        self.expected.is_some() || !self.received.is_empty()
    }

    /// Bytes that are kept for requests.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.received.capacity()
    }

    fn take_message(&mut self) -> Result<Option<T>, Status> {
        let length = match self.expected {
            Some(length) => length,
            None if self.received.remaining() < HEADER => return Ok(None),
            None => {
                if self.received.get_u8() != 0 {
                    return Err(Status::unimplemented("compressed requests are not supported"));
                }
                let length = self.received.get_u32() as usize;
                if length > LIMIT {
                    return Err(Status::resource_exhausted(format!("the request is larger than {LIMIT} bytes")));
                }
                self.received.reserve(length.min(ROOM));
                *self.expected.insert(length)
            }
        };
        if self.received.remaining() < length {
            return Ok(None);
        }
        self.expected = None;
        let message = T::decode(&self.received[..length]);
        self.received.advance(length);
        // Give the memory back, and not only the room in it: what is left is at most the rest of the last frame.
        self.received = if self.received.is_empty() { BytesMut::new() } else { BytesMut::from(&self.received[..]) };
        message.map(Some).map_err(|error| {
            tracing::debug!(%error, "a request does not decode");
            Status::invalid_argument("the request does not decode")
        })
    }
}

impl<T> fmt::Debug for Inbound<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound").field("received", &self.received.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::DiscoveryRequest;
    use super::*;

    #[derive(Debug)]
    struct Frames(VecDeque<Bytes>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|data| Ok(http_body::Frame::data(data))))
        }
    }

    fn read(bytes: &[u8], piece: usize) -> Vec<Result<DiscoveryRequest, Status>> {
        let pieces = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
        let mut inbound = Inbound::new(Body::new(Frames(pieces)));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut read = Vec::new();
        // The frames are all there, so nothing is ever pending; an error is final.
        while let Poll::Ready(Some(message)) = inbound.poll_message(&mut cx) {
            let failed = message.is_err();
            read.push(message);
            if failed {
                break;
            }
        }
        read
    }

    fn framed(length: usize) -> Vec<u8> {
        let message = DiscoveryRequest { resource_names: vec!["x".repeat(length)], ..Default::default() };
        let mut bytes = vec![0];
        bytes.extend((message.encoded_len() as u32).to_be_bytes());
        message.encode(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn item_7_the_largest_request() {
        for (length, accepted) in [(1 << 20, true), (LIMIT - 16, true), (LIMIT, false)] {
            let read = read(&framed(length), 16 << 10);
            assert_eq!(read.len(), 1);
            assert_eq!(read[0].is_ok(), accepted, "{length}");
        }
        assert_eq!(read(&[0, 0x7f, 0, 0, 0], 5).pop().unwrap().unwrap_err().code(), tonic::Code::ResourceExhausted);
    }

    #[test]
    fn memory_comes_back_though_a_bit_of_the_next_request_is_there() {
        let mut bytes = framed(1 << 20);
        bytes.extend([0, 0, 0]);
        let pieces = bytes.chunks(16 << 10).map(Bytes::copy_from_slice).collect();
        let mut inbound = Inbound::<DiscoveryRequest>::new(Body::new(Frames(pieces)));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(matches!(inbound.poll_message(&mut cx), Poll::Ready(Some(Ok(_)))));
        assert!(inbound.is_partial());
        assert!(inbound.capacity() < 1 << 10, "{}", inbound.capacity());
    }

    proptest! {
        #[test]
        fn messages_survive_any_way_of_cutting_them(
            names in prop::collection::vec("[a-z]{0,300}", 0..20),
            count in 1usize..4,
            piece in 1usize..2000,
        ) {
            let message = DiscoveryRequest { resource_names: names, ..Default::default() };
            let mut bytes = Vec::new();
            for _ in 0..count {
                bytes.push(0);
                bytes.extend((message.encoded_len() as u32).to_be_bytes());
                message.encode(&mut bytes).unwrap();
            }
            let read = read(&bytes, piece);
            prop_assert_eq!(read.len(), count);
            for got in read {
                prop_assert_eq!(got.unwrap(), message.clone());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), piece in 1usize..50) {
            read(&bytes, piece);
        }
    }
}
