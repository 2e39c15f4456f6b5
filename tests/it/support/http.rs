//! One HTTP request over one connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use axum::http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Answer {
    /// A header's value; empty without it.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// GETs `path` from a plaintext server.
pub async fn get(address: SocketAddr, path: &str) -> Result<Answer, String> {
    get_from(address, "localhost", path).await
}

/// The same by HTTP/2, which both know of already, as gRPC's clients do without TLS.
pub async fn get_by_http2(address: SocketAddr, path: &str) -> Result<Answer, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("connect {address}: {error}"))?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(text)?;
    let request = Request::get(format!("http://localhost{path}")).body(Empty::<Bytes>::new());
    let request = request.expect("a request with a valid path");
    // With its sender gone, the connection ends.
    let exchange = async move { answer(sender.send_request(request).await?).await };
    let (exchanged, connected) = tokio::join!(exchange, connection);
    exchanged.map_err(|error| text(connected.err().unwrap_or(error)))
}

/// GETs `path` from a plaintext server and reads the body as JSON; any status but 200 is an error.
pub async fn get_json(address: SocketAddr, path: &str) -> Result<serde_json::Value, String> {
    let answer = get(address, path).await?;
    if answer.status != 200 {
        return Err(format!("{path}: {} {}", answer.status, answer.body));
    }
    serde_json::from_str(&answer.body).map_err(|error| format!("{path}: {error}"))
}

/// GETs `path` from a plaintext server that is taken for `host`.
pub async fn get_from(address: SocketAddr, host: &str, path: &str) -> Result<Answer, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("connect {address}: {error}"))?;
    get_from_over(stream, host, path).await
}

/// GETs `path` over a connection that is made already, and closes it.
pub async fn get_over<S>(stream: S, path: &str) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    get_from_over(stream, "localhost", path).await
}

async fn get_from_over<S>(stream: S, host: &str, path: &str) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let request = Request::get(path)
        .header("host", host)
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .expect("a request with a valid path");
    let exchange = async { answer(sender.send_request(request).await?).await };
    // The connection's own error says more than "canceled", which is what the exchange sees of it.
    let (exchanged, connected) = tokio::join!(exchange, connection);
    exchanged.map_err(|error| text(connected.err().unwrap_or(error)))
}

async fn answer(response: Response<Incoming>) -> Result<Answer, hyper::Error> {
    let status = response.status().as_u16();
    let text = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let headers = response.headers().iter().map(text).collect();
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

fn text(error: hyper::Error) -> String {
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
