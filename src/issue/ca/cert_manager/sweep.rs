//! Deletes what crashed servers have left behind: cert-manager never does (cert-manager#6714).

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PartialObjectMeta, Preconditions};
use kube::{Api, ResourceExt};
use tokio::time::Instant;

use super::cleanup::Cleaner;
use super::resource::{CertificateRequest, INSTANCE, Origin};
use super::{ObjectRef, Timing};
use crate::runtime::cluster::explain;

/// Requests listed by one call.
const PAGE: u32 = 500;

/// A request of another instance.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FoundRequest {
    /// Empty if it names none.
    instance: String,
    object: ObjectRef,
}

/// A lease of another instance.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FoundLease {
    instance: String,
    renewed: Option<Timestamp>,
    object: ObjectRef,
    resource_version: Option<String>,
}

/// What to delete.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    requests: Vec<ObjectRef>,
    leases: Vec<FoundLease>,
}

/// Remembers what was seen when, by this process's own clock: the clocks of other servers and of the API server are
/// never compared with it. Pure.
#[derive(Debug, Default)]
struct Observer {
    last: Option<Instant>,
    /// By instance: its renewal time (`None` without a lease), and since when it has been that.
    instances: HashMap<String, (Option<Timestamp>, Instant)>,
    /// By uid: when a request was first seen.
    requests: HashMap<String, Instant>,
}

impl Observer {
    /// Takes in what exists at `now`. `requests` must have been listed before `leases`: an instance has a lease before
    /// it has a request.
    fn observe(&mut self, now: Instant, requests: &[FoundRequest], leases: &[FoundLease], timing: &Timing) -> Verdict {
        // Who could not look for a while cannot tell silence from its own deafness: everybody gets time anew.
        let blind = self.last.is_none_or(|last| now - last > timing.sweep_every.mul_f64(1.5));
        self.last = Some(now);

        let renewed: HashMap<&str, Option<Timestamp>> =
            leases.iter().map(|lease| (lease.instance.as_str(), lease.renewed)).collect();
        let all = requests.iter().map(|request| request.instance.as_str()).chain(renewed.keys().copied());
        let before = std::mem::take(&mut self.instances);
        for instance in all {
            let renewed = renewed.get(instance).copied().flatten();
            let since = match before.get(instance) {
                Some((known, since)) if !blind && *known == renewed => *since,
                _ => now,
            };
            self.instances.insert(instance.to_owned(), (renewed, since));
        }
        let before = std::mem::take(&mut self.requests);
        for FoundRequest { object, .. } in requests {
            let since = before.get(&object.uid).copied().unwrap_or(now);
            self.requests.insert(object.uid.clone(), since);
        }

        let dead =
            |instance: &str| self.instances.get(instance).is_some_and(|(_, since)| now - *since >= timing.dead_after);
        let old = |uid: &str| self.requests.get(uid).is_some_and(|since| now - *since >= timing.orphan_after);
        Verdict {
            requests: requests
                .iter()
                .filter(|request| dead(&request.instance) && old(&request.object.uid))
                .map(|request| request.object.clone())
                .collect(),
            // The lease goes last, so that the instance stays known for dead while there is something of it.
            leases: leases
                .iter()
                .filter(|lease| dead(&lease.instance))
                .filter(|lease| requests.iter().all(|request| request.instance != lease.instance))
                .cloned()
                .collect(),
        }
    }
}

/// The task that sweeps.
#[derive(Debug)]
pub(super) struct Sweep {
    pub(super) requests: Api<PartialObjectMeta<CertificateRequest>>,
    pub(super) leases: Api<Lease>,
    pub(super) origin: Origin,
    pub(super) cleaner: Cleaner,
    pub(super) timing: Timing,
}

impl Sweep {
    /// Sweeps for ever.
    pub(super) async fn run(self) {
        let mut observer = Observer::default();
        loop {
            if let Err(error) = self.once(&mut observer).await {
                tracing::debug!(error = explain(&error), "cannot look for what crashed servers have left behind");
            }
            // Servers that started together need not list together. Never later than `sweep_every`, lest the observer
            // take itself for blind.
            tokio::time::sleep(self.timing.sweep_every.mul_f64(0.8 + 0.2 * fastrand::f64())).await;
        }
    }

    async fn once(&self, observer: &mut Observer) -> Result<(), kube::Error> {
        let requests = Box::pin(self.list_requests()).await?;
        let leases = Box::pin(self.list_leases()).await?;
        let verdict = observer.observe(Instant::now(), &requests, &leases, &self.timing);
        if !verdict.requests.is_empty() {
            tracing::info!(count = verdict.requests.len(), "deleting CertificateRequests of servers that are gone");
        }
        for object in verdict.requests {
            self.cleaner.delete(object);
        }
        for lease in verdict.leases {
            // If it has been renewed after all, the version differs and it stays.
            let unchanged = Preconditions { uid: Some(lease.object.uid), resource_version: lease.resource_version };
            let params = DeleteParams::default().preconditions(unchanged);
            if let Err(error) = Box::pin(self.leases.delete(&lease.object.name, &params)).await {
                tracing::debug!(lease = %lease.object.name, error = explain(&error), "cannot delete the Lease of a server that is gone");
            }
        }
        Ok(())
    }

    async fn list_requests(&self) -> Result<Vec<FoundRequest>, kube::Error> {
        let mut params = ListParams::default().labels(&self.origin.foreign()).limit(PAGE);
        let mut found = Vec::new();
        loop {
            let page = bounded(self.timing.api_call, self.requests.list(&params)).await?;
            found.extend(page.items.iter().filter_map(|item| {
                Some(FoundRequest { instance: instance_of(&item.metadata), object: ObjectRef::of(&item.metadata)? })
            }));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(found),
            }
        }
    }

    async fn list_leases(&self) -> Result<Vec<FoundLease>, kube::Error> {
        let params = ListParams::default().labels(&self.origin.foreign());
        let leases = bounded(self.timing.api_call, self.leases.list(&params)).await?;
        let found = leases.items.into_iter().filter_map(|lease| {
            Some(FoundLease {
                instance: instance_of(&lease.metadata),
                object: ObjectRef::of(&lease.metadata)?,
                resource_version: lease.resource_version(),
                renewed: lease.spec.and_then(|spec| spec.renew_time).map(|time| time.0),
            })
        });
        Ok(found.collect())
    }
}

async fn bounded<T>(timeout: Duration, call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    match tokio::time::timeout(timeout, Box::pin(call)).await {
        Ok(answer) => answer,
        Err(elapsed) => Err(kube::Error::Service(elapsed.into())),
    }
}

fn instance_of(metadata: &ObjectMeta) -> String {
    metadata.labels.as_ref().and_then(|labels| labels.get(INSTANCE)).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(instance: &str, uid: &str) -> FoundRequest {
        let object = ObjectRef { name: format!("r-{uid}"), uid: uid.to_owned() };
        FoundRequest { instance: instance.to_owned(), object }
    }

    fn lease(instance: &str, renewed: i64) -> FoundLease {
        FoundLease {
            instance: instance.to_owned(),
            renewed: Some(Timestamp::from_second(renewed).unwrap()),
            object: ObjectRef { name: format!("envoy-sds-{instance}"), uid: format!("lease-{instance}") },
            resource_version: Some("1".to_owned()),
        }
    }

    /// What is seen at each second, and the uids of requests and the instances of leases that are to go at its end.
    type Scene = (&'static str, Vec<(u64, Vec<FoundRequest>, Vec<FoundLease>)>, Vec<&'static str>, Vec<&'static str>);

    #[test]
    fn only_what_is_surely_orphaned_is_deleted() {
        let r = request;
        let scenes: Vec<Scene> = vec![
            ("the first look decides nothing", vec![(0, vec![r("a", "1")], vec![])], vec![], vec![]),
            (
                "without a lease, after 30 s",
                vec![(0, vec![r("a", "1")], vec![]), (15, vec![r("a", "1")], vec![]), (30, vec![r("a", "1")], vec![])],
                vec!["1"],
                vec![],
            ),
            (
                "without an instance",
                vec![(0, vec![r("", "1")], vec![]), (15, vec![r("", "1")], vec![]), (30, vec![r("", "1")], vec![])],
                vec!["1"],
                vec![],
            ),
            (
                "a lease that is renewed protects",
                (0..=4)
                    .map(|n| (15 * n, vec![r("a", "1")], vec![lease("a", 10 * i64::try_from(n).unwrap())]))
                    .collect(),
                vec![],
                vec![],
            ),
            (
                "a renewal time far off our clock, but moving, protects",
                (0..=4)
                    .map(|n| (15 * n, vec![r("a", "1")], vec![lease("a", -1_000_000 + i64::try_from(n).unwrap())]))
                    .collect(),
                vec![],
                vec![],
            ),
            (
                "a lease that stands still does not; it goes after the requests",
                (0..=2).map(|n| (15 * n, vec![r("a", "1")], vec![lease("a", 7)])).collect(),
                vec!["1"],
                vec![],
            ),
            (
                "a dead lease without requests goes",
                (0..=2).map(|n| (15 * n, vec![], vec![lease("a", 7)])).collect(),
                vec![],
                vec!["a"],
            ),
            (
                "a request that is new is left, even of a dead instance",
                vec![
                    (0, vec![], vec![lease("a", 7)]),
                    (15, vec![], vec![lease("a", 7)]),
                    (30, vec![r("a", "1")], vec![lease("a", 7)]),
                ],
                vec![],
                vec![],
            ),
            (
                "after an outage of the API server, everybody has time to come back",
                vec![
                    (0, vec![r("a", "1")], vec![lease("a", 7)]),
                    (15, vec![r("a", "1")], vec![lease("a", 7)]),
                    (600, vec![r("a", "1")], vec![lease("a", 7)]),
                    (615, vec![r("a", "1")], vec![lease("a", 7)]),
                ],
                vec![],
                vec![],
            ),
            (
                "a look that failed in between counts as an outage",
                vec![(0, vec![r("a", "1")], vec![lease("a", 7)]), (30, vec![r("a", "1")], vec![lease("a", 7)])],
                vec![],
                vec![],
            ),
            (
                "the lease was deleted by hand: its owner has time to make a new one",
                vec![
                    (0, vec![r("a", "1")], vec![lease("a", 7)]),
                    (15, vec![r("a", "1")], vec![lease("a", 17)]),
                    (30, vec![r("a", "1")], vec![]),
                    (45, vec![r("a", "1")], vec![]),
                ],
                vec![],
                vec![],
            ),
        ];
        for (name, steps, requests, leases) in scenes {
            let (start, mut observer) = (Instant::now(), Observer::default());
            let mut verdict = Verdict::default();
            let last = steps.len() - 1;
            for (step, (second, requests, leases)) in steps.into_iter().enumerate() {
                let now = start + Duration::from_secs(second);
                verdict = observer.observe(now, &requests, &leases, &Timing::default());
                assert!(step == last || verdict == Verdict::default(), "{name}: too early, in step {step}");
            }
            let uids: Vec<_> = verdict.requests.iter().map(|object| object.uid.as_str()).collect();
            let instances: Vec<_> = verdict.leases.iter().map(|lease| lease.instance.as_str()).collect();
            assert_eq!((uids, instances), (requests, leases), "{name}");
        }
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut observer = Observer::default();
        let now = Instant::now();
        observer.observe(now, &[request("a", "1")], &[lease("b", 1)], &Timing::default());
        observer.observe(now, &[], &[], &Timing::default());
        assert!(observer.instances.is_empty() && observer.requests.is_empty());
    }
}
