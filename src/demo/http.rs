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
        let answer = async {
            let answer = sender.send_request(request).await?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body: String::from_utf8_lossy(&body).into_owned(),
            })
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            // It ends before there is an answer only when it breaks.
            ended = connection => {
                ended?;
                anyhow::bail!("the connection ended without an answer")
            }
        }
    };
    tokio::time::timeout(TIMEOUT, exchange).await.context("no answer in time")?
}
