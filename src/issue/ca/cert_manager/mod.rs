//! cert-manager as a CA: one `CertificateRequest` per leaf, one watch for all of them, none left behind.
//!
//! | file | purpose |
//! |---|---|
//! | `sign` | one call of `sign`: POST, wait, answer |
//! | `attempts` | what is known of each call's object; fed by the watch |
//! | `resource`, `observed`, `outcome` | what a request looks like, what the watch tells of it, and what that means |
//! | `pending` | what is waited for, for people |
//! | `cleanup`, `lease`, `sweep` | deleting ours, and what crashed servers have left |
//!
//! A pending request is never given up or made anew because of a timeout of ours: that is what turns an overload of
//! cert-manager into a livelock (csi-lib#47), and makes a billed CA sign again and again (aws-privateca-issuer#479).

mod attempts;
mod cleanup;
mod lease;
mod observed;
mod outcome;
mod pending;
mod resource;
mod shutdown;
mod sign;
mod sweep;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Once};
use std::time::Duration;

use aws_lc_rs::rand;
use kube::api::ObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use self::attempts::Attempts;
use self::cleanup::{Cleaner, Orders};
use self::lease::{Held, Renewal};
use self::observed::Observed;
pub use self::pending::{PendingBoard, PendingRequest};
use self::resource::Origin;
pub use self::sign::CertManagerAuthority;
use self::sweep::Sweep;
use crate::model::policy::IssuerRef;
use crate::runtime::clock::Clock;
use crate::runtime::cluster::Watch;
use crate::runtime::tasks::Tasks;

/// What the server has to do with cert-manager; one per server. Cheap to clone.
#[derive(Clone)]
pub struct CertManager(Arc<Shared>);

/// How requests are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where they are created, and where `Issuer`s are looked up by cert-manager.
    pub system_namespace: String,
    /// Stamped on them as the label `kuma.io/zone`, unless it is empty.
    pub zone: String,
    /// Intervals and bounds.
    pub timing: Timing,
}

/// Intervals and bounds of what happens in the background. The defaults are meant for everyone; tests change them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Bound on each call to the API server that no proxy waits for.
    pub api_call: Duration,
    /// How often the lease is renewed: two renewals may fail before others take this server for dead.
    pub lease_renewal: Duration,
    /// How soon a renewal that failed is tried again: soon enough to be back before a sweep that begins to count when
    /// the API server returns.
    pub lease_retry: Duration,
    /// No request is made under a lease older than this. Well below `dead_after`, since others may see it late.
    pub lease_fresh: Duration,
    /// How often requests of crashed servers are looked for: the cost is two small lists.
    pub sweep_every: Duration,
    /// A server whose lease has stood still for so long is dead: three renewals have failed.
    pub dead_after: Duration,
    /// A request of a dead server is left alone until it has been known for so long: its server may be coming back.
    pub orphan_after: Duration,
    /// First pause before a failed deletion is tried again; it doubles.
    pub delete_retry: Duration,
    /// The longest such pause.
    pub delete_retry_at_most: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            api_call: Duration::from_secs(10),
            lease_renewal: Duration::from_secs(10),
            lease_retry: Duration::from_secs(2),
            lease_fresh: Duration::from_secs(20),
            sweep_every: Duration::from_secs(15),
            dead_after: Duration::from_secs(30),
            orphan_after: Duration::from_secs(15),
            delete_retry: Duration::from_secs(1),
            delete_retry_at_most: Duration::from_secs(10),
        }
    }
}

/// Which object: a name may be given again, a uid never.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ObjectRef {
    name: String,
    uid: String,
}

impl ObjectRef {
    fn of(metadata: &ObjectMeta) -> Option<Self> {
        Some(Self { name: metadata.name.clone()?, uid: metadata.uid.clone()? })
    }
}

struct Shared {
    client: Client,
    origin: Origin,
    timing: Timing,
    clock: Clock,
    board: PendingBoard,
    attempts: Arc<Attempts>,
    lease: Held,
    /// Cancelled when shutdown begins: ends every call of `sign`.
    closing: CancellationToken,
    /// Run at the first use; see [`CertManager::authority`].
    start: Once,
    background: std::sync::Mutex<Option<Background>>,
}

/// What runs in the background once there is something to do.
struct Background {
    tasks: Tasks,
    orders: Orders,
    renewal: Renewal,
    cleaner: Cleaner,
}

impl CertManager {
    /// Nothing is called before the first [`CertManager::authority`].
    pub fn new(client: Client, settings: Settings, clock: Clock, tasks: &Tasks) -> Self {
        let Settings { system_namespace: namespace, zone, timing } = settings;
        let origin = Origin { namespace, zone, instance: random_id(8) };
        let (cleaner, orders) = Cleaner::new();
        let leases = Api::namespaced(client.clone(), &origin.namespace);
        let (renewal, lease) = Renewal::new(leases, origin.clone(), clock.clone(), timing);
        Self(Arc::new(Shared {
            client,
            timing,
            clock,
            board: PendingBoard::default(),
            attempts: Arc::new(Attempts::new(cleaner.clone())),
            lease,
            closing: CancellationToken::new(),
            start: Once::new(),
            background: Some(Background { tasks: tasks.clone(), orders, renewal, cleaner }).into(),
            origin,
        }))
    }

    /// The CA behind `issuer`. The first call starts the watch, the lease and the sweep, so that a server whose meshes
    /// use no cert-manager backend needs neither cert-manager nor its permissions.
    pub fn authority(&self, issuer: IssuerRef) -> CertManagerAuthority {
        self.0.start.call_once(|| {
            let background = self.0.background.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            if let Some(background) = background {
                self.0.start(background);
            }
        });
        CertManagerAuthority::new(self.0.clone(), issuer)
    }

    /// The requests that wait for cert-manager.
    pub fn pending(&self) -> PendingBoard {
        self.0.board.clone()
    }

    /// This process's id, as in the label `envoy-sds.io/instance`.
    pub fn instance(&self) -> &str {
        &self.0.origin.instance
    }

    /// Ends every call of `sign`, deletes all requests of this process, pending ones too, and gives up its lease; at
    /// most `deadline` long. What is left then is swept by other servers. Says whether nothing is left. To be called
    /// before or while [`Tasks::stop`] is.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        shutdown::run(&self.0, deadline).await
    }
}

impl Shared {
    fn start(&self, Background { tasks, orders, renewal, cleaner }: Background) {
        let (client, namespace) = (&self.client, self.origin.namespace.as_str());
        let own = watcher::Config::default().labels(&self.origin.own());
        let watch = Watch::of_lenient("CertificateRequests", Api::namespaced(client.clone(), namespace), own);
        tasks.spawn_essential("CertificateRequest watch", follow(watch, self.attempts.clone()));
        tasks.spawn_essential("lease", renewal.run());
        let requests = Api::namespaced(client.clone(), namespace);
        tasks.spawn_essential("CertificateRequest cleanup", orders.run(requests, self.timing));
        let sweep = Sweep {
            requests: Api::namespaced(client.clone(), namespace),
            leases: Api::namespaced(client.clone(), namespace),
            origin: self.origin.clone(),
            cleaner,
            timing: self.timing,
        };
        tasks.spawn_essential("CertificateRequest sweep", sweep.run());
    }
}

async fn follow(mut watch: Watch<Observed, Observed>, attempts: Arc<Attempts>) {
    loop {
        tokio::select! {
            () = attempts.relist_wanted() => watch.relist(),
            event = watch.next() => attempts.on_event(event),
        }
    }
}

impl fmt::Debug for CertManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertManager")
            .field("origin", &self.origin)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// `bytes` random bytes in hex, from the system's generator: two servers must never share an id.
fn random_id(bytes: usize) -> String {
    let mut id = vec![0; bytes];
    if rand::fill(&mut id).is_err() {
        // Cannot happen with aws-lc; the fallback is seeded by the system as well.
        id.fill_with(|| fastrand::u8(..));
    }
    hex::encode(id)
}
