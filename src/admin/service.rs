//! `envoy_sds.admin.v1.Admin`.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, stream};
use tonic::{Request, Response, Status};

use super::certificates::Certificates;
use super::proto::v1;
use super::proto::v1::admin_server::Admin;
use super::view::{self, Selector};
use crate::model::identity::ProxyKey;
use crate::serve::refusals::Refusals;
use crate::serve::roster::Roster;

/// The service.
#[derive(Debug, Clone)]
pub(super) struct AdminService {
    pub(super) roster: Roster,
    pub(super) refusals: Refusals,
    pub(super) certificates: Arc<dyn Certificates>,
}

/// A message for each proxy, made when there is room for it.
type Proxies = Pin<Box<dyn Stream<Item = Result<v1::ListProxiesResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Admin for AdminService {
    type ListProxiesStream = Proxies;

    async fn list_proxies(&self, request: Request<v1::ListProxiesRequest>) -> Result<Response<Proxies>, Status> {
        let v1::ListProxiesRequest { mesh, name, spiffe_id } = request.into_inner();
        let wanted = Selector { mesh, name, spiffe_id };
        let streams = self.roster.select(|stream| wanted.matches(&stream.identity.proxy_key()));
        let proxies = view::proxies(streams, self.certificates.select(&|key| wanted.matches(key)));
        let messages = proxies.into_iter().map(|proxy| Ok(v1::ListProxiesResponse { proxy: Some(proxy.message()) }));
        Ok(Response::new(Box::pin(stream::iter(messages))))
    }

    async fn rotate(&self, request: Request<v1::RotateRequest>) -> Result<Response<v1::RotateResponse>, Status> {
        let wanted = selected(request.into_inner())?;
        let proxies: Vec<ProxyKey> = self.certificates.select(&|key| wanted.matches(key)).into_keys().collect();
        if proxies.is_empty() && !wanted.is_empty() {
            return Err(Status::not_found(format!("there is no proxy {}", described(&wanted))));
        }
        tracing::info!(proxies = proxies.len(), selection = described(&wanted), "an operator has certificates renewed");
        let count = proxies.len().try_into().unwrap_or(u32::MAX);
        self.certificates.rotate(proxies);
        Ok(Response::new(v1::RotateResponse { proxies: count }))
    }

    async fn list_refusals(
        &self,
        _request: Request<v1::ListRefusalsRequest>,
    ) -> Result<Response<v1::ListRefusalsResponse>, Status> {
        let refusals = self.refusals.snapshot().iter().map(view::refusal).collect();
        Ok(Response::new(v1::ListRefusalsResponse { refusals }))
    }
}

/// What a request selects: to renew everything has to be said, not left out.
fn selected(request: v1::RotateRequest) -> Result<Selector, Status> {
    let v1::RotateRequest { mesh, name, spiffe_id, all } = request;
    let wanted = Selector { mesh, name, spiffe_id };
    match (all, wanted.is_empty()) {
        (true, true) | (false, false) => Ok(wanted),
        (true, false) => Err(Status::invalid_argument("`all` and a selection exclude each other")),
        (false, true) => Err(Status::invalid_argument("say which proxies: mesh, name, spiffe_id, or all")),
    }
}

/// In words, such as `named "web-0" in mesh default`. What the caller wrote comes back to the caller, escaped.
fn described(selector: &Selector) -> String {
    let Selector { mesh, name, spiffe_id } = selector;
    let mut words = Vec::new();
    if !name.is_empty() {
        words.push(format!("named {name:?}"));
    }
    if !spiffe_id.is_empty() {
        words.push(format!("with the SPIFFE ID {spiffe_id:?}"));
    }
    if !mesh.is_empty() {
        words.push(format!("in mesh {mesh:?}"));
    }
    if words.is_empty() { "of any kind".to_owned() } else { words.join(" ") }
}
