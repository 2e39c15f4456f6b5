//! Tokens that are not good any more, by their ids. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::settling::{Ids, Settling};
use crate::model::secrets::{ClusterSecrets, KnownSecrets};
use crate::model::text::is_misleading;

/// The longest id: that of a token's `jti`.
const MAX_ID_BYTES: usize = 253;

/// What stands for the mesh in the name of Secrets with lists: in a cluster, one Secret is one mesh's, so that each mesh
/// needs another name.
const MESH: &str = "<mesh>";

/// Why nothing is known of the meshes' Secrets.
const NOT_LISTED: &str = "the cluster's mesh Secrets have not been listed yet";

/// Ids, or why they are not known.
type List = Result<Arc<Ids>, Arc<str>>;

/// What is revoked at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Revocations {
    /// There is no list.
    Never,
    /// One list for tokens of every mesh.
    Everywhere(List),
    /// A list for each mesh, from the Secret that is called after it.
    ByMesh {
        /// Of meshes that have such a Secret.
        lists: BTreeMap<Arc<str>, List>,
        /// Why other meshes may have one too; none if the Secrets of all sources are known, or were once.
        unknown: Option<Arc<str>>,
    },
}

impl Revocations {
    /// Whether token `id` of `mesh` is revoked.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub(super) fn contain(&self, mesh: &str, id: &str) -> Result<bool, String> {
        let list = match self {
            Self::Never => return Ok(false),
            Self::Everywhere(list) => list,
            Self::ByMesh { lists, unknown } => match (lists.get(mesh), unknown) {
                (Some(list), _) => list,
                (None, None) => return Ok(false),
                (None, Some(why)) => return Err(format!("which tokens are revoked is not known: {why}")),
            },
        };
        match list {
            Ok(ids) => Ok(ids.contains(id)),
            Err(why) => Err(format!("which tokens are revoked is not known: {why}")),
        }
    }

    /// What follows on these when the file says `content` at `now`; and what is wrong with that.
    pub(super) fn after_file(
        &self,
        content: Result<Vec<u8>, String>,
        settling: &mut Settling,
        now: Instant,
    ) -> (Self, Option<String>) {
        let last = match self {
            Self::Everywhere(list) => Some(list),
            Self::Never | Self::ByMesh { .. } => None,
        };
        let read = content.and_then(|content| match content.as_slice() {
            // What is left of a file when somebody begins to write, or when the disk is full.
            [] => Err("it is empty; a list of nobody is a comment, such as # nobody".to_owned()),
            content => parse(content),
        });
        let (list, problem) = after(last, settled(last, read, settling, now));
        (Self::Everywhere(list), problem)
    }

    /// Before any mesh Secret is known.
    pub(super) fn of_no_mesh_yet() -> Self {
        Self::ByMesh { lists: BTreeMap::new(), unknown: Some(NOT_LISTED.into()) }
    }

    /// What follows on these when these are the mesh Secrets at `now`, of which those of this [pattern](MESH) are lists; and
    /// what is wrong with which mesh's.
    pub(super) fn after_secrets(
        &self,
        pattern: &str,
        secrets: &KnownSecrets,
        settling: &mut BTreeMap<Arc<str>, Settling>,
        now: Instant,
    ) -> (Self, Vec<(Arc<str>, String)>) {
        let (nothing, nobody) = (BTreeMap::new(), Ok(Arc::default()));
        let (last, was_complete) = match self {
            Self::ByMesh { lists, unknown } => (lists, unknown.is_none()),
            Self::Never | Self::Everywhere(_) => (&nothing, false),
        };
        // A Secret that is not seen may be in there.
        let unseen: Option<Arc<str>> = match (&secrets.cluster, secrets.files.gap()) {
            (ClusterSecrets::Pending, _) => Some(NOT_LISTED.into()),
            (_, gap) => gap.cloned(),
        };
        let found = secrets.iter().filter_map(|(of, name, _)| Some((named(pattern, name)?, of)));
        let found: BTreeMap<&str, &str> = found.collect();
        let meshes: BTreeSet<&str> = found.keys().copied().chain(last.keys().map(AsRef::as_ref)).collect();
        let mut lists = BTreeMap::new();
        let mut problems = Vec::new();
        for mesh in meshes {
            // Once all were known, a mesh without a Secret had revoked nobody.
            let last = last.get(mesh).or(was_complete.then_some(&nobody));
            let settling = settling.entry(mesh.into()).or_default();
            let Some(of) = found.get(mesh) else {
                if let (Some(why), Some(last)) = (&unseen, last) {
                    settling.forget();
                    lists.insert(mesh.into(), last.clone());
                    problems.push((mesh.into(), format!("it was there, and is not known to be gone: {why}")));
                } else {
                    lists.extend(without(last, settling, now).map(|list| (mesh.into(), list)));
                }
                continue;
            };
            let (content, problem) = match secrets.get(mesh, &name_for(pattern, mesh)) {
                Some(secret) => (secret.content(), secret.problem().map(ToString::to_string)),
                None => (None, Some(format!("it is of mesh {of:?} by its label kuma.io/mesh, which must be {mesh}"))),
            };
            let content = content.ok_or_else(|| problem.clone().unwrap_or_default());
            let read = content.and_then(|content| parse(content.expose()));
            let (list, bad) = after(last, settled(last, read, settling, now));
            let mesh: Arc<str> = mesh.into();
            problems.extend(problem.or(bad).map(|problem| (mesh.clone(), problem)));
            lists.insert(mesh, list);
        }
        settling.retain(|_, settling| settling.look_again_at().is_some());
        let unknown = unseen.filter(|_| !was_complete);
        problems
            .extend(unknown.as_ref().map(|why| (MESH.into(), format!("which tokens are revoked is not known: {why}"))));
        (Self::ByMesh { lists, unknown }, problems)
    }
}

/// What was read, as far as it is believed yet.
fn settled(
    last: Option<&List>,
    read: Result<Ids, String>,
    settling: &mut Settling,
    now: Instant,
) -> Result<Ids, String> {
    match (read, last) {
        (Ok(ids), Some(Ok(last))) => Ok(settling.believe(last, ids, now)),
        (read, _) => {
            settling.forget();
            read
        }
    }
}

/// The list of a mesh whose Secret is gone; none once it has been for a while.
fn without(last: Option<&List>, settling: &mut Settling, now: Instant) -> Option<List> {
    match last? {
        Ok(last) => {
            let ids = settling.believe(last, Ids::new(), now);
            (!ids.is_empty()).then(|| Ok(Arc::new(ids)))
        }
        Err(why) => (!settling.has_stayed(&Ids::new(), now)).then(|| Err(why.clone())),
    }
}

/// The name of the Secret of a mesh.
pub(super) fn name_for(pattern: &str, mesh: &str) -> String {
    pattern.replace(MESH, mesh)
}

/// The mesh in the name of a Secret.
fn named<'n>(pattern: &str, name: &'n str) -> Option<&'n str> {
    let (before, after) = pattern.split_once(MESH)?;
    name.strip_prefix(before)?.strip_suffix(after).filter(|mesh| !mesh.is_empty())
}

/// The new list if it is good, else the last one if that was; and what is wrong with the new one.
fn after(last: Option<&List>, new: Result<Ids, String>) -> (List, Option<String>) {
    match (new, last) {
        (Ok(ids), _) => (Ok(Arc::new(ids)), None),
        (Err(why), Some(Ok(last))) => (Ok(last.clone()), Some(why)),
        (Err(why), _) => (Err(why.as_str().into()), Some(why)),
    }
}

/// Reads ids between commas and white space; from `#` to the end of a line is a comment.
fn parse(content: &[u8]) -> Result<Ids, String> {
    let text = std::str::from_utf8(content).map_err(|error| format!("it is not UTF-8: {error}"))?;
    let mut ids = Ids::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        for id in line.split(|c: char| c == ',' || c.is_whitespace()).filter(|id| !id.is_empty()) {
            if id.len() > MAX_ID_BYTES || id.chars().any(|c| c.is_control() || is_misleading(c)) {
                return Err(format!(
                    "line {number} has something that is no token's id in it: it is too long, or has characters that cannot \
                     be shown"
                ));
            }
            ids.insert(id.into());
        }
    }
    Ok(ids)
}

#[cfg(test)]
#[path = "revocations_tests.rs"]
mod tests;
