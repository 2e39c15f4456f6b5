//! What is known to be good of every resource, in memory and over a restart: who edits a resource to something broken, or
//! lets a CA in it end, takes nothing from anybody when the server starts again, and who has held a trust domain holds it still.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::claims::{Claims, IdentityKey};
use super::gaps::Gaps;
use super::identity::IdentityDefinition;
use super::last_good::LastGood;
use super::policy::MeshDefinition;
use super::resource::Key;
use crate::model::diagnostic::Location;
use crate::model::policy::{Backend, IdentityPolicy, MeshPolicy, TrustAnchors};
use crate::model::secrets::SecretBytes;
use crate::runtime::state_dir::{StateDir, StateFile};

/// To be raised whenever [`Kept`] is written in another way.
const FORMAT: u32 = 1;

/// What was good the last time that [`compile`](super::compile()) ran, and in force as far as meshes and identity policies go;
/// empty at first.
#[derive(Debug, Clone, Default)]
pub struct KnownGood {
    pub(super) meshes: LastGood<Arc<str>, MeshDefinition>,
    pub(super) secrets: LastGood<(Arc<str>, Arc<str>), SecretBytes>,
    pub(super) identities: LastGood<IdentityKey, IdentityDefinition>,
    pub(super) trusts: LastGood<TrustKey, Arc<TrustAnchors>>,
    /// Of what is broken and has never been good.
    pub(super) gaps: Gaps,
}

/// Mesh and name of a MeshTrust.
pub(super) type TrustKey = (Arc<str>, Arc<str>);

impl KnownGood {
    /// Everything that there is has been compiled: what is broken when it appears after this takes nothing away from anybody.
    pub fn begin(&mut self) {
        self.gaps.begin();
    }

    /// Where a resource was seen last that something good is known of.
    pub(super) fn place(&self, key: &Key) -> Option<&Arc<PathBuf>> {
        match key {
            Key::Mesh(name) => self.meshes.place(name),
            Key::Secret { mesh, name } => self.secrets.place(&(mesh.clone(), name.clone())),
            Key::Identity { mesh, name } => self.identities.place(&(mesh.clone(), name.clone())),
            Key::Trust { mesh, name } => self.trusts.place(&(mesh.clone(), name.clone())),
        }
    }

    /// Who uses which SPIFFE IDs.
    pub(super) fn claims(&self) -> Claims {
        let is_enabled =
            |mesh: &MeshDefinition| mesh.policy.as_ref().is_some_and(|policy| policy.enabled_backend.is_some());
        Claims {
            meshes: self.meshes.iter().map(|(name, mesh)| (name.clone(), is_enabled(mesh))).collect(),
            identities: self.identities.iter().map(|(key, definition)| (key.clone(), definition.clone())).collect(),
            of_broken: self.gaps.claims.clone(),
            unread: self.gaps.may_hide_a_mesh(),
        }
    }

    /// The same of all resources.
    pub(super) fn places(&self) -> impl Iterator<Item = &Arc<PathBuf>> {
        let of_meshes = self.meshes.places().chain(self.secrets.places());
        of_meshes.chain(self.identities.places()).chain(self.trusts.places())
    }
}

/// The file that keeps it over a restart.
#[derive(Debug)]
pub(super) struct KnownGoodFile(StateFile);

/// What is written down. Mesh Secrets are not among it, and no private key either (see [`kept`](crate::model::kept)).
#[derive(Serialize, Deserialize)]
struct Kept {
    meshes: Vec<Of<Option<Arc<MeshPolicy>>>>,
    identities: Vec<Of<(Arc<IdentityPolicy>, Arc<Backend>)>>,
    trusts: Vec<Of<Arc<TrustAnchors>>>,
    gaps: Gaps,
}

/// What a resource says, and where it was seen last.
#[derive(Serialize, Deserialize)]
struct Of<T> {
    mesh: Arc<str>,
    seen_in: PathBuf,
    says: T,
}

impl KnownGoodFile {
    pub(super) fn in_folder(state_dir: &StateDir) -> Self {
        Self(StateFile::new(state_dir, "resources/last-good.json", "the last good version of resources", FORMAT))
    }

    /// What was known when the server ended.
    pub(super) fn recall(&mut self) -> KnownGood {
        let Some(Kept { meshes, identities, trusts, gaps }) = self.0.recall() else { return KnownGood::default() };
        let mesh = |Of { mesh, seen_in, says: policy }: Of<_>| {
            (mesh, seen_in, MeshDefinition { policy, off: None, references: Vec::new() })
        };
        let identity = |Of { mesh, seen_in, says: (policy, backend) }: Of<(Arc<IdentityPolicy>, _)>| {
            let resource = Some(format!("MeshIdentity {mesh}/{}", policy.name));
            let at = Location { file: Some(Arc::new(seen_in.clone())), resource, ..Location::default() };
            let (key, references) = ((mesh, policy.name.clone()), Vec::new());
            let (trust_domain_at, path_at) = (at.clone(), at);
            (key, seen_in, IdentityDefinition { policy, backend, references, trust_domain_at, path_at })
        };
        let trust = |Of { mesh, seen_in, says }: Of<Arc<TrustAnchors>>| ((mesh, says.name.clone()), seen_in, says);
        KnownGood {
            meshes: meshes.into_iter().map(mesh).collect(),
            secrets: LastGood::default(),
            identities: identities.into_iter().map(identity).collect(),
            trusts: trusts.into_iter().map(trust).collect(),
            gaps,
        }
    }

    /// This is known now.
    pub(super) fn keep(&mut self, known: &KnownGood) {
        fn of<T>(mesh: &Arc<str>, seen_in: &Path, says: T) -> Of<T> {
            Of { mesh: mesh.clone(), seen_in: seen_in.to_owned(), says }
        }
        let meshes = known.meshes.entries().map(|(name, file, mesh)| of(name, file, mesh.policy.clone()));
        let identities = known.identities.entries();
        let identities = identities
            .map(|((mesh, _), file, identity)| of(mesh, file, (identity.policy.clone(), identity.backend.clone())));
        let trusts = known.trusts.entries().map(|((mesh, _), file, anchors)| of(mesh, file, anchors.clone()));
        self.0.keep(&Kept {
            meshes: meshes.collect(),
            identities: identities.collect(),
            trusts: trusts.collect(),
            gaps: known.gaps.clone(),
        });
    }
}

#[cfg(test)]
#[path = "known_good_tests.rs"]
mod tests;
