//! The little HTTP that the demo speaks.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt, Empty};
use hyper::HeaderMap;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Longer than Envoy's own timeout for a route (15 s): it is Envoy that should say what went wrong.
const TIMEOUT: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Answer {
    /// A header's value, or a dash.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-")
    }
}

/// GET over a new plaintext connection.
pub(super) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    get_over(TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?, path).await
}

/// GET over a connection that is there.
pub(super) async fn get_over<S>(stream: S, path: &str) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = hyper::Request::get(path).header("host", "demo").body(Empty::<Bytes>::new())?;
        let answer = async move {
            let answer = sender.send_request(request).await?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body: String::from_utf8_lossy(&body).into_owned(),
            })
        };
        // The connection ends once its sender has gone, or when it breaks, be it with the last of the answer; its own error says more
        // than the answer's does then.
        let (answer, connection) = tokio::join!(answer, connection);
        match (answer, connection) {
            (Err(_), Err(broken)) => Err(broken.into()),
            (answer, _) => answer,
        }
    };
    tokio::time::timeout(TIMEOUT, exchange).await.context("no answer in time")?
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What is made of a server that answers with these bytes and hangs up.
    async fn answered(bytes: &str) -> anyhow::Result<Answer> {
        let (client, mut server) = tokio::io::duplex(4096);
        let serve = async move {
            let mut request = [0; 1024];
            assert!(server.read(&mut request).await.unwrap() > 0);
            server.write_all(bytes.as_bytes()).await.unwrap();
        };
        tokio::join!(get_over(client, "/"), serve).0
    }

    #[tokio::test]
    async fn an_answer_counts_though_the_connection_ends_with_it() {
        for bytes in
            ["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"]
        {
            let answer = answered(bytes).await.unwrap();
            assert_eq!((answer.status, answer.body.as_str()), (200, "hello"), "{bytes}");
        }
        let empty = answered("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        assert_eq!((empty.status, empty.body.as_str()), (503, ""));
        assert!(
            answered("").await.is_err() && answered("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello").await.is_err()
        );
    }
}
