//! Tokens that are not good any more, by their ids. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::secrets::{ClusterSecrets, KnownSecrets, SecretLookup};
use crate::model::text::is_misleading;

/// The longest id: that of a token's `jti`.
const MAX_ID_BYTES: usize = 253;

/// Ids of tokens; or why they are not known.
type List = Result<Arc<BTreeSet<Box<str>>>, Arc<str>>;

/// What is revoked at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Revocations {
    /// There is no list.
    Never,
    /// One list for tokens of every mesh.
    Everywhere(List),
    /// A list for each mesh, from its Secret of one name.
    ByMesh {
        /// Of meshes that have such a Secret.
        lists: BTreeMap<Arc<str>, List>,
        /// Whether the other meshes have none: the Secrets of all sources are known.
        complete: bool,
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
            Self::ByMesh { lists, complete } => match (lists.get(mesh), complete) {
                (Some(list), _) => list,
                (None, true) => return Ok(false),
                (None, false) => {
                    return Err("which tokens are revoked is not known: the cluster's mesh Secrets have not been \
                                listed yet"
                        .to_owned());
                }
            },
        };
        match list {
            Ok(ids) => Ok(ids.contains(id)),
            Err(why) => Err(format!("which tokens are revoked is not known: {why}")),
        }
    }

    /// What follows on these when the file says `content`; and what is wrong with that.
    pub(super) fn after_file(&self, content: Result<Vec<u8>, String>) -> (Self, Option<String>) {
        let last = match self {
            Self::Everywhere(list) => Some(list),
            Self::Never | Self::ByMesh { .. } => None,
        };
        let (list, problem) = after(last, content.and_then(|content| parse(&content)));
        (Self::Everywhere(list), problem)
    }

    /// What follows on these when these are the mesh Secrets; and what is wrong with which mesh's.
    pub(super) fn after_secrets(&self, name: &str, secrets: &KnownSecrets) -> (Self, Vec<(Arc<str>, String)>) {
        let nothing = BTreeMap::new();
        let last = match self {
            Self::ByMesh { lists, .. } => lists,
            Self::Never | Self::Everywhere(_) => &nothing,
        };
        let in_cluster = match &secrets.cluster {
            ClusterSecrets::Listed(all) => Some(all.iter()),
            ClusterSecrets::NoCluster | ClusterSecrets::Pending => None,
        };
        let all = secrets.files.iter().chain(in_cluster.into_iter().flatten());
        let meshes: BTreeSet<&str> = all.filter(|(_, found, _)| *found == name).map(|(mesh, ..)| mesh).collect();
        let (mut lists, mut problems) = (BTreeMap::new(), Vec::new());
        for mesh in meshes {
            let SecretLookup::Found(content) = secrets.find(mesh, name) else { continue };
            let (list, problem) = after(last.get(mesh), parse(content.expose()));
            let mesh: Arc<str> = mesh.into();
            problems.extend(problem.map(|problem| (mesh.clone(), problem)));
            lists.insert(mesh, list);
        }
        (Self::ByMesh { lists, complete: secrets.cluster != ClusterSecrets::Pending }, problems)
    }
}

/// The new list if it is good, else the last one if that was; and what is wrong with the new one.
fn after(last: Option<&List>, new: Result<BTreeSet<Box<str>>, String>) -> (List, Option<String>) {
    match (new, last) {
        (Ok(ids), _) => (Ok(Arc::new(ids)), None),
        (Err(why), Some(Ok(last))) => (Ok(last.clone()), Some(why)),
        (Err(why), _) => (Err(why.as_str().into()), Some(why)),
    }
}

/// Reads ids between commas and white space; from `#` to the end of a line is a comment.
fn parse(content: &[u8]) -> Result<BTreeSet<Box<str>>, String> {
    let text = std::str::from_utf8(content).map_err(|error| format!("it is not UTF-8: {error}"))?;
    let mut ids = BTreeSet::new();
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
mod tests {
    use super::*;
    use crate::model::secrets::{MeshSecrets, SecretBytes};

    const NAME: &str = "token-revocations";

    fn secrets(all: &[(&str, &[u8])]) -> Arc<MeshSecrets> {
        let secret =
            |(mesh, content): &(&str, &[u8])| ((Arc::from(*mesh), Arc::from(NAME)), SecretBytes::new(content.to_vec()));
        Arc::new(all.iter().map(secret).collect())
    }

    fn nothing_yet() -> Revocations {
        Revocations::ByMesh { lists: BTreeMap::new(), complete: false }
    }

    #[test]
    fn ids_are_between_commas_and_white_space() {
        let text = "# those of March\na1,b2\tc3\r\n  d4 # e5\n,,\u{a0}f6\n#g7";
        let ids = parse(text.as_bytes()).unwrap();
        assert_eq!(ids.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["a1", "b2", "c3", "d4", "f6"]);
        assert!(parse(b"").unwrap().is_empty());
        for bad in [&b"a\nb\xff"[..], b"a\nb\0c", "a\n\u{feff}b".as_bytes(), "x".repeat(254).as_bytes()] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse(b"a\nb\0c").unwrap_err().starts_with("line 2"));
    }

    #[test]
    fn a_file_that_is_no_good_at_the_start_revokes_everything_and_later_nothing() {
        let (first, problem) = Revocations::Never.after_file(Err("no such file".to_owned()));
        assert!(problem.is_some());
        assert!(first.contain("default", "a").unwrap_err().ends_with("not known: no such file"));
        let (good, problem) = first.after_file(Ok(b"a".to_vec()));
        assert_eq!(problem, None);
        assert_eq!((good.contain("default", "a"), good.contain("prod", "b")), (Ok(true), Ok(false)));
        for bad in [Err("no such file".to_owned()), Ok(vec![0xff])] {
            let (kept, problem) = good.after_file(bad);
            assert!(problem.is_some());
            assert_eq!(kept, good);
        }
        assert_eq!(good.after_file(Ok(Vec::new())).0.contain("default", "a"), Ok(false));
    }

    #[test]
    fn a_secret_is_of_its_mesh_and_nothing_is_assumed_before_all_are_listed() {
        let pending = KnownSecrets { files: secrets(&[("prod", b"a")]), cluster: ClusterSecrets::Pending };
        let (first, _) = nothing_yet().after_secrets(NAME, &pending);
        assert_eq!(first.contain("prod", "a"), Ok(true));
        assert!(first.contain("default", "a").unwrap_err().contains("not been listed"));

        let listed = |all| KnownSecrets { files: Arc::default(), cluster: ClusterSecrets::Listed(secrets(all)) };
        let (second, problems) = first.after_secrets(NAME, &listed(&[("default", b"a b")]));
        assert_eq!(problems, []);
        assert_eq!((second.contain("default", "a"), second.contain("prod", "a")), (Ok(true), Ok(false)));
        // Another name is another Secret.
        assert_eq!(first.after_secrets("other", &listed(&[("default", b"a")])).0.contain("default", "a"), Ok(false));

        let (third, problems) = second.after_secrets(NAME, &listed(&[("default", b"\xff"), ("prod", b"\xff")]));
        assert_eq!(problems.iter().map(|(mesh, _)| mesh.as_ref()).collect::<Vec<_>>(), ["default", "prod"]);
        assert_eq!(third.contain("default", "b"), Ok(true));
        assert!(third.contain("prod", "b").unwrap_err().contains("UTF-8"));
        // Whoever deletes it says that nothing is revoked.
        assert_eq!(third.after_secrets(NAME, &listed(&[])).0.contain("default", "a"), Ok(false));
        let alone = KnownSecrets { files: Arc::default(), cluster: ClusterSecrets::NoCluster };
        assert_eq!(nothing_yet().after_secrets(NAME, &alone).0.contain("default", "a"), Ok(false));
    }
}
