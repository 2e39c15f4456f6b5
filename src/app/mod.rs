//! The composition root: makes the stages, joins them, and ends them in order.

pub mod check;
mod cluster_metrics;
mod cluster_secrets;
mod convert;
mod first_envoy;
mod gate;
mod identify;
mod known_secrets;
pub mod naming;
mod object_status;
mod problem_metrics;
mod resources;
mod server_metrics;
mod sockets;
mod trust_metrics;
mod trust_readiness;
mod without_meshes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::sync::{Mutex, watch};

use self::resources::Resources;
use self::sockets::Sockets;
use crate::admin::{self, Admin};
use crate::config::Config;
use crate::issue;
use crate::issue::announce::Announcer;
use crate::issue::ca::cert_manager::{self, CertManager, Timing};
use crate::issue::ca::{Authorities, LeftBehind};
use crate::issue::manager::{Manager, Subscription};
use crate::issue::preflight::{self, Preflight};
use crate::issue::worker::ManagerSettings;
use crate::mesh;
use crate::mesh::cluster::{tell_of_objects_elsewhere, watch_objects};
use crate::model::bundle::Bundle;
use crate::model::bundle_set::BundleSet;
use crate::model::diagnostic::{Location, Problem};
use crate::model::held::HeldLeaf;
use crate::model::identity::Identity;
use crate::model::preflight::Rules;
use crate::observe::readiness::Readiness;
use crate::runtime::clock::Clock;
use crate::runtime::cluster;
use crate::runtime::private_file;
use crate::runtime::state_dir::StateDir;
use crate::runtime::state_lock::StateLock;
use crate::runtime::tasks::{Deaths, Tasks};
use crate::runtime::watch_board::WatchBoard;
use crate::serve::listen::Lifetimes;
use crate::serve::source::{CertificateWatch, SecretSource};
use crate::serve::{self, SdsServer, ServeSettings, listen};
use crate::trust::store::{Sources, TrustStore};

/// How long streams may take to end at shutdown; spread, so that proxies do not all reconnect in the same moment.
const DRAIN: Duration = Duration::from_secs(2);

/// How long requests in the cluster may take to be deleted at shutdown; other servers sweep what is left.
const CLEANUP: Duration = Duration::from_secs(5);

/// How long everything may take to end.
const DEADLINE: Duration = Duration::from_secs(10);

/// A server that is running.
#[derive(Debug)]
pub struct App {
    listeners: Vec<String>,
    admin: SocketAddr,
    readiness: Readiness,
    tasks: Tasks,
    deaths: Mutex<Deaths>,
    cert_manager: Option<CertManager>,
    /// Until everything has ended.
    _state_lock: StateLock,
}

/// Why a server does not start.
#[derive(Debug)]
pub enum StartError {
    /// What the user wrote is wrong: every problem of it.
    Configuration(Vec<Problem>),
    /// Something else.
    Runtime(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for StartError {
    fn from(error: E) -> Self {
        Self::Runtime(error.into())
    }
}

impl App {
    /// Starts a server. When this returns, its sockets are open.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let clock = Clock::system();
        let (tasks, deaths) = Tasks::new();
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        let names = naming::names(&config.naming).map_err(StartError::Configuration)?;
        // Not every server needs it; whoever does and cannot write there says so.
        if let Err(error) = private_file::make_folder(&config.state_dir) {
            tracing::warn!(%error, "the state directory cannot be made");
        }
        let state_lock = StateLock::take(&config.state_dir)?;
        let state_dir = StateDir::new(&config.state_dir);
        let mode = convert::kubernetes(config.kubernetes);
        let kubernetes = cluster::connect(mode, config.kubeconfig.as_deref())
            .await
            .map_err(|error| wrong("kubernetes", error.to_string(), None))?;
        if kubernetes.is_none() && config.identify.service_account_token.is_some() {
            return Err(no_cluster_for("identify.serviceAccountToken"));
        }
        if kubernetes.is_none() && config.identify.asks_for_pods() {
            return Err(no_cluster_for("identify.unixPeer"));
        }
        let Sockets { envoys: bound, admin: admin_socket, metrics: metrics_socket } =
            sockets::bind(&config, &clock).await?;
        let admin_address = admin_socket.local_addr()?;
        let board = WatchBoard::new(clock.clone());
        let watch = |client| watch_objects(client, &config.system_namespace, &state_dir, &board, &tasks);
        let objects = kubernetes.as_ref().filter(|_| config.cluster_resources).map(watch);
        let resources = Resources::start(&config, kubernetes.is_some(), objects.clone(), &state_dir, &clock, &tasks)?;
        check::warn_of_named_files(&config, kubernetes.is_some(), &resources.problems.borrow(), &clock);
        for (field, mesh) in config.unknown_meshes(|mesh| resources.policies.borrow().meshes.contains_key(mesh)) {
            tracing::warn!("{field}: there is no mesh {mesh:?} yet");
        }

        let mut registry = Registry::with_prefix("envoy_sds");
        cluster_metrics::register(&mut registry, board.clone());
        let readiness = Readiness::new();
        server_metrics::register(&mut registry, &readiness, bound.certificates(), clock.clone());
        let cert_manager = kubernetes.clone().map(|client| {
            let settings = cert_manager::Settings {
                system_namespace: config.system_namespace.clone(),
                zone: config.zone.clone(),
                timing: Timing::default(),
            };
            CertManager::new(client, settings, clock.clone(), &tasks)
        });
        let cluster_secrets = kubernetes.clone().map(|client| {
            // What was in force may be in force again, though the resources want something else by now.
            let needed = config.identify.names_secrets() || preflight::recall(&state_dir).names_secrets();
            cluster_secrets::start(
                client,
                &config.system_namespace,
                resources.policies.clone(),
                needed,
                board.clone(),
                &tasks,
            )
        });
        let awaited = gate::Awaited {
            objects: resources.objects.clone(),
            policies: resources.policies.clone(),
            cluster_secrets: cluster_secrets.clone(),
        };
        let known = gate::start(&readiness, awaited, &tasks);
        let own_ca = without_meshes::start(&readiness, resources.without_meshes.clone(), &tasks);
        let secrets = known_secrets::start(resources.secrets.clone(), cluster_secrets, &tasks);
        let authorities =
            Authorities::new(config.state_dir.clone(), cert_manager.clone(), secrets.clone(), clock.clone());
        let authorities = Arc::new(authorities);
        let settings = preflight::Settings {
            wanted: resources.policies.clone(),
            known,
            secrets: secrets.clone(),
            authorities: authorities.clone(),
            pending: cert_manager.as_ref().map(CertManager::pending),
            rules: Rules { first_conflict: mesh::first_conflict, zone: config.zone.clone() },
            state_dir: state_dir.clone(),
            clock: clock.clone(),
        };
        // From here on, what counts is what is in force.
        let Preflight { in_force: policies, verdicts, decided } = Preflight::start(settings, &mut registry, &tasks);
        let complete = trust_readiness::complete(resources.complete.clone(), decided.clone(), &tasks);
        let left_behind = LeftBehind {
            wanted: resources.policies.clone(),
            in_force: policies.clone(),
            complete: complete.clone(),
            authorities: authorities.clone(),
            state_dir: state_dir.clone(),
            clock: clock.clone(),
        };
        tasks.spawn_essential("builtin CAs left behind", left_behind.run());
        let sources =
            Sources { policies: policies.clone(), secrets: secrets.clone(), complete, state_dir: state_dir.clone() };
        let trust = TrustStore::start(sources, clock.clone(), &tasks);
        trust_readiness::start(&readiness, &trust, &tasks);
        trust_metrics::register(&mut registry, trust.all(), policies.clone(), clock.clone());
        if let (Some(client), Some(objects)) = (kubernetes.clone(), objects) {
            tell_of_objects_elsewhere(&client, &config.system_namespace, &replica(), &tasks);
            object_status::start(client, objects, &resources, verdicts.clone(), &trust, &clock, &tasks);
        }

        let issue_metrics = issue::metrics::Metrics::new(&mut registry);
        let announcer = Announcer {
            authorities: authorities.clone(),
            roots: Arc::new(trust.clone()),
            clock: clock.clone(),
            metrics: issue_metrics.clone(),
        };
        tasks.spawn_essential("root announcer", announcer.run(policies.clone()));
        let settings = ManagerSettings {
            in_flight_limit: config.limits.issuances_in_flight,
            policies: policies.clone(),
            trust: trust.all(),
            authorities,
            roots: Arc::new(trust.clone()),
            state_dir: state_dir.clone(),
            clock: clock.clone(),
            metrics: issue_metrics,
        };
        let manager = Manager::start(settings, &tasks);
        manager.register(&mut registry, policies.clone(), clock.clone());

        let surroundings = identify::Surroundings {
            config: &config,
            kubernetes,
            policies: policies.clone(),
            secrets: secrets.clone(),
            clock: clock.clone(),
            board: board.clone(),
            tasks: &tasks,
        };
        let identify::Started { identifiers, problems: mut proof_problems } = identify::start(surroundings)?;
        proof_problems.extend(bound.problems());
        let problems = problem_metrics::Problems {
            resources: resources.problems.clone(),
            proofs: proof_problems.clone(),
            state: state_dir.troubles(),
            trust: trust.troubles(),
            policies: policies.clone(),
        };
        problem_metrics::register(&mut registry, problems);

        let listeners = bound.addresses().to_vec();
        let limits = convert::stream_limits(&config.limits);
        let serve_metrics = serve::metrics::Metrics::new(&mut registry);
        let sds = SdsServer::new(
            ServeSettings {
                limits,
                drain: DRAIN,
                replica: replica(),
                names,
                ads_resync: config.ads.resync,
                ..ServeSettings::default()
            },
            Arc::new(Secrets { manager: manager.clone(), trust: trust.clone() }),
            Arc::new(identifiers),
            serve_metrics.clone(),
            decided,
            clock.clone(),
            &tasks,
        );
        sds.roster().register(&mut registry);
        let registry = Arc::new(registry);
        let admin = Arc::new(Admin {
            readiness: readiness.clone(),
            host_names: std::iter::once(&config.admin.host).chain(&config.admin_host_names).cloned().collect(),
            listeners: listeners.clone(),
            policies,
            problems: resources.problems,
            proof_problems,
            state_troubles: state_dir.troubles(),
            cluster: board,
            verdicts,
            trust,
            manager,
            roster: sds.roster(),
            refusals: sds.refusals(),
            named_meshes: config.named_meshes(),
            own_ca,
            pending: cert_manager.as_ref().map(CertManager::pending),
            registry: registry.clone(),
        });
        let shutdown = tasks.shutdown().clone();
        if let Some(socket) = metrics_socket {
            let (address, shutdown) = (socket.local_addr()?, shutdown.clone());
            tracing::info!(%address, "metrics alone are served here");
            tasks.spawn_to_end(admin::http::serve_metrics(socket, registry, shutdown));
        }
        tasks.spawn_to_end(admin::http::serve(admin_socket, admin, shutdown));
        let lifetimes = Lifetimes { drain: DRAIN + Duration::from_secs(1), max_age: config.limits.max_connection_age };
        tasks.spawn_to_end(listen::serve(bound, sds, tasks.clone(), clock, lifetimes, serve_metrics));
        tracing::info!(?listeners, admin = %admin_address, version = env!("CARGO_PKG_VERSION"), "listening");
        let wanted = resources.policies.borrow().clone();
        if let Some(commands) = first_envoy::commands(&config, &listeners, wanted.meshes.keys().map(AsRef::as_ref)) {
            tracing::info!("to connect a first Envoy: {commands}");
        }
        Ok(Self {
            listeners,
            admin: admin_address,
            readiness,
            tasks,
            deaths: Mutex::new(deaths),
            cert_manager,
            _state_lock: state_lock,
        })
    }

    /// Where Envoys connect: `127.0.0.1:5678`, `unix:/path`.
    pub fn listeners(&self) -> &[String] {
        &self.listeners
    }

    /// Where operators look.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Waits until something dies without which the server is of no use, and says what.
    pub async fn died(&self) -> &'static str {
        self.deaths.lock().await.next().await
    }

    /// Stops accepting, ends streams, deletes what is pending in the cluster; at most for [`DEADLINE`]. Says whether
    /// everything has ended.
    pub async fn stop(self) -> bool {
        // Whoever watches the health hears of it before the connections end.
        let _blocker = self.readiness.block("shutdown", "shutting down");
        let cleanup = async {
            match &self.cert_manager {
                Some(cert_manager) => cert_manager.shutdown(CLEANUP).await,
                None => true,
            }
        };
        let (ended, clean) = tokio::join!(self.tasks.stop(DEADLINE), cleanup);
        if !clean {
            tracing::warn!("some CertificateRequests are left; the next server sweeps them");
        }
        if !ended {
            tracing::warn!("some tasks did not end within {DEADLINE:?}");
        }
        ended
    }
}

/// How operators tell this server from its siblings: its pod's name where that is handed to it, else its host's.
fn replica() -> String {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    set("POD_NAME").or_else(|| set("HOSTNAME")).unwrap_or_else(|| "envoy-sds".to_owned())
}

/// Secrets come from the certificate manager and the trust store.
#[derive(Debug)]
struct Secrets {
    manager: Manager,
    trust: TrustStore,
}

impl SecretSource for Secrets {
    fn certificate(&self, identity: &Identity, held: Option<&HeldLeaf>) -> CertificateWatch {
        let Subscription { current, shows_changes_only, interest } = self.manager.subscribe(identity, held);
        CertificateWatch { current, shows_changes_only, interest: Box::new(interest) }
    }

    fn trust_bundle(&self, mesh: &str) -> watch::Receiver<Option<Arc<Bundle>>> {
        self.trust.of(mesh)
    }

    fn trust_domains(&self, mesh: &str) -> watch::Receiver<Option<Arc<BundleSet>>> {
        self.trust.domains().watch(mesh)
    }

    fn has_trust_domain(&self, mesh: &str, trust_domain: &str) -> bool {
        self.trust.domains().contains(mesh, trust_domain)
    }
}

fn wrong(field: &str, what: String, hint: Option<&str>) -> StartError {
    let at = Location { field: Some(field.to_owned()), ..Location::default() };
    StartError::Configuration(vec![Problem { at, what, hint: hint.map(str::to_owned) }])
}

fn no_cluster_for(field: &str) -> StartError {
    let hint = "give --kubeconfig, set KUBECONFIG, or run in a pod";
    wrong(field, "needs Kubernetes, and there is no cluster".to_owned(), Some(hint))
}
