//! Which backends have passed, kept in the state directory: a restart asks nobody for anything.

use std::path::PathBuf;
use std::sync::Arc;

use super::state::Test;
use crate::runtime::private_file;
use crate::runtime::state_dir::StateDir;

/// See the module: for each signer the digest of the definition that was good last.
#[derive(Debug)]
pub(super) struct Passed(StateDir);

impl Passed {
    /// Keeps its files under `state_dir`.
    pub(super) fn new(state_dir: &StateDir) -> Self {
        Self(state_dir.clone())
    }

    /// Whether it was good when it was last tested. What cannot be read has not.
    pub(super) fn has(&self, test: &Test) -> bool {
        std::fs::read(self.file(&test.mesh, &test.backend)).is_ok_and(|kept| kept == test.digest.as_bytes())
    }

    /// It is good. A disk that is full costs a request at the next start, so it is only logged.
    pub(super) fn remember(&self, test: &Test) {
        let file = self.file(&test.mesh, &test.backend);
        self.0.write(&file, "that a backend has passed its preflight", test.digest.as_bytes());
    }

    /// It signs no more.
    pub(super) fn forget(&self, mesh: &Arc<str>, backend: &Arc<str>) {
        self.0.remove(&self.file(mesh, backend), "that a backend that is gone has passed its preflight");
    }

    fn file(&self, mesh: &str, backend: &str) -> PathBuf {
        let folder = self.0.path().join("preflight").join(private_file::name_of(mesh));
        folder.join(private_file::name_of(backend))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_passed_is_that_definition_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let test = |digest: &str| Test { mesh: "default".into(), backend: "ca".into(), digest: digest.into() };
        let folder = StateDir::new(folder.path());
        let passed = Passed::new(&folder);
        assert!(!passed.has(&test("one")));
        passed.remember(&test("one"));
        let again = Passed::new(&folder);
        assert!(again.has(&test("one")) && !again.has(&test("two")));
        again.forget(&"default".into(), &"ca".into());
        assert!(!passed.has(&test("one")));
    }
}
