//! Builtin CAs whose mesh or backend is gone. They stay where they are: a mesh that was deleted by mistake must not lose its
//! CA. So one that comes later under the same names has the CA of the one before, and that is told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::local::DATED_BACK;
use super::{Authorities, builtin_folder};
use crate::model::certificate::{Certificate, Validity};
use crate::model::policy::{BackendKind, PolicySet};
use crate::runtime::clock::Clock;
use crate::runtime::private_file;
use crate::runtime::state_dir::StateDir;

/// The file in a CA's folder that says since when nobody has it.
const UNUSED: &str = "unused-since";

/// Roots are dated to the second, and what people write to the minute at best.
const SAME_LIFETIME: SignedDuration = SignedDuration::from_mins(1);

/// Which builtin CAs the policies name: by folder.
type Used = BTreeMap<PathBuf, Named>;

/// One that is named.
#[derive(Debug)]
struct Named {
    mesh: Arc<str>,
    backend: Arc<str>,
    /// What `conf.caCert.expiration` says of a root that is made.
    root_lifetime: Duration,
}

/// Keeps account of the builtin CAs that are in the state directory and that nobody has.
#[derive(Debug)]
pub struct LeftBehind {
    /// The policies that the resources want.
    pub wanted: watch::Receiver<Arc<PolicySet>>,
    /// Those in force.
    pub in_force: watch::Receiver<Arc<PolicySet>>,
    /// Becomes true once these are all that there are, but for what they say themselves may be hidden.
    pub complete: watch::Receiver<bool>,
    /// Who has the CAs at hand.
    pub authorities: Arc<Authorities>,
    /// Where they are kept.
    pub state_dir: StateDir,
    /// The time.
    pub clock: Clock,
}

impl LeftBehind {
    /// Looks after them for as long as policies come.
    pub async fn run(mut self) {
        let mut ledger = Ledger { state_dir: self.state_dir.clone(), lifetimes: BTreeMap::new() };
        loop {
            // First: it is said after the policies are there.
            let is_complete = *self.complete.borrow_and_update();
            let (wanted, in_force) =
                (self.wanted.borrow_and_update().clone(), self.in_force.borrow_and_update().clone());
            let used = used(self.state_dir.path(), [&in_force, &wanted]);
            for notice in ledger.notices(&used) {
                tracing::warn!("{notice}");
            }
            if let Some(incomplete) = wanted.unserved.incomplete().filter(|_| is_complete) {
                for folder in ledger.leave(&used, &incomplete, self.clock.now()) {
                    self.authorities.forget_builtin(&folder);
                    let folder = folder.display();
                    tracing::info!(%folder, "no mesh has this builtin CA any more; it is kept for one of the same names");
                }
            }
            let changed = tokio::select! {
                changed = self.wanted.changed() => changed,
                changed = self.in_force.changed() => changed,
                changed = self.complete.changed(), if !is_complete => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }
}

/// The builtin CAs that some of `policies` name; the last of them has the say.
fn used<'p>(state_dir: &Path, policies: impl IntoIterator<Item = &'p Arc<PolicySet>>) -> Used {
    let mut used = Used::new();
    for (mesh, policy) in policies.into_iter().flat_map(|policies| &policies.meshes) {
        for backend in &policy.backends {
            if let BackendKind::Builtin(settings) = &backend.kind {
                let (mesh, backend) = (mesh.clone(), backend.name.clone());
                let folder = builtin_folder(state_dir, &mesh, &backend);
                used.insert(folder, Named { mesh, backend, root_lifetime: settings.root_lifetime });
            }
        }
    }
    used
}

/// What is in the state directory, and what was told of it.
struct Ledger {
    state_dir: StateDir,
    /// Which lifetimes the roots have been compared with.
    lifetimes: BTreeMap<PathBuf, Duration>,
}

impl Ledger {
    /// What is to be told of CAs that are used now: one had been left behind, another is not as it would be made.
    fn notices(&mut self, used: &Used) -> Vec<String> {
        self.lifetimes.retain(|folder, _| used.contains_key(folder));
        let mut notices = Vec::new();
        for (folder, Named { mesh, backend, root_lifetime }) in used {
            let renew = format!(
                "to have a new one made, stop the server, remove {}, and start it (peers that trust the old one refuse the new one)",
                folder.display()
            );
            let mark = folder.join(UNUSED);
            if let Ok(since) = std::fs::read_to_string(&mark) {
                notices.push(format!(
                    "backend {backend} of mesh {mesh} has the builtin CA that was made for one of these names before, and \
                     that nobody has had since {}: whoever has a leaf of that one is trusted; {renew}",
                    since.trim()
                ));
                self.state_dir.remove(&mark, "that a builtin CA is not used");
            }
            if self.lifetimes.get(folder) == Some(root_lifetime) {
                continue;
            }
            // One that is yet to be made will be as it is to be.
            let Some(Validity { not_before, not_after }) = root_validity(folder) else { continue };
            self.lifetimes.insert(folder.clone(), *root_lifetime);
            let lives = not_after.duration_since(not_before) - DATED_BACK;
            let wanted = SignedDuration::try_from(*root_lifetime).unwrap_or(SignedDuration::MAX);
            if (lives.saturating_sub(wanted)).abs() > SAME_LIFETIME {
                notices.push(format!(
                    "the builtin CA of backend {backend} of mesh {mesh} was made for {lives:#}, until {not_after}, and \
                     conf.caCert.expiration is {wanted:#} now: it counts when a CA is made; {renew}"
                ));
            }
        }
        notices
    }

    /// Notes of CAs that are not `used` that they are not since `now`, but for those of `incomplete` meshes, which may have
    /// more backends than is known. Gives those that had been until now.
    fn leave(&self, used: &Used, incomplete: &BTreeSet<Arc<str>>, now: Timestamp) -> Vec<PathBuf> {
        let all = self.state_dir.path().join("ca");
        let incomplete: BTreeSet<PathBuf> =
            incomplete.iter().map(|mesh| all.join(private_file::name_of(mesh))).collect();
        let meshes = folders(&all).into_iter().filter(|mesh| !incomplete.contains(mesh));
        let cas = meshes.flat_map(|mesh| folders(&mesh)).filter(|folder| !used.contains_key(folder));
        let left = cas.filter(|folder| folder.join("ca.crt").exists() && !folder.join(UNUSED).exists());
        left.filter(|folder| {
            let (mark, since) = (folder.join(UNUSED), format!("{now}\n"));
            self.state_dir.write(&mark, "that a builtin CA is not used", since.as_bytes())
        })
        .collect()
    }
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn root_validity(folder: &Path) -> Option<Validity> {
    let pem = std::fs::read(folder.join("ca.crt")).ok()?;
    Some(Certificate::many_from_pem(&pem).ok()?.first()?.validity())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issue::ca::AuthoritySource;
    use crate::model::policy::{Backend, BuiltinSettings, MeshPolicy};
    use crate::testing::certs::timestamp;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    fn backend(root_lifetime: Duration) -> Arc<Backend> {
        Arc::new(Backend {
            name: "ca".into(),
            leaf_lifetime: None,
            request_timeout: Duration::from_secs(10),
            trust_domain: "default".into(),
            kind: BackendKind::Builtin(BuiltinSettings { root_lifetime }),
        })
    }

    fn policies(meshes: &[&str], root_lifetime: Duration) -> Arc<PolicySet> {
        let mesh = |name: &&str| {
            let policy = MeshPolicy::classic((*name).into(), "ca".into(), vec![backend(root_lifetime)]);
            (policy.name.clone(), Arc::new(policy))
        };
        Arc::new(PolicySet { meshes: meshes.iter().map(mesh).collect(), ..PolicySet::default() })
    }

    struct Rig {
        folder: tempfile::TempDir,
        authorities: Authorities,
        ledger: Ledger,
    }

    impl Rig {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (_secrets, secrets) = watch::channel(Arc::default());
            let clock = Clock::fixed(timestamp(1_800_000_000));
            let authorities = Authorities::new(folder.path().to_owned(), None, secrets, clock);
            let ledger = Ledger { state_dir: StateDir::new(folder.path()), lifetimes: BTreeMap::new() };
            Self { folder, authorities, ledger }
        }

        /// The root of a mesh's CA.
        fn root(&self, mesh: &str) -> Certificate {
            self.authorities.own_root(mesh, &backend(YEAR)).unwrap().unwrap()
        }

        /// What is told, and the meshes whose CAs are left behind.
        fn look(&mut self, meshes: &[&str], lifetime: Duration, incomplete: &[&str]) -> (Vec<String>, Vec<String>) {
            let used = used(self.folder.path(), [&policies(meshes, lifetime)]);
            let notices = self.ledger.notices(&used);
            let incomplete = incomplete.iter().map(|mesh| Arc::from(*mesh)).collect();
            let left = self.ledger.leave(&used, &incomplete, timestamp(1_800_000_000));
            let mesh = |folder: &PathBuf| folder.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
            left.iter().for_each(|folder| self.authorities.forget_builtin(folder));
            (notices, left.iter().map(mesh).collect())
        }
    }

    #[test]
    fn a_ca_that_is_taken_up_again_is_told_of_and_a_new_one_is_made_where_it_was_removed() {
        let mut rig = Rig::new();
        let (first, _) = (rig.root("default"), rig.root("other"));
        let nothing = || (vec![], vec![]);
        assert_eq!(rig.look(&["default", "other"], YEAR, &[]), nothing());
        assert_eq!(rig.look(&["other"], YEAR, &["default"]), nothing(), "it may be there");
        assert_eq!(rig.look(&["other"], YEAR, &[]), (vec![], vec!["default".to_owned()]));
        assert_eq!(rig.look(&["other"], YEAR, &[]), nothing());
        // After a restart as well.
        rig.ledger.lifetimes.clear();
        let (notices, left) = rig.look(&["default", "other"], YEAR, &[]);
        let [notice] = notices.as_slice() else { panic!("{notices:?}") };
        assert!(notice.contains("since 2027-01-15T08:00:00Z: whoever has a leaf of that one is trusted"), "{notice}");
        assert_eq!((left.len(), rig.root("default")), (0, first.clone()));
        assert_eq!(rig.look(&["default", "other"], YEAR, &[]), nothing(), "it is told once");

        rig.look(&["other"], YEAR, &[]);
        std::fs::remove_dir_all(rig.folder.path().join("ca/default")).unwrap();
        assert_eq!(rig.look(&["default", "other"], YEAR, &[]), nothing());
        assert_ne!(rig.root("default"), first);
    }

    #[test]
    fn a_lifetime_that_the_root_does_not_have_is_told_once() {
        let mut rig = Rig::new();
        assert_eq!(rig.look(&["default"], YEAR, &[]).0, [""; 0], "there is none yet");
        rig.root("default");
        assert_eq!(rig.look(&["default"], YEAR, &[]).0, [""; 0]);
        let (notices, _) = rig.look(&["default"], 2 * YEAR, &[]);
        assert!(notices.len() == 1 && notices[0].contains("conf.caCert.expiration is"), "{notices:?}");
        assert_eq!(rig.look(&["default"], 2 * YEAR, &[]).0, [""; 0]);
    }
}
