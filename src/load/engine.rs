//! A run: connects the proxies, makes or awaits what is to be measured, and checks what they got.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use jiff::Unit;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::churn::churn;
use super::command;
use super::connection::{self, Shared, Start};
use super::inspect::Inspection;
use super::messages::Node;
use super::meters::{Concerns, Current, Meters};
use super::node;
use super::nudge::Nudge;
use super::outcome::{self, most_often};
use super::phases::{self, Processes, Record};
use super::plan::{Credentials, Plan, Role, Trigger, numbered};
use super::protocol::{Kind, Manner, Variant};
use super::proxy::{Proxy, Surroundings};
use super::results::{PhaseKind, Results, Sample};
use super::server_metrics::ServerMetrics;
use super::transport::Server;
use super::usage::Process;
use crate::runtime::clock::Clock;
use crate::runtime::descriptors;
use crate::runtime::tasks::Tasks;

/// How long connections may take to be gone at the end.
const STOP: Duration = Duration::from_secs(5);

/// How long proxies may take to be back when churn has ended: twice the longest that Envoy waits before it tries again.
const BACK: Duration = Duration::from_secs(60);

/// By how much a timer may be late: tokio's go by whole milliseconds, and are woken once their own has begun.
const TIMER_SLACK: Duration = Duration::from_millis(2);

/// Phase numbers begin with 1: no stream has seen this one.
const BEFORE_THE_FIRST: u32 = 0;

/// Runs `plan` to its end, or until `stop`, its timeout or too many failures; `observe` is told how things are, several times
/// a second.
///
/// # Errors
/// Why it could not begin. What goes wrong later is in the results.
pub async fn run(
    plan: Plan,
    clock: Clock,
    stop: impl Future<Output = ()>,
    observe: &mut (dyn FnMut(&Sample, &str) + Send),
) -> Result<Results, String> {
    let connections = plan.connection_count();
    let room = descriptors::for_connections();
    if connections > room {
        return Err(format!(
            "{connections} connections do not fit into this process's file descriptors, which have room for {room}: raise \
             the hard limit (ulimit -Hn), or share connections (--connections)"
        ));
    }
    let server_process = plan.server_process.as_ref().map(Process::find).transpose()?;
    let server_metrics = match plan.server_admin.clone() {
        Some(address) => Some(ServerMetrics::open(address).await?),
        None => None,
    };
    let first = Current::new(BEFORE_THE_FIRST, "start".to_owned(), PhaseKind::Rest, Concerns::Nothing, 0);
    let meters = Arc::new(Meters::new(plan.readers(), plan.names.len(), plan.max_failures, first));
    let server =
        Server::find(&plan.target, plan.server_name.as_deref(), plan.tls.clone(), meters.counters.clone()).await?;
    let (renew_by, silence) = (plan.renew_by, plan.silence());
    let contexts = Arc::default();
    let run = Surroundings { meters: meters.clone(), clock: clock.clone(), renew_by, silence, contexts };
    let shared = Arc::new(Shared {
        uri: uri(&plan, &server)?,
        run,
        server,
        connections,
        reconnect: plan.reconnect,
        forget: plan.forget,
        slow_pause: plan.slow_pause,
        nudges: (0..connections).map(|_| Nudge::default()).collect(),
    });
    let groups = groups(&plan)?;
    let inspection = Inspection {
        kept: groups.iter().flatten().map(|proxy| proxy.kept.clone()).collect(),
        names: plan.names.clone().into(),
        expected: plan.expect_identity.as_deref().map(Arc::from),
        compared: Arc::default(),
        meters: meters.clone(),
    };
    let compared = inspection.compared.clone();
    let (tasks, _deaths) = Tasks::new();
    let processes = Arc::new(Processes::new(server_process));
    let started = clock.now();
    let record = Record::new(meters.clone(), processes.clone());
    let mut course = Course { record, plan: &plan, shared, inspection, server_metrics, clock, tasks: &tasks };
    // What the server is without any proxy is seen before there is one.
    let mut samples = vec![phases::now(&meters, &processes)];
    let interrupted = tokio::select! {
        () = course.go(groups) => None,
        () = phases::sample(&meters, &processes, &mut samples, observe) => None,
        () = stop => Some("interrupted"),
        () = meters.too_many_failures() => Some("given up because of too many failures (--max-failures)"),
        () = sleep(plan.timeout) => Some("given up at the timeout (--timeout)"),
    };
    course.record.end();
    let phases = std::mem::take(&mut course.record.phases);
    samples.push(phases::now(&meters, &processes));
    outcome::note(&plan, &phases, interrupted, compared.load(Relaxed), &meters);
    tasks.stop(STOP).await;
    let failures = meters.failures();
    let complete = phases.iter().all(|phase| phase.reached >= phase.expected);
    Ok(Results {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: started.round(Unit::Second).unwrap_or(started).to_string(),
        target: plan.target_text.clone(),
        address: course.shared.server.address().map(|address| address.to_string()),
        proxies: plan.proxies as u64,
        connections: connections as u64,
        streams: (plan.proxies * plan.streams_each()) as u64,
        plan: plan.told,
        phases,
        samples,
        passed: failures.is_empty() && complete,
        interruptions: meters.interruptions(),
        failures,
    })
}

/// The method of the plan, at the server.
fn uri(plan: &Plan, server: &Server) -> Result<Uri, String> {
    let method = match (plan.ads, plan.variant) {
        (false, Variant::Sotw) => "envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        (false, Variant::Delta) => "envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
        (true, Variant::Sotw) => "envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        (true, Variant::Delta) => "envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
    };
    let uri = format!("{}://{}/{method}", server.scheme(), server.authority);
    uri.parse().map_err(|error| format!("{uri} is no address: {error} (--server-name)"))
}

/// The proxies, by connection.
fn groups(plan: &Plan) -> Result<Vec<Vec<Proxy>>, String> {
    let shared = node::shared(plan.like_envoy);
    let names: Vec<_> = plan.names.iter().cloned().enumerate().collect();
    let mut groups: Vec<Vec<Proxy>> = (0..plan.connection_count()).map(|_| Vec::new()).collect();
    for number in 0..plan.proxies {
        let role = plan.role(number);
        let manner = Manner { variant: plan.variant, repeats_node: plan.like_envoy, refuses: role == Role::Refuses };
        let mut proxy = Proxy::new(number, role, manner, headers(plan, number)?, names.len());
        let own = node::own(&numbered(&plan.node_id, number), &numbered(&plan.node_cluster, number));
        let own_names: Vec<_> = names.iter().map(|(place, name)| (*place, numbered_name(name, number))).collect();
        for of_stream in own_names.chunks(names.len() / plan.streams_each()) {
            proxy.subscribe(of_stream, Node { own: own.clone(), shared: shared.clone() });
        }
        let group = number % groups.len();
        groups[group].push(proxy);
    }
    Ok(groups)
}

/// The name as it is, shared by all, if there is no number in it.
fn numbered_name(name: &Arc<str>, number: usize) -> Arc<str> {
    if name.contains("{n}") { numbered(name, number).into() } else { name.clone() }
}

/// What a proxy says in each stream's headers.
fn headers(plan: &Plan, number: usize) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    if let Credentials::Tokens(tokens) = &plan.credentials
        && let Some(token) = tokens.get(number % tokens.len().max(1))
    {
        let value = HeaderValue::try_from(format!("Bearer {token}"));
        let mut value = value.map_err(|_error| format!("token {} has characters that no header may", number + 1))?;
        value.set_sensitive(true);
        headers.insert(http::header::AUTHORIZATION, value);
    }
    for (key, value) in &plan.metadata {
        let name =
            HeaderName::try_from(key.as_str()).map_err(|_error| format!("{key:?} is no header's name (--metadata)"))?;
        let value = HeaderValue::try_from(numbered(value, number));
        headers.append(name, value.map_err(|_error| format!("the value of {key} is no header's (--metadata)"))?);
    }
    Ok(headers)
}

/// What is done, one after the other.
struct Course<'p> {
    plan: &'p Plan,
    shared: Arc<Shared>,
    record: Record,
    inspection: Inspection,
    server_metrics: Option<ServerMetrics>,
    clock: Clock,
    tasks: &'p Tasks,
}

impl Course<'_> {
    async fn go(&mut self, groups: Vec<Vec<Proxy>>) {
        let plan = self.plan;
        self.connect(groups).await;
        self.end().await;
        for trigger in &plan.triggers {
            self.trigger(trigger).await;
        }
        for _ in 0..plan.bundle_pushes {
            self.await_new(PhaseKind::BundlePush, Kind::ValidationContext).await;
        }
        for _ in 0..plan.rotations {
            self.await_new(PhaseKind::LeafRotation, Kind::Certificate).await;
        }
        for _ in 0..plan.storms {
            let phase = self.record.begin(PhaseKind::Storm, Concerns::Nothing, self.readers());
            self.shared.nudges.iter().for_each(|nudge| {
                nudge.give(&self.shared.run.meters);
            });
            phase.over().await;
            self.end().await;
        }
        for command in &plan.storm_commands {
            let phase = self.record.begin(PhaseKind::Storm, Concerns::Nothing, self.readers());
            self.after(command, &phase).await;
            self.end().await;
        }
        if let Some((rate, lasts)) = plan.churn {
            self.churn(rate, lasts).await;
        }
    }

    /// Ends a phase, with a rest in which the server has time for what is left of it: it ends for the client with the last
    /// secret, and for the server with the last answer to it.
    async fn end(&mut self) {
        self.record.end();
        let ended = self.record.phases.len().saturating_sub(1);
        if !self.plan.rest.is_zero() {
            self.record.begin(PhaseKind::Rest, Concerns::Nothing, 0);
            sleep(self.plan.rest).await;
            self.record.end();
        }
        self.inspection.run(self.clock.now()).await;
        if let Some(metrics) = &mut self.server_metrics {
            match metrics.issued().await {
                Ok(issued) => self.record.phases[ended].issued = Some(issued),
                Err(why) => self.shared.run.meters.fail("the server's metrics cannot be read", || why),
            }
        }
    }

    /// Proxies that are to be served, but for those that were given up.
    fn readers(&self) -> u64 {
        self.plan.readers().saturating_sub(self.shared.run.meters.given_up.load(Relaxed))
    }

    async fn connect(&mut self, groups: Vec<Vec<Proxy>>) {
        let phase = self.record.begin(PhaseKind::Connect, Concerns::Nothing, self.readers());
        let room = Arc::new(Semaphore::new(self.plan.in_flight));
        let mut ticks = self.plan.rate.map(ticks);
        for (index, proxies) in groups.into_iter().enumerate() {
            let start = match &mut ticks {
                // At its time, however those before fare, and whether or not this program keeps up.
                Some(ticks) => Start { at: began_at(ticks.tick().await, Instant::now()), permit: None },
                None => {
                    // Nobody closes it.
                    let permit = room.clone().acquire_owned().await.ok();
                    Start { at: Instant::now(), permit }
                }
            };
            self.tasks.spawn(connection::run(self.shared.clone(), index, proxies, start));
        }
        phase.over().await;
    }

    async fn trigger(&mut self, trigger: &Trigger) {
        let meters = self.shared.run.meters.clone();
        let changes = |name: &str| trigger.changes.is_empty() || trigger.changes.iter().any(|of| of == name);
        let places: Vec<usize> =
            self.plan.names.iter().enumerate().filter(|(_, name)| changes(name)).map(|(place, _)| place).collect();
        let only_bundles = places.iter().all(|place| meters.names[*place].kind.get() == Some(&Kind::ValidationContext));
        let kind = if only_bundles { PhaseKind::BundlePush } else { PhaseKind::LeafRotation };
        let holders: Vec<u64> = places.iter().map(|place| meters.names[*place].holders.load(Relaxed)).collect();
        let nobodys = places.iter().zip(&holders).find(|(_, holders)| **holders == 0).map(|(place, _)| *place);
        let phase = self.record.begin(kind, Concerns::Names(places), holders.iter().sum());
        match nobodys {
            Some(place) => self.nobody_waits(&phase, &format!("for another {}", self.plan.names[place])),
            None => {
                phase.since.get_or_init(|| phase.began);
                self.after(&trigger.command, &phase).await;
            }
        }
        self.end().await;
    }

    /// What nobody can reach has not passed. Where nobody is left, that has been told.
    fn nobody_waits(&self, phase: &Current, what: &str) {
        if self.readers() > 0 {
            let example = || format!("{}: nobody waits {what}", phase.name);
            self.shared.run.meters.fail("a phase that no proxy can reach", example);
        }
    }

    /// Waits for a command and for what it brings about; if it fails, for nothing more.
    async fn after(&self, command: &str, phase: &Current) {
        let brought_about = phase.over().map(Ok);
        // Whichever is wrong is in the results.
        let _ = futures::future::try_join(self.run_command(command), brought_about).await;
    }

    async fn run_command(&self, command: &str) -> Result<(), ()> {
        let ran = command::run(command, self.tasks).await;
        ran.map_err(|why| self.shared.run.meters.fail("a command failed", || why))
    }

    async fn await_new(&mut self, phase: PhaseKind, kind: Kind) {
        let names = self.shared.run.meters.names.iter().filter(|name| name.kind.get() == Some(&kind));
        let holders = names.map(|name| name.holders.load(Relaxed)).sum();
        let phase = self.record.begin(phase, Concerns::Kind(kind), holders);
        if holders == 0 {
            let of_kind = match kind {
                Kind::Certificate => "for another certificate",
                Kind::ValidationContext => "for another validation context",
            };
            self.nobody_waits(&phase, of_kind);
        }
        phase.over().await;
        self.end().await;
    }

    /// Proxies leave and come back, for as long as they are to, and then all of them have to be back.
    async fn churn(&mut self, rate: f64, lasts: Duration) {
        let phase = self.record.begin(PhaseKind::Churn, Concerns::Nothing, 0);
        let meters = &self.shared.run.meters;
        let _ = timeout(lasts, churn(ticks(rate), self.plan, &self.shared.nudges, meters, &phase)).await;
        if timeout(BACK, meters.all_back()).await.is_err() {
            meters.fail("not all are back after churn", || {
                format!("{} are not, after {} s{}", meters.away(), BACK.as_secs(), most_often(meters))
            });
        }
        self.end().await;
    }
}

/// From when one is timed that was `due` and begins `now`: the little that a timer is late is not the server's, all that
/// this program is late beyond it may well be.
fn began_at(due: Instant, now: Instant) -> Instant {
    now.min(due + TIMER_SLACK)
}

/// That many ticks a second; those that were missed are made up for.
fn ticks(rate: f64) -> tokio::time::Interval {
    let mut ticks = interval(Duration::from_secs_f64(1.0 / rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks
}
