//! Where paths lead, and what decides that.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::ops::Bound;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// As many links as Linux follows.
const MOST_LINKS: usize = 40;

/// Where one path leads, and what decides that. All paths in it are real ones: no link is on the way to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trail {
    /// Names that count in their folders: of the file or folder itself, of links that lead to it, and, if it is not there, of
    /// what is missing first.
    names: BTreeSet<PathBuf>,
    /// The folder that it leads to, if it leads to one: every name counts in it.
    whole: Option<PathBuf>,
}

impl Trail {
    /// That of `path`, as the file system is now.
    pub(super) fn of(path: &Path) -> Self {
        let mut trail = Self::default();
        trail.follow(path);
        trail
    }

    /// The folders in which all of that is.
    pub(super) fn folders(&self) -> BTreeSet<&Path> {
        let of_names = self.names.iter().filter_map(|name| name.parent());
        of_names.chain(self.whole.as_deref()).collect()
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
            count_look();
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
        self.whole = Some(here);
    }
}

/// What has to be watched for some paths, and for which of them.
#[derive(Debug, Default)]
pub(super) struct Spots {
    names: BTreeMap<PathBuf, BTreeSet<Arc<Path>>>,
    whole: BTreeMap<PathBuf, BTreeSet<Arc<Path>>>,
}

impl Spots {
    /// `path` goes along `now`, and not along `before` any more.
    pub(super) fn change(&mut self, path: &Arc<Path>, before: &Trail, now: &Trail) {
        let Self { names, whole } = self;
        before.names.iter().for_each(|name| take(names, name, path));
        before.whole.iter().for_each(|folder| take(whole, folder, path));
        now.names.iter().for_each(|name| put(names, name, path));
        now.whole.iter().for_each(|folder| put(whole, folder, path));
    }

    /// Whether what happens to `path` can make a difference.
    pub(super) fn concerns(&self, path: &Path) -> bool {
        self.awaits(path) || path.parent().is_some_and(|folder| self.whole.contains_key(folder))
    }

    /// Whether `path` is a name that counts, or on the way to one.
    pub(super) fn awaits(&self, path: &Path) -> bool {
        below(&self.names, path).next().is_some()
    }

    /// The paths that may lead elsewhere because of what has happened to `path`.
    pub(super) fn led_by(&self, path: &Path) -> impl Iterator<Item = &Arc<Path>> {
        below(&self.names, path).flat_map(|(_, led)| led)
    }
}

fn put(map: &mut BTreeMap<PathBuf, BTreeSet<Arc<Path>>>, at: &Path, path: &Arc<Path>) {
    map.entry(at.to_owned()).or_default().insert(path.clone());
}

fn take(map: &mut BTreeMap<PathBuf, BTreeSet<Arc<Path>>>, at: &Path, path: &Arc<Path>) {
    if let Some(led) = map.get_mut(at) {
        led.remove(path);
        if led.is_empty() {
            map.remove(at);
        }
    }
}

/// What `map` has for `path` and for what is below it.
pub(super) fn below<'m, V>(map: &'m BTreeMap<PathBuf, V>, path: &Path) -> impl Iterator<Item = (&'m PathBuf, &'m V)> {
    // Paths are in order by their components: what is below a path comes right after it.
    let after = map.range::<Path, _>((Bound::Included(path), Bound::Unbounded));
    after.take_while(move |(at, _)| at.starts_with(path))
}

#[cfg(test)]
thread_local! {
    /// How often this thread has asked the file system for something.
    pub(super) static LOOKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// For tests of what a change costs.
pub(super) fn count_look() {
    #[cfg(test)]
    LOOKS.set(LOOKS.get() + 1);
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
        let trail = Trail::of(&folder.join(path));
        (short(trail.names), short(trail.whole.into_iter().collect()))
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
        let trail = Trail { names: ["/a/b/c", "/w"].map(PathBuf::from).into(), whole: Some("/w".into()) };
        assert_eq!(trail.folders(), ["/", "/a/b", "/w"].map(Path::new).into());
        let (mut spots, path) = (Spots::default(), Path::new("/path").into());
        spots.change(&path, &Trail::default(), &trail);
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

    #[test]
    fn a_path_is_led_by_what_is_on_its_way_until_it_goes_another() {
        let to = |name: &str| Trail { names: [PathBuf::from(name)].into(), whole: None };
        let [one, two]: [Arc<Path>; 2] = ["/one", "/two"].map(|path| Path::new(path).into());
        let mut spots = Spots::default();
        spots.change(&one, &Trail::default(), &to("/a/b"));
        spots.change(&two, &Trail::default(), &to("/a/c"));
        let led = |spots: &Spots, by: &str| spots.led_by(Path::new(by)).cloned().collect::<Vec<_>>();
        assert_eq!(led(&spots, "/a"), [one.clone(), two.clone()]);
        assert_eq!(led(&spots, "/a/b"), std::slice::from_ref(&one));
        spots.change(&one, &to("/a/b"), &to("/a/c"));
        assert_eq!(led(&spots, "/a/b"), [], "it goes another way");
        spots.change(&two, &to("/a/c"), &Trail::default());
        assert_eq!(led(&spots, "/a/c"), [one], "the other has not left");
    }
}
