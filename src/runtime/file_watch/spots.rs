//! Where paths lead, and what decides that.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::ops::Bound;
use std::path::{Component, Path, PathBuf};

/// As many links as Linux follows.
const MOST_LINKS: usize = 40;

/// What has to be watched for some paths. All paths in it are real ones: no link is on the way to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spots {
    /// Names that count in their folders: of the files and folders themselves, of links that lead to them, and, of those that
    /// are not there, of what is missing first.
    names: BTreeSet<PathBuf>,
    /// Folders in which every name counts.
    whole: BTreeSet<PathBuf>,
}

impl Spots {
    /// Those of `paths`, as the file system is now.
    pub(super) fn of<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        let mut spots = Self::default();
        paths.into_iter().for_each(|path| spots.follow(path));
        spots
    }

    /// Goes along a path name by name, as the kernel does, until it ends or something is missing.
    fn follow(&mut self, path: &Path) {
        let Ok(path) = std::path::absolute(path) else { return };
        let names = |path: &Path| path.components().rev().map(|name| name.as_os_str().to_owned()).collect::<Vec<_>>();
        let mut rest: Vec<OsString> = names(&path);
        let (mut here, mut links) = (PathBuf::new(), 0);
        while let Some(name) = rest.pop() {
            match Path::new(&name).components().next() {
                Some(Component::Normal(_)) => {}
                Some(Component::ParentDir) => {
                    here.pop();
                    continue;
                }
                Some(Component::RootDir) => {
                    here.push(name);
                    continue;
                }
                Some(Component::CurDir | Component::Prefix(_)) | None => continue,
            }
            let at = here.join(name);
            match std::fs::symlink_metadata(&at) {
                Ok(found) if found.is_dir() => here = at,
                Ok(found) if found.is_symlink() && links < MOST_LINKS => {
                    links += 1;
                    if let Ok(target) = std::fs::read_link(&at) {
                        rest.extend(names(&target));
                    }
                    self.names.insert(at);
                }
                _ => {
                    self.names.insert(at);
                    return;
                }
            }
        }
        self.names.insert(here.clone());
        self.whole.insert(here);
    }

    pub(super) fn extend(&mut self, others: Self) {
        self.names.extend(others.names);
        self.whole.extend(others.whole);
    }

    /// The folders in which all of that is.
    pub(super) fn folders(&self) -> BTreeSet<&Path> {
        let of_names = self.names.iter().filter_map(|name| name.parent());
        of_names.chain(self.whole.iter().map(PathBuf::as_path)).collect()
    }

    /// Whether what happens to `path` can make a difference.
    pub(super) fn concerns(&self, path: &Path) -> bool {
        self.awaits(path) || path.parent().is_some_and(|folder| self.whole.contains(folder))
    }

    /// Whether `path` is a name that counts, or on the way to one.
    pub(super) fn awaits(&self, path: &Path) -> bool {
        // Paths are in order by their components: what is below a path comes right after it.
        let mut after = self.names.range::<Path, _>((Bound::Included(path), Bound::Unbounded));
        after.next().is_some_and(|name| name.starts_with(path))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder's real path, and what is seen of `path` in it: names and whole folders, without the way to the folder.
    fn seen(folder: &Path, path: &str) -> (Vec<String>, Vec<String>) {
        let folder = folder.canonicalize().unwrap();
        let short = |paths: BTreeSet<PathBuf>| {
            let within = paths.iter().filter_map(|path| path.strip_prefix(&folder).ok());
            within.map(|path| path.display().to_string()).collect()
        };
        let spots = Spots::of([&folder.join(path)]);
        (short(spots.names), short(spots.whole))
    }

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn every_name_counts_that_decides_where_a_path_leads() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        std::fs::create_dir_all(at("conf/..one")).unwrap();
        std::fs::write(at("conf/plain.pem"), "").unwrap();
        std::fs::write(at("conf/..one/ca.pem"), "").unwrap();
        symlink("..one", at("conf/..data")).unwrap();
        symlink("..data/ca.pem", at("conf/ca.pem")).unwrap();
        symlink(at("away/x.pem"), at("conf/nowhere.pem")).unwrap();
        symlink("loop", at("loop")).unwrap();
        for (path, names, whole) in [
            ("conf/plain.pem", &["conf/plain.pem"][..], &[][..]),
            // As a kubelet mounts a ConfigMap.
            ("conf/ca.pem", &["conf/..data", "conf/..one/ca.pem", "conf/ca.pem"], &[]),
            ("conf/..data/ca.pem", &["conf/..data", "conf/..one/ca.pem"], &[]),
            ("conf/../conf/plain.pem", &["conf/plain.pem"], &[]),
            // What is missing first is awaited.
            ("conf/other.pem", &["conf/other.pem"], &[]),
            ("later/deep/ca.pem", &["later"], &[]),
            ("conf/nowhere.pem", &["away", "conf/nowhere.pem"], &[]),
            ("conf/plain.pem/ca.pem", &["conf/plain.pem"], &[]),
            ("conf", &["conf"], &["conf"]),
            ("loop", &["loop"], &[]),
        ] {
            assert_eq!(seen(folder.path(), path), (texts(names), texts(whole)), "{path}");
        }
    }

    #[test]
    fn what_is_on_the_way_counts_and_a_neighbour_only_in_a_whole_folder() {
        let spots = Spots { names: ["/a/b/c", "/w"].map(PathBuf::from).into(), whole: [PathBuf::from("/w")].into() };
        assert_eq!(spots.folders(), ["/", "/a/b", "/w"].map(Path::new).into());
        for (path, awaits, concerns) in [
            ("/a/b/c", true, true),
            ("/a/b", true, true),
            ("/a", true, true),
            ("/a/b/c2", false, false),
            ("/a/b/d", false, false),
            ("/a/b/c/d", false, false),
            ("/w", true, true),
            ("/w/any", false, true),
            ("/w/any/deeper", false, false),
        ] {
            assert_eq!((spots.awaits(Path::new(path)), spots.concerns(Path::new(path))), (awaits, concerns), "{path}");
        }
    }
}
