//! One function for each kind of bytes that strangers send. The targets in `fuzz/` give them whatever a fuzzer comes up
//! with; the test below gives them what is kept in `fuzz/corpus/`, so that what was found once is tried each time. They
//! panic where something is wrong, and return nothing otherwise.
//!
//! To add one: a line in [`TARGETS`], a line in `fuzz/fuzz_targets/`, a folder in `fuzz/corpus/`.

use jiff::Timestamp;

use crate::identify::{proxy_token, service_account};
use crate::model::bundle::Bundle;
use crate::serve::fuzzing;

/// The name of a target, which is that of its corpus, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("sotw", fuzzing::sotw),
    ("delta", fuzzing::delta),
    ("names", fuzzing::names),
    ("tokens", tokens),
    ("bundles", bundles),
    ("versions", fuzzing::versions),
];

/// Runs the target called `name` on `data`.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.unwrap_or_else(|| unreachable!("no such target: {name}"));
    target(data);
}

/// An authorization header: the bearer token in it, and what is read of a service account token and of a proxy token before
/// anybody verifies it.
fn tokens(data: &[u8]) {
    if let Some(token) = fuzzing::authorization(data) {
        assert!(!token.expose().is_empty());
        // No panic is all that is asked of it.
        let _ = service_account::read_unverified(token.expose());
        let _ = proxy_token::read_unverified(token.expose());
    }
}

/// CA certificates as users and issuers write them. What is accepted survives being written and read again.
fn bundles(data: &[u8]) {
    let now = Timestamp::UNIX_EPOCH;
    let Ok(parsed) = Bundle::from_pem(data, now) else { return };
    assert!(!parsed.bundle.certificates().is_empty());
    let again = Bundle::from_pem(parsed.bundle.pem().as_bytes(), now);
    let again = again.unwrap_or_else(|error| unreachable!("not read again: {error}"));
    assert_eq!(again.bundle.digest(), parsed.bundle.digest());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
    }

    fn names(folder: &Path) -> BTreeSet<String> {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = folder("corpus").join(target);
        names(&folder).iter().map(|name| std::fs::read(folder.join(name)).unwrap()).collect()
    }

    #[test]
    fn every_target_has_a_corpus_that_it_survives() {
        let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names(&folder("corpus")), targets);
        let programs: BTreeSet<String> = targets.iter().map(|name| format!("{name}.rs")).collect();
        assert_eq!(names(&folder("fuzz_targets")), programs);
        for (name, target) in TARGETS {
            let inputs = corpus(name);
            assert!(inputs.len() >= 3, "{name}");
            inputs.iter().for_each(|input| target(input));
        }
    }

    /// Cuts, doubles and changes what is in the corpora: little beside a real fuzzer, but it runs each time.
    fn mutate(mut input: Vec<u8>, changes: &[(usize, u8, u8)]) -> Vec<u8> {
        for (at, how, byte) in changes {
            let at = at % (input.len() + 1);
            match how % 4 {
                0 => input.truncate(at),
                1 => input.insert(at, *byte),
                2 => input.extend_from_within(at..),
                _ => {
                    if let Some(here) = input.get_mut(at) {
                        *here ^= byte;
                    }
                }
            }
            input.truncate(1 << 20);
        }
        input
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn nor_does_anything_like_it_hurt(
            seed in any::<prop::sample::Index>(),
            changes in prop::collection::vec((0usize..4096, any::<u8>(), any::<u8>()), 1..6),
        ) {
            for (name, target) in TARGETS {
                let inputs = corpus(name);
                target(&mutate(seed.get(&inputs).clone(), &changes));
            }
        }
    }
}
