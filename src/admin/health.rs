//! `grpc.health.v1.Health`: the same answer as `/readyz`, for every service of this server (xds-conformance item 16).

use std::pin::Pin;

use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// What can be asked for: the server as a whole, and its services. They are ready together.
pub(super) const SERVICES: [&str; 5] = [
    "",
    "envoy.service.secret.v3.SecretDiscoveryService",
    "envoy.service.discovery.v3.AggregatedDiscoveryService",
    "envoy.service.status.v3.ClientStatusDiscoveryService",
    "envoy_sds.admin.v1.Admin",
];

/// The service, following readiness.
#[derive(Debug, Clone)]
pub(super) struct HealthService(pub(super) watch::Receiver<bool>);

/// What a watcher sees.
type Answers = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = Answers;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !SERVICES.contains(&request.get_ref().service.as_str()) {
            return Err(Status::not_found("no such service"));
        }
        Ok(Response::new(answer(status(*self.0.borrow()))))
    }

    /// A service that is not known may come to be known, says the protocol, so that the stream stays open.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Answers>, Status> {
        if !SERVICES.contains(&request.get_ref().service.as_str()) {
            let unknown = stream::iter([Ok(answer(ServingStatus::ServiceUnknown))]);
            return Ok(Response::new(Box::pin(unknown.chain(stream::pending()))));
        }
        let changes = WatchStream::new(self.0.clone()).map(|ready| Ok(answer(status(ready))));
        Ok(Response::new(Box::pin(changes)))
    }
}

fn status(ready: bool) -> ServingStatus {
    if ready { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
