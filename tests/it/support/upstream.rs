//! A plain HTTP server in the test process, for Envoy's clusters to send requests to.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::Request;
use axum::response::AppendHeaders;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Answers 200 with its body to every request, until dropped, and says in the header `x-version` by which version of HTTP it came.
#[derive(Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Upstream {
    pub async fn start(body: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound listener has an address");
        let router = Router::new().fallback(move |request: Request| async move {
            let headers = AppendHeaders([("x-version", format!("{:?}", request.version()))]);
            (headers, body)
        });
        let task = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("the listener stays open");
        });
        Self { address, task }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}
