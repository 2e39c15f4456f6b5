//! Which backends have passed, kept in the state directory: a restart asks nobody for anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::state::Test;
use crate::runtime::private_file;

/// See the module: for each signer the digest of the definition that was good last.
#[derive(Debug)]
pub(super) struct Passed(PathBuf);

impl Passed {
    /// Keeps its files under `state_dir`.
    pub(super) fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("preflight"))
    }

    /// Whether it was good when it was last tested. What cannot be read has not.
    pub(super) fn has(&self, test: &Test) -> bool {
        std::fs::read(self.file(&test.mesh, &test.backend)).is_ok_and(|kept| kept == test.digest.as_bytes())
    }

    /// It is good. A disk that is full costs a request at the next start, so it is only logged.
    pub(super) fn remember(&self, test: &Test) {
        let file = self.file(&test.mesh, &test.backend);
        if let Err(error) = private_file::write(&file, test.digest.as_bytes()) {
            tracing::warn!(%error, "that a backend has passed its preflight cannot be kept for the next start");
        }
    }

    /// It signs no more.
    pub(super) fn forget(&self, mesh: &Arc<str>, backend: &Arc<str>) {
        let file = self.file(mesh, backend);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(file = %file.display(), %error, "what is kept of a backend that is gone cannot be removed");
            }
            _ => {}
        }
    }

    fn file(&self, mesh: &str, backend: &str) -> PathBuf {
        self.0.join(private_file::name_of(mesh)).join(private_file::name_of(backend))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_passed_is_that_definition_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let test = |digest: &str| Test { mesh: "default".into(), backend: "ca".into(), digest: digest.into() };
        let passed = Passed::new(folder.path());
        assert!(!passed.has(&test("one")));
        passed.remember(&test("one"));
        let again = Passed::new(folder.path());
        assert!(again.has(&test("one")) && !again.has(&test("two")));
        again.forget(&"default".into(), &"ca".into());
        assert!(!passed.has(&test("one")));
    }
}
