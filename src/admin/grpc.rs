//! The gRPC side of the admin address: the services, and what a call has to be like.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, Version, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;
use tonic::Status;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;

use super::certificates::Certificates;
use super::csds::CsdsService;
use super::health::HealthService;
use super::proto::envoy::service::status::v3::client_status_discovery_service_server::ClientStatusDiscoveryServiceServer;
use super::proto::{DESCRIPTORS, v1};
use super::service::AdminService;
use crate::serve::refusals::Refusals;
use crate::serve::roster::Roster;

/// The routes of every service.
pub(super) fn routes(
    roster: Roster,
    refusals: Refusals,
    certificates: Arc<dyn Certificates>,
    ready: watch::Receiver<bool>,
) -> Router {
    let csds = CsdsService { roster: roster.clone(), certificates: certificates.clone() };
    let admin = AdminService { roster, refusals, certificates };
    let mut routes = Routes::new(v1::admin_server::AdminServer::new(admin))
        .add_service(ClientStatusDiscoveryServiceServer::new(csds))
        .add_service(HealthServer::new(HealthService(ready)));
    // Reflection tells of services and messages, which are in this repository, and of nothing that the server holds.
    match reflection().build_v1().and_then(|v1| Ok((v1, reflection().build_v1alpha()?))) {
        Ok((v1, v1alpha)) => routes = routes.add_service(v1).add_service(v1alpha),
        Err(error) => tracing::error!(%error, "no reflection: the program's own descriptors are broken"),
    }
    routes.into_axum_router().layer(middleware::from_fn(only_grpc))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// What nobody serves: a gRPC caller is told in its terms, a browser in its own.
pub(super) async fn unknown(request: Request) -> Response {
    if is_grpc(&request) {
        Status::unimplemented("no such method").into_http::<axum::body::Body>()
    } else {
        StatusCode::NOT_FOUND.into_response()
    }
}

/// Lets real gRPC calls through. The address has no authentication but being out of reach; a web page in a browser on the
/// same machine reaches it nevertheless, and could send a POST that tonic takes for a call. It cannot do so over HTTP/2
/// without TLS.
async fn only_grpc(request: Request, next: Next) -> Response {
    if request.version() != Version::HTTP_2 {
        return (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "gRPC needs HTTP/2\n").into_response();
    }
    if !is_grpc(&request) {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    next.run(request).await
}

fn is_grpc(request: &Request) -> bool {
    let value = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    ["application/grpc", "application/grpc+proto"].iter().any(|grpc| essence.eq_ignore_ascii_case(grpc))
}

#[cfg(test)]
#[path = "grpc_tests.rs"]
mod tests;
