//! The admin address: HTTP pages here, gRPC services in [`super::grpc`], on one socket. And the address for metrics alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::connections::Speaks;
use super::scraping::Bounded;
use super::warnings::Warnings;
use super::{Admin, connections, exposition, grpc, host, status};

/// Serves `admin` until `shutdown`, and a moment longer to whoever is being answered.
pub async fn serve(socket: TcpListener, admin: Arc<Admin>, shutdown: CancellationToken) {
    connections::serve(socket, routes(admin), Speaks::Http1And2, shutdown).await;
}

/// Serves `/metrics` and `/livez` over HTTP/1, and nothing else, until `shutdown`: whoever reaches this address can neither do
/// anything, nor learn who the proxies are, nor use up what the server has of connections.
pub async fn serve_metrics(socket: TcpListener, registry: Arc<Registry>, shutdown: CancellationToken) {
    connections::serve(Bounded::new(socket), scraped(registry), Speaks::Http1, shutdown).await;
}

/// The routes.
fn routes(admin: Arc<Admin>) -> Router {
    let (roster, refusals) = (admin.roster.clone(), admin.refusals.clone());
    let services = grpc::routes(roster, refusals, Arc::new(admin.manager.clone()), admin.readiness.watch());
    let (scraped, own) = (scraped(admin.registry.clone()), admin.host_names.as_slice().into());
    let pages = Router::new().route("/", get(page)).route("/readyz", get(ready)).with_state(admin).merge(scraped);
    // The services are out of any browser's reach by themselves, whatever they are called.
    let pages = pages.route_layer(middleware::from_fn_with_state::<_, Arc<[String]>, _>(own, host::check));
    pages.merge(services).fallback(grpc::unknown)
}

/// What both addresses have.
fn scraped(registry: Arc<Registry>) -> Router {
    Router::new().route("/livez", get(async || "ok\n")).route("/metrics", get(metrics)).with_state(registry)
}

async fn page(State(admin): State<Arc<Admin>>) -> Response {
    text("text/plain; charset=utf-8", status::page(&admin))
}

/// 200 if the server can do its work, else 503; either way, why and what else is wrong.
async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let reasons = admin.readiness.reasons();
    let code = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let issuing = admin.manager.outlooks().into_iter().map(|(mesh, outlook)| (mesh.to_string(), outlook.to_string()));
    let body = json!({
        "ready": reasons.is_empty(),
        "reasons": reasons,
        "listeners": admin.listeners,
        "issuing": issuing.collect::<BTreeMap<_, _>>(),
        "warnings": Warnings::of(&admin).into_texts(),
    });
    (code, text("application/json", format!("{body:#}\n"))).into_response()
}

/// In the format that was asked for: Prometheus asks for OpenMetrics, and whoever asks for nothing gets what everybody reads.
async fn metrics(State(registry): State<Arc<Registry>>, headers: HeaderMap) -> Response {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let wants_open_metrics = accepted.into_iter().any(|value| value.contains("application/openmetrics-text"));
    let mut page = String::new();
    match prometheus_client::encoding::text::encode(&mut page, &registry) {
        Ok(()) if wants_open_metrics => text("application/openmetrics-text; version=1.0.0; charset=utf-8", page),
        Ok(()) => text("text/plain; version=0.0.4; charset=utf-8", exposition::classic(&page)),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn text(content_type: &'static str, body: String) -> Response {
    let headers = [(header::CONTENT_TYPE, content_type), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use prometheus_client::metrics::counter::Counter;
    use tokio::task::JoinSet;
    use tonic::transport::Endpoint;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    use super::super::proto::v1::RotateRequest;
    use super::super::proto::v1::admin_client::AdminClient;
    use super::*;

    /// Status line and body of what comes back.
    async fn ask(address: SocketAddr, method: &str, path: &str) -> (String, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    /// Whoever may scrape may do nothing else: no page that names proxies, and none of the services.
    #[tokio::test]
    async fn the_address_for_metrics_has_nothing_else() {
        let mut registry = Registry::with_prefix("envoy_sds");
        registry.register("pushes", "Secrets sent", Counter::<u64>::default());
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let mut server = JoinSet::new();
        server.spawn(serve_metrics(socket, Arc::new(registry), shutdown.clone()));

        let (status, body) = ask(address, "GET", "/metrics").await;
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(body.contains("envoy_sds_pushes_total 0"), "{body}");
        assert_eq!(ask(address, "GET", "/livez").await, ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()));
        for path in ["/", "/readyz", "/envoy_sds.admin.v1.Admin/Rotate", "/metrics/"] {
            for method in ["GET", "POST"] {
                let (status, body) = ask(address, method, path).await;
                assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 404 Not Found", ""), "{method} {path}");
            }
        }
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        let refused = [
            AdminClient::new(channel.clone()).rotate(RotateRequest::default()).await.err(),
            HealthClient::new(channel).check(HealthCheckRequest::default()).await.err(),
        ];
        assert!(refused.iter().all(Option::is_some), "{refused:?}");
        shutdown.cancel();
        server.join_next().await.unwrap().unwrap();
    }

    #[test]
    fn no_browser_takes_a_page_for_something_else() {
        let page = text("text/plain; charset=utf-8", "<script>".to_owned());
        assert_eq!(page.headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(page.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }
}
