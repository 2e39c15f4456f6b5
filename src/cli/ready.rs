//! `envoy-sds ready`: whether a server is ready, as an exit code; the health check of an image without a shell.

use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::admin_api::AdminFlags;
use super::{Failure, output, runtime};
use crate::config::HostPort;

/// How long the server may take to answer; less than what health checks usually give us.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;

/// Ask a running server whether it is ready (/readyz); for health checks
///
/// The exit code is 0 if it is, and 1 if it is not or does not answer; what it waits for is on stderr then.
#[derive(Debug, Args)]
#[command(after_help = "Example: envoy-sds ready --admin 127.0.0.1:5681")]
pub(super) struct Ready {
    #[command(flatten)]
    admin: AdminFlags,
}

impl Ready {
    pub(super) fn run(self) -> Result<(), Failure> {
        runtime()?.block_on(ask(self.admin.address()))?;
        output::line("ready")
    }
}

async fn ask(address: &HostPort) -> Result<(), Failure> {
    let answer = tokio::time::timeout(TIMEOUT, readyz(address)).await;
    let answer = answer.unwrap_or_else(|_elapsed| Err(anyhow!("no answer within {} s", TIMEOUT.as_secs())));
    match answer.with_context(|| format!("asking {address} whether it is ready (--admin)"))? {
        (200, _) => Ok(()),
        (status, body) => Err(anyhow!("not ready: {address} answers {status}: {}", body.trim_end()).into()),
    }
}

/// Status and body of what the server says.
async fn readyz(address: &HostPort) -> anyhow::Result<(u16, String)> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = hyper::Request::get("/readyz").header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let answer = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| anyhow!(error))?.to_bytes();
        anyhow::Ok((head.status.as_u16(), String::from_utf8_lossy(&body).into_owned()))
    };
    // The connection ends once its sender has gone, or when it breaks; its own error says more than the answer's does then.
    let (answer, connection) = tokio::join!(answer, connection);
    match (answer, connection) {
        (Err(_), Err(broken)) => Err(broken.into()),
        (answer, _) => answer,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What is made of a server that answers every connection with these bytes.
    async fn asked(bytes: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = HostPort { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(bytes.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let (asked, ()) = tokio::join!(ask(&address), serve);
        asked.map_err(|failure| match failure {
            Failure::Runtime(error) => format!("{error:#}").replace(&address.to_string(), "HERE"),
            other => panic!("{other:?}"),
        })
    }

    #[tokio::test]
    async fn only_a_200_is_ready() {
        assert_eq!(asked("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await, Ok(()));
        let why = asked("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nmesh\n").await;
        assert_eq!(why, Err("not ready: HERE answers 503: mesh".to_owned()));
        assert!(asked("").await.unwrap_err().starts_with("asking HERE whether it is ready (--admin): "));
    }
}
