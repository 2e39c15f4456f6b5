//! `FetchSecrets`: one request, one answer, under the same rules as a stream (xds-conformance items 4 and 5).

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use http::HeaderMap;
use http::request::Parts;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tracing::{Instrument, Span, field};

use super::admission::{Place, ProxyPlace};
use super::client::{Client, audit};
use super::feed::Feed;
use super::metrics::{LiveStream, Protocol};
use super::open::{self, Opened, label};
use super::refusals::host;
use super::session::timer::Timer;
use super::shared::Shared;
use super::state::{check_type, names_of_one};
use super::version::Version;
use super::wire::DiscoveryRequest;
use super::wire::inbound::Inbound;
use super::wire::response::Response;

/// How long the request may take to arrive.
const REQUEST: Duration = Duration::from_secs(10);

/// How long to wait for pending secrets if the caller does not say.
const WAIT: Duration = Duration::from_secs(30);

/// How long to wait at most, whatever the caller says: it takes up a place, and keeps a request for a certificate alive.
const LONGEST: Duration = Duration::from_secs(60);

/// What is left of a call when its answer is there. The places are given back when that has been sent: a caller that does
/// not read holds on to one.
#[derive(Debug)]
pub(super) struct Answer {
    response: Option<Response>,
    _live: LiveStream,
    _places: (Place, ProxyPlace),
}

impl Stream for Answer {
    type Item = Result<Response, Status>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.response.take().map(Ok))
    }
}

/// Answers with those of the names that there are. Waits for pending ones until shortly before the caller's deadline.
pub(super) async fn fetch(shared: &Shared, parts: &Parts, body: Body) -> Result<Answer, Status> {
    // The caller counts from when it asked, so verifying its proof and reading its request are part of the wait.
    let arrived = Instant::now();
    let deadline = arrived + timeout(&parts.headers).unwrap_or(WAIT).min(LONGEST);
    let opened = open::open(shared, parts).await?;
    let (peer, protocol) = (&opened.peer, Protocol::Fetch.as_str());
    let span = tracing::info_span!("call", %peer, protocol, node = field::Empty, identity = field::Empty);
    answer(shared, opened, body, deadline, deadline.min(arrived + REQUEST)).instrument(span).await
}

async fn answer(
    shared: &Shared,
    mut opened: Opened,
    body: Body,
    deadline: Instant,
    request_by: Instant,
) -> Result<Answer, Status> {
    let live = shared.metrics.live_stream(Protocol::Fetch);
    let mut inbound = Inbound::<DiscoveryRequest>::new(body);
    let request = tokio::time::timeout_at(request_by, poll_fn(|cx| inbound.poll_message(cx)))
        .await
        .map_err(|_elapsed| Status::deadline_exceeded("no request came"))?
        .ok_or_else(|| Status::invalid_argument("no request came"))??;
    opened.place.heard();
    let mut client = Client::new(shared, host(&opened.peer), opened.proof.map(Box::new), request.node.as_ref())?;
    Span::current().record("node", label(&client.claim.id));
    Span::current().record("identity", field::display(&client.identity.spiffe_id));
    check_type(&request.type_url)?;
    let names = names_of_one(&request.resource_names, shared.limits)?;
    if names.is_empty() {
        return Err(Status::invalid_argument("resource_names is empty"));
    }

    let mut wanted = Vec::new();
    for name in names {
        let found = client.find(name, None, shared);
        match (found.feed, found.withheld) {
            (_, Some(reason)) => {
                shared.metrics.withheld(reason);
                tracing::debug!(name = label(name), "withheld: no such secret for this proxy");
            }
            (Some(feed), None) => wanted.push(Wanted { name, feed, version: None }),
            (None, None) => {}
        }
    }
    wait(shared, &mut client, &mut wanted, deadline, &opened.peer.leave).await?;
    let response = Some(response(wanted, shared)?);
    Ok(Answer { response, _live: live, _places: (opened.place, client.into_place()) })
}

/// Until there is something of each name or the deadline is over. What ends a stream ends the wait (items 26 and 102).
async fn wait(
    shared: &Shared,
    client: &mut Client,
    wanted: &mut [Wanted<'_>],
    deadline: Instant,
    leave: &CancellationToken,
) -> Result<(), Status> {
    let now = shared.clock.now();
    let mut proof = client.identity.proven_until.map(|until| Timer::for_proof(until, now));
    let mut over = pin!(tokio::time::sleep_until(deadline));
    let mut left = pin!(leave.cancelled());
    poll_fn(|cx| {
        if left.as_mut().poll(cx).is_ready() {
            let reason =
                if shared.shutdown.is_cancelled() { "shutting down" } else { "the connection is at its maximum age" };
            return Poll::Ready(Err(Status::unavailable(reason)));
        }
        if let Some(proof) = &mut proof
            && let Poll::Ready(status) = proof.poll(&shared.clock, cx)
        {
            return Poll::Ready(Err(status));
        }
        if let Some(status) = client.poll_identity(shared, cx) {
            return Poll::Ready(Err(status));
        }
        // All of them each time, so that what is answered is the newest of each.
        poll_all(wanted, shared, cx);
        let all_there = wanted.iter().all(|wanted| wanted.version.is_some());
        if all_there || over.as_mut().poll(cx).is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

struct Wanted<'n> {
    name: &'n str,
    feed: Feed,
    /// Of what is there to be sent.
    version: Option<Version>,
}

fn poll_all(wanted: &mut [Wanted<'_>], shared: &Shared, cx: &mut Context<'_>) {
    let now = shared.clock.now();
    for Wanted { feed, version, .. } in wanted {
        while let Poll::Ready(newest) = feed.poll_change(&shared.encoder, now, cx) {
            *version = Some(newest);
        }
        if feed.drop_ended(now) {
            *version = None;
        }
    }
}

fn response(wanted: Vec<Wanted<'_>>, shared: &Shared) -> Result<Response, Status> {
    // With nothing but names that are withheld the answer is: nothing. That is definite, and has a version (item 4).
    if !wanted.is_empty() && wanted.iter().all(|wanted| wanted.version.is_none()) {
        return Err(Status::unavailable("the secrets are not there yet"));
    }
    let version = Version::of_several(wanted.iter().filter_map(|wanted| wanted.version.as_ref()));
    let mut secrets = Vec::with_capacity(wanted.len());
    for Wanted { name, mut feed, .. } in wanted {
        if let Some(taken) = feed.take(&shared.encoder) {
            shared.metrics.pushed(feed.kind(), None);
            audit(name, &taken);
            secrets.push((name, taken.secret));
        }
    }
    let response = Response::fetched(&shared.control_plane, &version, secrets);
    shared.note_size(&response);
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
