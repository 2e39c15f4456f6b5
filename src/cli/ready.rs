//! `envoy-sds ready`: whether a server is ready, as an exit code; the health check of an image without a shell.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::StatusCode;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::admin_api::AdminFlags;
use super::{Failure, output, runtime};
use crate::config::HostPort;

/// How long the server may take to answer; less than what health checks usually give us.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How much is read of an answer that says why not, in bytes; the rest is left out.
const MAX_REASONS: usize = 64 * 1024;

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
        None => Ok(()),
        Some((status, why)) => {
            Err(anyhow!("not ready: {address} answers {}: {}", status.as_u16(), why.trim_end()).into())
        }
    }
}

/// What the server says if it is not ready.
async fn readyz(address: &HostPort) -> anyhow::Result<Option<(StatusCode, String)>> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = hyper::Request::get("/readyz").header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let mut answer = pin!(async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        // What is in the body of a 200 is for others, however much it is.
        anyhow::Ok(if head.status == StatusCode::OK { None } else { Some((head.status, beginning(body).await)) })
    });
    let mut connection = pin!(connection);
    let (answer, connection) = tokio::select! {
        biased;
        answered = &mut answer => match answered {
            Ok(answer) => return Ok(answer),
            // Its sender is gone, so the connection ends.
            Err(error) => (Err(error), connection.await),
        },
        ended = &mut connection => (answer.await, ended),
    };
    // The connection's own error says more than the answer's does.
    match (answer, connection) {
        (Err(_), Err(broken)) => Err(broken.into()),
        (answer, _) => answer,
    }
}

/// What has come of a body before it was enough, or broke off.
async fn beginning(mut body: Incoming) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_REASONS
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes.extend(frame.data_ref().into_iter().flatten());
    }
    bytes.truncate(MAX_REASONS);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What is made of a server that answers every connection with these bytes.
    async fn asked(bytes: &str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = HostPort { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            // Who has heard enough may be gone before the end.
            let _ = stream.write_all(bytes.as_bytes()).await;
            let _ = stream.shutdown().await;
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

    /// A server with very much to warn of is ready all the same, and one that is not can still be understood.
    #[tokio::test]
    async fn a_long_answer_is_an_answer() {
        let answer =
            |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 3000000\r\n\r\n{}", "é".repeat(1_500_000));
        assert_eq!(asked(&answer("200 OK")).await, Ok(()));
        let why = asked(&answer("503 Service Unavailable")).await.unwrap_err();
        assert!(why.starts_with("not ready: HERE answers 503: éé") && why.len() < MAX_REASONS + 100, "{}", why.len());
        // Neither is one that breaks off.
        let why = asked("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3000\r\n\r\nmesh").await;
        assert_eq!(why, Err("not ready: HERE answers 503: mesh".to_owned()));
        assert_eq!(asked("HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n{").await, Ok(()));
    }
}
