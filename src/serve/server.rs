//! The service: which call goes where.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::admission::{Admission, StreamLimits};
use super::blocked::{Blocked, Exit};
use super::bucket::Bucket;
use super::listen::Peer;
use super::metrics::Metrics;
use super::naming::Names;
use super::refusals::Refusals;
use super::roster::Roster;
use super::session::{Session, Variant};
use super::shared::{Shared, TELL};
use super::source::SecretSource;
use super::state::{Door, Limits, delta, sotw};
use super::wire::encoding::Encoder;
use super::wire::outbound::Outbound;
use super::{fetch, open};
use crate::identify::Authenticate;
use crate::runtime::clock::Clock;
use crate::runtime::tasks::Tasks;

/// The services, as they are called on the wire.
pub(super) const SECRETS: &str = "envoy.service.secret.v3.SecretDiscoveryService";
pub(super) const AGGREGATED: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

/// How to serve.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// Names this replica to Envoy as `control_plane.identifier`, which Envoy shows in its statistics
    /// (xds-conformance item 50).
    pub replica: String,
    /// Bounds on streams.
    pub limits: StreamLimits,
    /// At shutdown, streams end within this time, spread at random so that proxies do not all come back at once.
    pub drain: Duration,
    /// A connection whose peer lets a response wait for longer is closed (item 96).
    pub send_limit: Duration,
    /// What the names of secrets mean.
    pub names: Names,
    /// On ADS streams, what was sent is sent again about this often, unless the proxy has rejected it; `None` for never.
    /// It changes nothing for an Envoy that has all it asked for, and helps one that has forgotten to ask (item 88).
    pub ads_resync: Option<Duration>,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            replica: "envoy-sds".to_owned(),
            limits: StreamLimits::default(),
            drain: Duration::from_secs(2),
            send_limit: Duration::from_secs(30),
            names: Names::default(),
            ads_resync: None,
        }
    }
}

/// `envoy.service.secret.v3.SecretDiscoveryService` and `envoy.service.discovery.v3.AggregatedDiscoveryService` (item 2) as
/// a tower service, and all there is behind a listener. Clones are the same server.
#[derive(Debug, Clone)]
pub struct SdsServer(Arc<Shared>);

impl SdsServer {
    /// A server that lets calls in while `ready` is true (item 17) and ends streams when the shutdown of `tasks` begins.
    pub fn new(
        settings: ServeSettings,
        source: Arc<dyn SecretSource>,
        authenticate: Arc<dyn Authenticate>,
        metrics: Metrics,
        ready: watch::Receiver<bool>,
        clock: Clock,
        tasks: &Tasks,
    ) -> Self {
        let blocked = Arc::<Blocked>::default();
        tasks.spawn_essential("blocked streams", blocked.clone().sweep(settings.send_limit, metrics.clone()));
        let admission = Admission::new(settings.limits, metrics.clone());
        Self(Arc::new(Shared {
            drain: settings.drain,
            source,
            authenticate,
            metrics,
            ready,
            shutdown: tasks.shutdown().clone(),
            clock,
            admission,
            encoder: Encoder::default(),
            control_plane: settings.replica,
            limits: Limits { names: settings.limits.names, ..Limits::default() },
            large: Mutex::new(Bucket::one_in(TELL, Instant::now())),
            ads_resync: settings.ads_resync,
            blocked,
            roster: Roster::default(),
            refusals: Refusals::default(),
            names: settings.names,
        }))
    }

    /// What the live streams are doing.
    pub fn roster(&self) -> Roster {
        self.0.roster.clone()
    }

    /// Whom it has refused lately.
    pub fn refusals(&self) -> Refusals {
        self.0.refusals.clone()
    }

    /// What all calls share.
    #[cfg(test)]
    pub(super) fn shared(&self) -> Arc<Shared> {
        self.0.clone()
    }

    /// What admission counts at the moment.
    #[cfg(test)]
    pub(super) fn counts(&self) -> [usize; 4] {
        self.0.admission.counts()
    }

    async fn handle(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let shared = self.0;
        let (parts, body) = request.into_parts();
        let connection = parts.extensions.get::<Peer>().cloned().unwrap_or_default().end;
        let exit = shared.blocked.exit(connection);
        match parts.uri.path().strip_prefix('/').and_then(|path| path.split_once('/')) {
            Some((SECRETS, "StreamSecrets")) => {
                stream::<sotw::State>(shared, &parts, body, Door::Dedicated, exit).await
            }
            Some((SECRETS, "DeltaSecrets")) => {
                stream::<delta::State>(shared, &parts, body, Door::Dedicated, exit).await
            }
            Some((AGGREGATED, "StreamAggregatedResources")) => {
                stream::<sotw::State>(shared, &parts, body, Door::Aggregated, exit).await
            }
            Some((AGGREGATED, "DeltaAggregatedResources")) => {
                stream::<delta::State>(shared, &parts, body, Door::Aggregated, exit).await
            }
            Some((SECRETS, "FetchSecrets")) => Ok(Outbound::response(fetch::fetch(&shared, &parts, body).await?, exit)),
            _ => Err(Status::unimplemented("no such method")),
        }
    }
}

/// Lets a stream in.
async fn stream<V: Variant>(
    shared: Arc<Shared>,
    parts: &Parts,
    body: Body,
    door: Door,
    exit: Exit,
) -> Result<Response<Body>, Status> {
    let opened = open::open(&shared, parts).await?;
    Ok(Outbound::response(Session::<V>::new(shared, opened, body, door), exit))
}

impl Service<Request<Body>> for SdsServer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            if request.method() != Method::POST {
                return Ok(refused(StatusCode::METHOD_NOT_ALLOWED));
            }
            if !is_grpc(&request) {
                return Ok(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE));
            }
            Ok(server.handle(request).await.unwrap_or_else(Status::into_http))
        })
    }
}

/// What is no gRPC call is answered in HTTP's terms.
fn refused(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

/// gRPC with protobuf, with parameters or without; not gRPC-Web, and no other encoding of messages.
fn is_grpc(request: &Request<Body>) -> bool {
    let Some(Ok(value)) = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::to_str) else { return false };
    let essence = value.split(';').next().unwrap_or_default().trim();
    ["application/grpc", "application/grpc+proto"].iter().any(|grpc| essence.eq_ignore_ascii_case(grpc))
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
