//! Tokens that are not good any more, by their ids. Pure.

use std::collections::BTreeMap;
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
        let read = match (read, last) {
            (Ok(ids), Some(Ok(last))) => Ok(settling.believe(last, ids, now)),
            (read, _) => {
                settling.forget();
                read
            }
        };
        let (list, problem) = after(last, read);
        (Self::Everywhere(list), problem)
    }

    /// What follows on these when these are the mesh Secrets, of which those of this [pattern](MESH) are lists; and what is
    /// wrong with which mesh's.
    pub(super) fn after_secrets(&self, pattern: &str, secrets: &KnownSecrets) -> (Self, Vec<(Arc<str>, String)>) {
        let (nothing, nobody) = (BTreeMap::new(), Ok(Arc::default()));
        let (last, was_complete) = match self {
            Self::ByMesh { lists, complete } => (lists, *complete),
            Self::Never | Self::Everywhere(_) => (&nothing, false),
        };
        let mut lists = BTreeMap::new();
        let mut problems = Vec::new();
        let found = secrets.iter().filter_map(|(of, name, _)| Some((named(pattern, name)?, of)));
        for (mesh, of) in found.collect::<BTreeMap<_, _>>() {
            // Once all were known, a mesh without a Secret had revoked nobody.
            let last = last.get(mesh).or(was_complete.then_some(&nobody));
            let (content, problem) = match secrets.get(mesh, &name_for(pattern, mesh)) {
                Some(secret) => (secret.content(), secret.problem().map(ToString::to_string)),
                None => (None, Some(format!("it is of mesh {of:?} by its label kuma.io/mesh, which must be {mesh}"))),
            };
            let content = content.ok_or_else(|| problem.clone().unwrap_or_default());
            let (list, bad) = after(last, content.and_then(|content| parse(content.expose())));
            let mesh: Arc<str> = mesh.into();
            problems.extend(problem.or(bad).map(|problem| (mesh.clone(), problem)));
            lists.insert(mesh, list);
        }
        (Self::ByMesh { lists, complete: secrets.cluster != ClusterSecrets::Pending }, problems)
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
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::secrets::{MeshSecret, MeshSecrets, SecretBytes};

    const NAME: &str = "token-revocations-<mesh>";

    /// A Secret of mesh `of`, called after mesh `named`.
    fn key(of: &str, named: &str) -> (Arc<str>, Arc<str>) {
        (of.into(), name_for(NAME, named).into())
    }

    fn secrets(all: &[(&str, &[u8])]) -> Arc<MeshSecrets> {
        let secret = |(mesh, content): &(&str, &[u8])| (key(mesh, mesh), SecretBytes::new(content.to_vec()));
        Arc::new(all.iter().map(secret).collect())
    }

    fn listed(all: &[(&str, &[u8])]) -> ClusterSecrets {
        ClusterSecrets::Listed(secrets(all))
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
        let (mut settling, now) = (Settling::default(), Instant::now());
        let mut after = |last: &Revocations, content| last.after_file(content, &mut settling, now);
        let (first, problem) = after(&Revocations::Never, Err("no such file".to_owned()));
        assert!(problem.is_some());
        assert!(first.contain("default", "a").unwrap_err().ends_with("not known: no such file"));
        let (empty, _) = after(&first, Ok(Vec::new()));
        assert!(empty.contain("default", "a").unwrap_err().contains("it is empty"));
        let (good, problem) = after(&empty, Ok(b"a".to_vec()));
        assert_eq!(problem, None);
        assert_eq!((good.contain("default", "a"), good.contain("prod", "b")), (Ok(true), Ok(false)));
        for bad in [Err("no such file".to_owned()), Ok(vec![0xff]), Ok(Vec::new())] {
            let (kept, problem) = after(&good, bad);
            assert!(problem.is_some());
            assert_eq!(kept, good);
        }
    }

    #[test]
    fn half_a_file_lets_nobody_in_whom_the_other_half_revokes() {
        let (mut settling, start) = (Settling::default(), Instant::now());
        let mut last = Revocations::Never;
        let mut revoked = |content: &str, seconds: u64| {
            let (now, problem) =
                last.after_file(Ok(content.into()), &mut settling, start + Duration::from_secs(seconds));
            assert_eq!(problem, None);
            last = now;
            ["a", "b", "c"].map(|id| last.contain("default", id).unwrap())
        };
        assert_eq!(revoked("a b", 0), [true, true, false]);
        assert_eq!(revoked("c", 1), [true, true, true]);
        assert_eq!(revoked("c a b", 2), [true, true, true]);
        assert_eq!(revoked("# nobody", 3), [true, true, true]);
        assert_eq!(revoked("# nobody", 7), [true, true, true]);
        assert_eq!(revoked("# nobody", 8), [false, false, false]);
    }

    #[test]
    fn each_mesh_has_a_secret_of_its_own_name_and_one_that_is_another_mesh_s_is_told() {
        let known = |all: [(&str, &str, &[u8]); 2]| {
            let secret =
                |(of, named, content): (&str, &str, &[u8])| (key(of, named), SecretBytes::new(content.to_vec()));
            let all: MeshSecrets = all.into_iter().map(secret).collect();
            KnownSecrets { cluster: ClusterSecrets::Listed(Arc::new(all)), ..KnownSecrets::default() }
        };
        let both = known([("default", "default", b"a"), ("prod", "prod", b"b")]);
        let (good, problems) = nothing_yet().after_secrets(NAME, &both);
        assert_eq!(problems, []);
        for (mesh, revoked, other) in [("default", "a", "b"), ("prod", "b", "a")] {
            assert_eq!((good.contain(mesh, revoked), good.contain(mesh, other)), (Ok(true), Ok(false)));
        }
        // Without its label, a Secret is of mesh default: the list for prod must not silently be none.
        let stray = known([("default", "default", b"a"), ("default", "prod", b"b")]);
        let (first, problems) = nothing_yet().after_secrets(NAME, &stray);
        let told = "it is of mesh \"default\" by its label kuma.io/mesh, which must be prod";
        assert_eq!(problems, [("prod".into(), told.to_owned())]);
        assert!(first.contain("prod", "b").unwrap_err().ends_with(told));
        assert_eq!((first.contain("default", "a"), first.contain("default", "b")), (Ok(true), Ok(false)));
        assert_eq!(good.after_secrets(NAME, &stray).0.contain("prod", "b"), Ok(true), "the last good one stays");
    }

    #[test]
    fn a_secret_that_cannot_be_read_is_not_one_that_is_absent() {
        let known = |secret: MeshSecret| {
            let all = [(key("default", "default"), secret)].into_iter().collect();
            KnownSecrets { files: Arc::default(), cluster: ClusterSecrets::Listed(Arc::new(all)) }
        };
        let unreadable = |last: Option<&[u8]>| MeshSecret::Unreadable {
            why: "its data has no key `value`".into(),
            last: last.map(|last| SecretBytes::new(last.to_vec())),
        };
        // At the start nothing is known of who is revoked.
        let (first, problems) = nothing_yet().after_secrets(NAME, &known(unreadable(None)));
        assert!(first.contain("default", "a").unwrap_err().ends_with("its data has no key `value`"));
        assert_eq!((problems.len(), first.contain("prod", "a")), (1, Ok(false)));
        let still = first.after_secrets(NAME, &known(unreadable(None))).0;
        assert!(still.contain("default", "a").is_err(), "nothing has been read of it yet");
        // Later it is what it was, if that was only its absence.
        let (good, _) = still.after_secrets(NAME, &known(MeshSecret::Good(SecretBytes::new(b"a".to_vec()))));
        let (kept, problems) = good.after_secrets(NAME, &known(unreadable(Some(b"a"))));
        assert_eq!((kept.contain("default", "a"), problems.len()), (Ok(true), 1));
        let (none, _) = kept.after_secrets(NAME, &KnownSecrets { cluster: listed(&[]), ..KnownSecrets::default() });
        let (kept, problems) = none.after_secrets(NAME, &known(unreadable(None)));
        assert_eq!((kept.contain("default", "a"), problems.len()), (Ok(false), 1));
    }

    #[test]
    fn a_secret_is_of_its_mesh_and_nothing_is_assumed_before_all_are_listed() {
        let pending = KnownSecrets { files: secrets(&[("prod", b"a")]), cluster: ClusterSecrets::Pending };
        let (first, _) = nothing_yet().after_secrets(NAME, &pending);
        assert_eq!(first.contain("prod", "a"), Ok(true));
        assert!(first.contain("default", "a").unwrap_err().contains("not been listed"));

        let listed = |all| KnownSecrets { files: Arc::default(), cluster: listed(all) };
        let (second, problems) = first.after_secrets(NAME, &listed(&[("default", b"a b")]));
        assert_eq!(problems, []);
        assert_eq!((second.contain("default", "a"), second.contain("prod", "a")), (Ok(true), Ok(false)));
        // Another name is another Secret.
        assert_eq!(
            first.after_secrets("other-<mesh>", &listed(&[("default", b"a")])).0.contain("default", "a"),
            Ok(false)
        );

        let (third, problems) = second.after_secrets(NAME, &listed(&[("default", b"\xff"), ("prod", b"\xff")]));
        assert_eq!(problems.iter().map(|(mesh, _)| mesh.as_ref()).collect::<Vec<_>>(), ["default", "prod"]);
        assert_eq!(third.contain("default", "b"), Ok(true));
        // It had none before, and so has revoked nobody yet.
        assert_eq!(third.contain("prod", "b"), Ok(false));
        // Whoever deletes it says that nothing is revoked.
        assert_eq!(third.after_secrets(NAME, &listed(&[])).0.contain("default", "a"), Ok(false));
        let alone = KnownSecrets { files: Arc::default(), cluster: ClusterSecrets::NoCluster };
        assert_eq!(nothing_yet().after_secrets(NAME, &alone).0.contain("default", "a"), Ok(false));
    }
}
