//! HTTP/2 frames written by hand, for tests of peers that do what no library does.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::serve::client_testing::soon;
use crate::serve::testing::TestServer;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// RFC 9113 §7.
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame as it came.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The error code of a `RST_STREAM` or a `GOAWAY`, or by how much a window is to grow.
    pub(super) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// Speaks HTTP/2 as badly as it is told to.
pub(super) struct Attacker<Io = TcpStream> {
    pub(super) io: Io,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Attacker<Io> {
    /// Past the preface, with these settings.
    pub(super) async fn over(io: Io, settings: &[(u16, u32)]) -> Self {
        let mut attacker = Self { io };
        attacker.io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let settings: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        attacker.send(&frame(SETTINGS, 0, 0, &settings)).await.unwrap();
        attacker
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.io.write_all(bytes).await
    }

    /// Opens a `StreamSecrets` as `token`.
    pub(super) async fn open(&mut self, stream: u32, token: &str) -> std::io::Result<()> {
        self.send(&frame(HEADERS, END_HEADERS, stream, &headers(token))).await
    }

    /// The next frame; `None` when the connection has ended.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        read_frame(&mut self.io).await
    }

    /// The first frame that is `wanted`.
    pub(super) async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        soon(async {
            loop {
                let frame = self.next().await.expect("the connection has ended");
                if wanted(&frame) {
                    return frame;
                }
            }
        })
        .await
    }
}

impl Attacker {
    /// Past the preface, with these settings.
    pub(super) async fn connect(server: &TestServer, settings: &[(u16, u32)]) -> Self {
        Self::over(TcpStream::connect(&server.addresses[0]).await.unwrap(), settings).await
    }

    /// Sends `bytes` again and again until the server has had enough or `times` is reached; then reads to the end or
    /// to the answer of a last `PING`. Gives the code of the `GOAWAY`, if there was one.
    pub(super) async fn flood(mut self, bytes: &[u8], times: usize) -> Option<u32> {
        let (mut reader, mut writer) = self.io.split();
        let write = async {
            for _ in 0..times {
                if writer.write_all(bytes).await.is_err() {
                    return;
                }
            }
            let _ = writer.write_all(&frame(PING, 0, 0, b"the last")).await;
        };
        let read = async {
            loop {
                let frame = read_frame(&mut reader).await?;
                match frame.kind {
                    GOAWAY => return Some(frame.code()),
                    PING if frame.flags == ACK && frame.payload == b"the last" => return None,
                    _ => {}
                }
            }
        };
        // What is read first is the answer, even if there is more to write.
        let both = async {
            tokio::pin!(write);
            tokio::pin!(read);
            tokio::select! {
                code = &mut read => code,
                () = &mut write => read.await,
            }
        };
        tokio::time::timeout(Duration::from_secs(30), both).await.expect("the server answers or hangs up")
    }
}

/// The next frame; `None` when the connection has ended.
pub(super) async fn read_frame(io: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
    let mut head = [0; 9];
    io.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; length];
    io.read_exact(&mut payload).await.ok()?;
    let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
    Some(Frame { kind: head[3], flags: head[4], stream, payload })
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// HPACK without its tables: each field as a literal that is not to be indexed.
pub(super) fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        assert!(text.len() < 127, "longer texts have longer lengths");
        [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    };
    [vec![0], text(name), text(value)].concat()
}

/// Of a `StreamSecrets` as `token`.
pub(super) fn headers(token: &str) -> Vec<u8> {
    [headers_to("sds"), field("authorization", &format!("Bearer {token}"))].concat()
}

/// Of a `StreamSecrets` that nobody vouches for, to `authority`.
pub(super) fn headers_to(authority: &str) -> Vec<u8> {
    let path = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
    [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":path", path),
        field(":authority", authority),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
    ]
    .concat()
}
