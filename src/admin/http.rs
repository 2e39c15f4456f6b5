//! The HTTP side of the admin address.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use super::{Admin, status};

/// The routes.
pub fn routes(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin)
}

async fn page(State(admin): State<Arc<Admin>>) -> Response {
    text("text/plain; charset=utf-8", status::page(&admin))
}

/// 200 if the server can do its work, else 503; either way, why and what else is wrong.
async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let reasons = admin.readiness.reasons();
    let code = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "ready": reasons.is_empty(),
        "reasons": reasons,
        "listeners": admin.listeners,
        "warnings": admin.warnings(),
    });
    (code, text("application/json", format!("{body:#}\n"))).into_response()
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let mut page = String::new();
    match prometheus_client::encoding::text::encode(&mut page, &admin.registry) {
        Ok(()) => text("application/openmetrics-text; version=1.0.0; charset=utf-8", page),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn text(content_type: &'static str, body: String) -> Response {
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}
