//! The admin address: HTTP pages here, gRPC services in [`super::grpc`], on one socket.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::warnings::Warnings;
use super::{Admin, exposition, grpc, status};

/// How long a client may take to end after shutdown has begun. Some never would: a watch of the health, a reader that
/// does not read.
const GRACE: Duration = Duration::from_secs(1);

/// Serves `admin` until `shutdown`, and a moment longer to whoever is being answered.
///
/// # Errors
/// When the socket is of no use any more.
pub async fn serve(socket: TcpListener, admin: Arc<Admin>, shutdown: CancellationToken) -> io::Result<()> {
    until(socket, routes(admin), shutdown).await
}

pub(super) async fn until(socket: TcpListener, routes: Router, shutdown: CancellationToken) -> io::Result<()> {
    let served = axum::serve(socket, routes).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let given_up = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = served.into_future() => served,
        () = given_up => Ok(()),
    }
}

/// The routes.
fn routes(admin: Arc<Admin>) -> Router {
    let (roster, refusals) = (admin.roster.clone(), admin.refusals.clone());
    let services = grpc::routes(roster, refusals, Arc::new(admin.manager.clone()), admin.readiness.watch());
    Router::new()
        .route("/", get(page))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin)
        .merge(services)
        .fallback(grpc::unknown)
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
async fn metrics(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let wants_open_metrics = accepted.into_iter().any(|value| value.contains("application/openmetrics-text"));
    let mut page = String::new();
    match prometheus_client::encoding::text::encode(&mut page, &admin.registry) {
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
    use super::*;

    #[test]
    fn no_browser_takes_a_page_for_something_else() {
        let page = text("text/plain; charset=utf-8", "<script>".to_owned());
        assert_eq!(page.headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(page.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }
}
