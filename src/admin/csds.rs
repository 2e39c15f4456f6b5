//! Envoy's `ClientStatusDiscoveryService`: what each client was sent and what it said to that, in the terms of Envoy's own
//! tools. Of the secrets, it shows names and versions, never the content. Those tools print what they get, so what would
//! make a name or node id look like another is escaped in it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt, TryStreamExt, stream};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use super::certificates::Certificates;
use super::proto::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use super::proto::envoy::config::core::v3::Node;
use super::proto::envoy::service::status::v3::client_config::GenericXdsConfig;
use super::proto::envoy::service::status::v3::client_status_discovery_service_server::ClientStatusDiscoveryService;
use super::proto::envoy::service::status::v3::{ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus};
use super::proto::envoy::r#type::matcher::v3::NodeMatcher;
use super::proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use super::proto::v1::SubscriptionState;
use super::view::{self, names, state, timestamp};
use crate::model::identity::ProxyKey;
use crate::model::text::escaped;
use crate::serve::roster::{NameRecord, Roster, StreamRecord};

/// The only type of resource that this server has.
const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Clients refuse messages above 4 MiB unless told otherwise, so a response stays below; a client takes 1 MiB at most, as
/// what is above that is of its own making.
const RESPONSE_SIZE: usize = 3 << 20;
const CLIENT_SIZE: usize = 1 << 20;

/// The service.
#[derive(Debug, Clone)]
pub(super) struct CsdsService {
    pub(super) roster: Roster,
    pub(super) certificates: Arc<dyn Certificates>,
}

impl CsdsService {
    fn streams(&self) -> Vec<StreamRecord> {
        let mut streams = self.roster.snapshot();
        view::believe(&mut streams, &self.certificates.select(&|_key| true));
        streams
    }
}

/// What a stream of questions is answered with.
type Responses = Pin<Box<dyn Stream<Item = Result<ClientStatusResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ClientStatusDiscoveryService for CsdsService {
    type StreamClientStatusStream = Responses;

    /// Each request is answered with one response, or with several, each about other clients, if one cannot hold them.
    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let service = self.clone();
        let responses = request.into_inner().map(move |request| {
            let responses = responses(service.streams(), &request?.node_matchers)?;
            Ok::<_, Status>(stream::iter(responses.into_iter().map(Ok)))
        });
        Ok(Response::new(Box::pin(responses.try_flatten())))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        let responses = responses(self.streams(), &request.get_ref().node_matchers)?;
        match <[_; 1]>::try_from(responses) {
            Ok([response]) => Ok(Response::new(response)),
            Err(_) => Err(Status::resource_exhausted(
                "too many clients for one response: use node_matchers, StreamClientStatus, or envoy_sds.admin.v1.Admin",
            )),
        }
    }
}

/// What there is to say of the clients that match; at least one response. A client is a node id and cluster, as far as one
/// proxy calls itself by them: of two proxies that claim the same, neither is shown with the other's secrets.
fn responses(streams: Vec<StreamRecord>, matchers: &[NodeMatcher]) -> Result<Vec<ClientStatusResponse>, Status> {
    let wanted = matchers.iter().map(matcher).collect::<Result<Vec<_>, _>>()?;
    let mut clients: BTreeMap<(&str, &str, ProxyKey), Vec<GenericXdsConfig>> = BTreeMap::new();
    for stream in &streams {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted(&stream.node_id)) {
            let secrets =
                clients.entry((&stream.node_id, &stream.node_cluster, stream.identity.proxy_key())).or_default();
            secrets.extend(names(stream).into_iter().map(|(name, record)| secret(name, record)));
        }
    }
    let mut responses = vec![ClientStatusResponse::default()];
    let mut size = 0;
    for ((id, cluster, _), mut secrets) in clients {
        let mut client_size = 0;
        let fitting = secrets.iter().take_while(|secret| {
            client_size += secret.encoded_len();
            client_size <= CLIENT_SIZE
        });
        secrets.truncate(fitting.count());
        let node = Node { id: escaped(id), cluster: escaped(cluster), ..Node::default() };
        let client = ClientConfig { node: Some(node), generic_xds_configs: secrets };
        size += client.encoded_len();
        if size > RESPONSE_SIZE {
            responses.push(ClientStatusResponse::default());
            size = client.encoded_len();
        }
        if let Some(response) = responses.last_mut() {
            response.config.push(client);
        }
    }
    Ok(responses)
}

/// Whether a node id is wanted.
type Matcher<'a> = Box<dyn Fn(&str) -> bool + 'a>;

/// # Errors
/// `INVALID_ARGUMENT` for what cannot be matched here: rather no answer than one about other clients than those asked for.
fn matcher(matcher: &NodeMatcher) -> Result<Matcher<'_>, Status> {
    if !matcher.node_metadatas.is_empty() {
        return Err(Status::invalid_argument("node_metadatas cannot be matched: this server does not keep metadata"));
    }
    let unusable = || Status::invalid_argument("node_id must be matched by exact, prefix, suffix or contains");
    let by = matcher.node_id.as_ref().ok_or_else(unusable)?;
    let fold = |text: &str| if by.ignore_case { text.to_lowercase() } else { text.to_owned() };
    Ok(match by.match_pattern.as_ref().ok_or_else(unusable)? {
        MatchPattern::Exact(pattern) => Box::new(move |id| fold(id) == fold(pattern)),
        MatchPattern::Prefix(pattern) => Box::new(move |id| fold(id).starts_with(&fold(pattern))),
        MatchPattern::Suffix(pattern) => Box::new(move |id| fold(id).ends_with(&fold(pattern))),
        MatchPattern::Contains(pattern) => Box::new(move |id| fold(id).contains(&fold(pattern))),
        MatchPattern::SafeRegex(_) => return Err(unusable()),
    })
}

/// One name. `config_status` is this server's side of it and `client_status` the client's, as Envoy's documentation defines
/// them; the version is the one that the client uses, or, if it has none, the one that it was sent and has not answered.
fn secret(name: &str, record: &NameRecord) -> GenericXdsConfig {
    use ClientResourceStatus as Client;
    let (config_status, client_status) = match state(record) {
        SubscriptionState::Withheld => (ConfigStatus::NotSent, Client::DoesNotExist),
        SubscriptionState::Pending => (ConfigStatus::NotSent, Client::Requested),
        SubscriptionState::Sent if record.acked.is_some() => (ConfigStatus::Stale, Client::Acked),
        SubscriptionState::Sent => (ConfigStatus::Stale, Client::Requested),
        SubscriptionState::Acked => (ConfigStatus::Synced, Client::Acked),
        // Not sent on this stream, but the client has it.
        SubscriptionState::Held => (ConfigStatus::NotSent, Client::Acked),
        SubscriptionState::Nacked => (ConfigStatus::Error, Client::Nacked),
        SubscriptionState::Unspecified => (ConfigStatus::Unknown, Client::Unknown),
    };
    let unanswered = record.sent.as_ref().filter(|_| config_status == ConfigStatus::Stale);
    let used = record.acked.as_ref().or(unanswered);
    GenericXdsConfig {
        type_url: SECRET_TYPE.to_owned(),
        name: escaped(name),
        version_info: match (&record.held, used) {
            (Some(held), _) => held.to_string(),
            (None, Some((version, _))) => version.to_string(),
            (None, None) => String::new(),
        },
        last_updated: used.map(|(_, time)| timestamp(*time)),
        config_status: config_status.into(),
        client_status: client_status.into(),
        error_state: record.nacked.as_ref().map(|(version, time, reason)| UpdateFailureState {
            last_update_attempt: Some(timestamp(*time)),
            details: reason.to_string(),
            version_info: version.to_string(),
        }),
    }
}

#[cfg(test)]
#[path = "csds_tests.rs"]
mod tests;
