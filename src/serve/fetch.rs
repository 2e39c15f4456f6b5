//! `FetchSecrets`: one request, one answer, under the same rules as a stream (xds-conformance items 4 and 5).

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use http::HeaderMap;
use http::request::Parts;
use prost::Message;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use super::feed::Feed;
use super::metrics::{Protocol, Withheld};
use super::open;
use super::shared::Shared;
use super::state::{Limits, check_type, distinct_names};
use super::version::Version;
use super::wire::inbound::Inbound;
use super::wire::outbound::Response;
use super::wire::{DiscoveryRequest, SECRET_TYPE};

/// How long the request may take to arrive.
const REQUEST: Duration = Duration::from_secs(10);

/// How long to wait for pending secrets if the caller does not say.
const WAIT: Duration = Duration::from_secs(30);

/// Answers with those of the names that there are. Waits for pending ones until shortly before the caller's deadline.
pub(super) async fn fetch(shared: &Shared, parts: &Parts, body: Body) -> Result<Response, Status> {
    // The caller counts from when it asked, so verifying its proof and reading its request are part of the wait.
    let arrived = Instant::now();
    let deadline = arrived + timeout(&parts.headers).unwrap_or(WAIT);
    let mut opened = open::open(shared, parts).await?;
    let _live = shared.metrics.live_stream(Protocol::Fetch);

    let mut inbound = Inbound::<DiscoveryRequest>::new(body);
    let request = tokio::time::timeout_at(deadline.min(arrived + REQUEST), poll_fn(|cx| inbound.poll_message(cx)))
        .await
        .map_err(|_elapsed| Status::deadline_exceeded("no request came"))?
        .ok_or_else(|| Status::invalid_argument("no request came"))??;
    opened.place.heard();
    let claim = open::claim(request.node.as_ref())?;
    let identity = open::complete(shared, opened.proof.as_ref(), &claim)?;
    let _place = shared.admission.enter_as(&identity)?;
    check_type(&request.type_url)?;
    let names = distinct_names(&request.resource_names, Limits::default())?;
    if names.is_empty() {
        return Err(Status::invalid_argument("resource_names is empty"));
    }

    let mut wanted = Vec::new();
    for name in names {
        let feed = shared.names.resolve(name, &identity).map(|secret| {
            let style = shared.names.style(&claim);
            Feed::open(&*shared.source, secret, &identity, style, None)
        });
        let reason = match feed {
            Some(feed) if !feed.is_unknown() => {
                wanted.push(Wanted { name: name.into(), feed, version: None });
                continue;
            }
            Some(_) => Withheld::UnknownName,
            None => Withheld::of(shared.names.kind(name)),
        };
        shared.metrics.withheld(reason);
        tracing::debug!(name = open::label(name), "withheld: no such secret for this proxy");
    }
    tokio::select! {
        () = shared.shutdown.cancelled() => return Err(Status::unavailable("shutting down")),
        _ = tokio::time::timeout_at(deadline, poll_fn(|cx| poll_all(&mut wanted, shared, cx))) => {}
    }
    answer(wanted, shared)
}

struct Wanted {
    name: Arc<str>,
    feed: Feed,
    version: Option<Version>,
}

/// Ready when there is something of each.
fn poll_all(wanted: &mut [Wanted], shared: &Shared, cx: &mut Context<'_>) -> Poll<()> {
    let now = shared.clock.now();
    for Wanted { name, feed, version } in wanted.iter_mut().filter(|wanted| wanted.version.is_none()) {
        if let Poll::Ready(newest) = feed.poll_change(name, &shared.sotw, now, cx) {
            *version = Some(newest);
        }
    }
    if wanted.iter().all(|wanted| wanted.version.is_some()) { Poll::Ready(()) } else { Poll::Pending }
}

fn answer(mut wanted: Vec<Wanted>, shared: &Shared) -> Result<Response, Status> {
    let pending = wanted.iter().any(|wanted| wanted.version.is_none());
    let version = Version::of_several(wanted.iter().filter_map(|wanted| wanted.version.as_ref()));
    if version.is_none() && pending {
        return Err(Status::unavailable("the secrets are not there yet"));
    }
    let mut encoded: Vec<Bytes> = Vec::with_capacity(wanted.len() + 1);
    for Wanted { name, feed, .. } in &mut wanted {
        if let Some((secret, _)) = feed.take(name, &shared.sotw) {
            shared.metrics.pushed(feed.kind(), None);
            encoded.push(secret.bytes);
        }
    }
    // Behind the secrets, so that the version of all of them replaces that of the last.
    let whole = DiscoveryResponse {
        version_info: version.map(|version| version.to_string()).unwrap_or_default(),
        type_url: SECRET_TYPE.to_owned(),
        ..Default::default()
    };
    encoded.push(whole.encode_to_vec().into());
    let response = Response::new(&DiscoveryResponse::default(), encoded);
    if response.is_large() {
        shared.metrics.large_response();
        tracing::warn!(bytes = response.len(), "a large response");
    }
    Ok(response)
}

/// Nine tenths of the caller's `grpc-timeout`: the answer has to get there in time. `None` if there is none that makes
/// sense.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    // At most 8 digits (gRPC over HTTP/2, "Timeout"), so nothing here overflows.
    let amount: u64 = Some(digits).filter(|digits| digits.len() <= 8)?.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    };
    Some(timeout.mul_f64(0.9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_deadline() {
        let timeout = |value: &'static str| {
            timeout(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), value.parse().unwrap())]))
        };
        assert_eq!(timeout("10S"), Some(Duration::from_secs(9)));
        assert_eq!(timeout("1000m"), Some(Duration::from_millis(900)));
        for nonsense in ["", "S", "10", "-1S", "999999999S", "1x"] {
            assert_eq!(timeout(nonsense), None, "{nonsense}");
        }
    }
}
