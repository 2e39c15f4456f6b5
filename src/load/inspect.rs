//! Checks what proxies have got, between phases, so that it costs no phase anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use jiff::Timestamp;

use super::check::{Bundles, Fault, Leaf, check};
use super::meters::{Meters, lock};
use super::plan::numbered;
use super::proxy::Kept;

/// What is to be checked, and against what.
#[derive(Debug, Clone)]
pub(crate) struct Inspection {
    pub(crate) kept: Arc<[Arc<Kept>]>,
    pub(crate) names: Arc<[Arc<str>]>,
    /// The SPIFFE ID that each has to get, with `{n}` for its number.
    pub(crate) expected: Option<Arc<str>>,
    /// Leaves whose SPIFFE ID was compared with that.
    pub(crate) compared: Arc<AtomicU64>,
    pub(crate) meters: Arc<Meters>,
}

impl Inspection {
    /// Checks what has come since it was done last, and whether what came before is good still.
    pub(crate) async fn run(&self, now: Timestamp) {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = self.kept.len().div_ceil(threads).max(1);
        let parts = (0..self.kept.len()).step_by(share).map(|first| {
            let (this, last) = (self.clone(), (first + share).min(self.kept.len()));
            tokio::task::spawn_blocking(move || {
                let mut bundles = Bundles::default();
                this.kept[first..last].iter().for_each(|kept| this.one(kept, &mut bundles, now));
            })
        });
        for part in futures::future::join_all(parts).await {
            if let Err(error) = part {
                self.meters.fail("a check did not come to its end", || error.to_string());
            }
        }
    }

    fn one(&self, kept: &Kept, bundles: &mut Bundles, now: Timestamp) {
        let (places, secrets): (Vec<usize>, Vec<(Arc<str>, Bytes)>) = {
            let mut secrets = lock(&kept.secrets);
            if !std::mem::take(&mut secrets.unchecked) {
                drop(secrets);
                self.run_out(kept, now);
                return;
            }
            let named = self.names.iter().zip(&secrets.latest).enumerate();
            named.filter_map(|(place, (name, secret))| Some((place, (name.clone(), secret.clone()?)))).unzip()
        };
        match check(&secrets, bundles, now) {
            Ok(leaves) => {
                leaves.into_iter().for_each(|(which, leaf)| self.identity(kept, places[which], leaf));
            }
            Err(Fault { what, detail }) => self.meters.fail(what, || format!("proxy {}: {detail}", kept.number)),
        }
    }

    /// A proxy is who it has to be, or who it was.
    fn identity(&self, kept: &Kept, place: usize, leaf: Leaf) {
        let (number, name, id) = (kept.number, &self.names[place], leaf.spiffe_id.clone());
        let before = lock(&kept.secrets).leaves[place].replace(leaf);
        if let Some(expected) = self.expected.as_ref().map(|template| numbered(template, number)) {
            self.compared.fetch_add(1, Relaxed);
            if *expected != *id {
                let example = || format!("proxy {number}: {name}: {id} instead of {expected}");
                return self.meters.fail("another identity than expected", example);
            }
        }
        if let Some(before) = before.filter(|before| before.spiffe_id != id) {
            let example = || format!("proxy {number}: {name}: from {} to {id}", before.spiffe_id);
            self.meters.fail("the identity changed", example);
        }
    }

    /// A leaf that was good when it came ends all the same, if no other has come in its place. Each is told once.
    fn run_out(&self, kept: &Kept, now: Timestamp) {
        if !kept.keeps_up {
            return;
        }
        for (name, leaf) in self.names.iter().zip(&mut lock(&kept.secrets).leaves) {
            if let Some(leaf) = leaf.take_if(|leaf| !leaf.validity.contains(now)) {
                let example = || format!("proxy {}: {name}: at {}", kept.number, leaf.validity.not_after);
                self.meters.fail("a leaf has run out", example);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::load::meters::{Concerns, Current};
    use crate::load::proxy::KeptSecrets;
    use crate::load::results::PhaseKind;
    use crate::model::certificate::Validity;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn leaf(id: &str) -> Leaf {
        Leaf { spiffe_id: id.into(), validity: Validity { not_before: at(100), not_after: at(200) } }
    }

    /// Of one proxy, which has this under two names.
    fn inspection(expected: Option<&str>, leaves: [Option<Leaf>; 2], keeps_up: bool) -> Inspection {
        let phase = Current::new(1, "rest".to_owned(), PhaseKind::Rest, Concerns::Nothing, 0);
        let secrets = KeptSecrets { latest: vec![None, None], leaves: leaves.to_vec(), unchecked: false };
        Inspection {
            kept: Arc::new([Arc::new(Kept { number: 7, keeps_up, secrets: Mutex::new(secrets) })]),
            names: Arc::new(["a", "b"].map(Arc::from)),
            expected: expected.map(Arc::from),
            compared: Arc::default(),
            meters: Arc::new(Meters::new(1, 2, 100, phase)),
        }
    }

    fn failures(inspection: &Inspection) -> Vec<(String, String)> {
        let failures = inspection.meters.failures().into_iter();
        failures.map(|failure| (failure.what, failure.example)).collect()
    }

    #[tokio::test]
    async fn a_leaf_that_runs_out_is_noticed_though_nothing_has_come() {
        let found = inspection(None, [None, Some(leaf("x"))], true);
        found.run(at(200)).await;
        assert!(failures(&found).is_empty());
        found.run(at(201)).await;
        found.run(at(202)).await;
        let expected = ("a leaf has run out".to_owned(), format!("proxy 7: b: at {}", at(200)));
        assert_eq!((failures(&found), found.meters.failed()), (vec![expected], 1), "and told once");
        let slow = inspection(None, [None, Some(leaf("x"))], false);
        slow.run(at(201)).await;
        assert!(failures(&slow).is_empty(), "who looks away cannot have another");
    }

    #[test]
    fn every_leaf_has_to_be_who_the_proxy_is() {
        let found = inspection(Some("web-{n}"), [None, None], true);
        found.identity(&found.kept[0], 0, leaf("other"));
        found.identity(&found.kept[0], 1, leaf("web-7"));
        let expected = "proxy 7: a: other instead of web-7";
        assert_eq!(failures(&found), [("another identity than expected".to_owned(), expected.to_owned())]);
        assert_eq!(found.compared.load(Relaxed), 2);

        let found = inspection(None, [Some(leaf("one")), Some(leaf("two"))], true);
        found.identity(&found.kept[0], 0, leaf("one"));
        assert!(failures(&found).is_empty(), "each name has one of its own");
        found.identity(&found.kept[0], 1, leaf("one"));
        assert_eq!(failures(&found), [("the identity changed".to_owned(), "proxy 7: b: from two to one".to_owned())]);
        assert_eq!(found.compared.load(Relaxed), 0);
    }
}
