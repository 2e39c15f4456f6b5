//! The client of the admin API that several commands are made of.

use std::fmt;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::Failure;
use crate::admin::proto::v1::admin_client::AdminClient;
use crate::admin::proto::v1::{ListProxiesRequest, ListRefusalsRequest, Proxy, Refusal, RotateRequest};
use crate::config::HostPort;

/// How long the server may take to accept a connection, and to say something more.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(30);

/// Which server to ask.
#[derive(Debug, Clone, Args)]
pub(super) struct AdminFlags {
    /// Where the server's admin API is
    #[arg(long, env = "ENVOY_SDS_ADMIN", value_name = "HOST:PORT", default_value = "127.0.0.1:5681")]
    admin: HostPort,
}

impl AdminFlags {
    /// The address of the admin API.
    pub(super) fn address(&self) -> &HostPort {
        &self.admin
    }
}

/// A connection to a server's admin API.
#[derive(Debug)]
pub(super) struct AdminApi {
    address: HostPort,
    client: AdminClient<Channel>,
}

/// What the server says instead of an answer.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) code: Code,
    message: String,
}

impl AdminApi {
    pub(super) async fn connect(flags: &AdminFlags) -> Result<Self, Failure> {
        let address = flags.admin.clone();
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(anyhow::Error::from)?;
        let channel = endpoint.connect_timeout(CONNECT).connect().await.map_err(|_source| unreachable_at(&address))?;
        Ok(Self { address, client: AdminClient::new(channel) })
    }

    pub(super) async fn proxies(&mut self, selection: Selection) -> Result<Vec<Proxy>, ApiError> {
        let Selection { mesh, name, spiffe_id } = selection;
        let answer = in_time(self.client.list_proxies(ListProxiesRequest { mesh, name, spiffe_id })).await;
        let mut messages = answer.map_err(|status| self.error(&status))?.into_inner();
        let mut proxies = Vec::new();
        while let Some(message) = in_time(messages.message()).await.map_err(|status| self.error(&status))? {
            proxies.extend(message.proxy);
        }
        Ok(proxies)
    }

    /// Whom the server has refused lately, the last first.
    pub(super) async fn refusals(&mut self) -> Result<Vec<Refusal>, ApiError> {
        let answer = in_time(self.client.list_refusals(ListRefusalsRequest::default())).await;
        Ok(answer.map_err(|status| self.error(&status))?.into_inner().refusals)
    }

    pub(super) async fn rotate(&mut self, request: RotateRequest) -> Result<usize, ApiError> {
        let answer = in_time(self.client.rotate(request)).await;
        let count = answer.map_err(|status| self.error(&status))?.into_inner().proxies;
        Ok(count.try_into().unwrap_or(usize::MAX))
    }

    fn error(&self, status: &Status) -> ApiError {
        let message = match status.code() {
            Code::InvalidArgument | Code::NotFound => status.message().to_owned(),
            Code::Unimplemented => {
                format!("what answers at {} is no envoy-sds, or another version (--admin)", self.address)
            }
            Code::Unavailable | Code::Unknown => {
                format!("the admin API at {} went away or speaks no gRPC (--admin)", self.address)
            }
            _ => format!("the admin API at {}: {}", self.address, status.message()),
        };
        ApiError { code: status.code(), message }
    }
}

/// The next that a server says. A deadline of the call's would be over when its answer begins, or hold for all of a long one.
async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answer = tokio::time::timeout(ANSWER, answer).await;
    answer.unwrap_or_else(|_elapsed| Err(Status::deadline_exceeded(format!("no answer within {} s", ANSWER.as_secs()))))
}

fn unreachable_at(address: &HostPort) -> Failure {
    anyhow!("cannot reach the admin API at {address}: is envoy-sds serve running? (--admin)").into()
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Runtime(anyhow!(error.message))
    }
}

/// Which proxies a command is about; empty parts do not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) mesh: String,
    pub(super) name: String,
    pub(super) spiffe_id: String,
}

impl Selection {
    /// What `--mesh` and `[MESH/]NAME` or a SPIFFE ID can mean, the likeliest first: names of pods have slashes of their own.
    pub(super) fn readings(mesh: Option<&str>, proxy: Option<&str>) -> Vec<Self> {
        let whole = |mesh: &str, name: &str| Self { mesh: mesh.to_owned(), name: name.to_owned(), ..Self::default() };
        match (mesh, proxy) {
            (mesh, Some(id)) if id.starts_with("spiffe://") => {
                vec![Self { spiffe_id: id.to_owned(), ..whole(mesh.unwrap_or_default(), "") }]
            }
            (None, Some(proxy)) => {
                let split = proxy.split_once('/').filter(|(mesh, name)| !mesh.is_empty() && !name.is_empty());
                let with_mesh = split.map(|(mesh, name)| whole(mesh, name));
                std::iter::once(whole("", proxy)).chain(with_mesh).collect()
            }
            (mesh, proxy) => vec![whole(mesh.unwrap_or_default(), proxy.unwrap_or_default())],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_stops_in_the_middle_of_an_answer_is_given_up() {
        let began = tokio::time::Instant::now();
        let stalled = in_time(std::future::pending::<Result<(), _>>()).await.unwrap_err();
        assert_eq!((stalled.code(), began.elapsed()), (Code::DeadlineExceeded, ANSWER));
    }

    #[test]
    fn a_proxy_can_be_named_in_several_ways() {
        let selection = |mesh: &str, name: &str, spiffe_id: &str| Selection {
            mesh: mesh.to_owned(),
            name: name.to_owned(),
            spiffe_id: spiffe_id.to_owned(),
        };
        for (mesh, proxy, expected) in [
            (None, None, vec![selection("", "", "")]),
            (Some("a"), None, vec![selection("a", "", "")]),
            (None, Some("web-0"), vec![selection("", "web-0", "")]),
            (Some("a"), Some("web-0"), vec![selection("a", "web-0", "")]),
            (None, Some("a/web-0"), vec![selection("", "a/web-0", ""), selection("a", "web-0", "")]),
            (None, Some("ns/pod/uid"), vec![selection("", "ns/pod/uid", ""), selection("ns", "pod/uid", "")]),
            (Some("a"), Some("ns/pod/uid"), vec![selection("a", "ns/pod/uid", "")]),
            (None, Some("/web"), vec![selection("", "/web", "")]),
            (None, Some("spiffe://a/web"), vec![selection("", "", "spiffe://a/web")]),
            (Some("a"), Some("spiffe://a/web"), vec![selection("a", "", "spiffe://a/web")]),
        ] {
            assert_eq!(Selection::readings(mesh, proxy), expected, "{mesh:?} {proxy:?}");
        }
    }
}
