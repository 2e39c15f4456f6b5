//! Checks what proxies have got, between phases, so that it costs no phase anything.

use std::sync::Arc;

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
    pub(crate) meters: Arc<Meters>,
}

impl Inspection {
    /// Checks what has come since it was done last.
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
        let secrets: Vec<(Arc<str>, Bytes)> = {
            let mut secrets = lock(&kept.secrets);
            if !std::mem::take(&mut secrets.unchecked) {
                return;
            }
            let named = self.names.iter().zip(&secrets.latest);
            named.filter_map(|(name, secret)| Some((name.clone(), secret.clone()?))).collect()
        };
        let found = check(&secrets, bundles, now).and_then(|leaf| match leaf {
            Some(leaf) => self.identity(kept, leaf),
            None => Ok(()),
        });
        if let Err(Fault { what, detail }) = found {
            self.meters.fail(what, || format!("proxy {}: {detail}", kept.number));
        }
    }

    /// A proxy is who it has to be, or who it was.
    fn identity(&self, kept: &Kept, leaf: Leaf) -> Result<(), Fault> {
        let expected = self.expected.as_ref().map(|template| numbered(template, kept.number));
        let mut secrets = lock(&kept.secrets);
        let before = secrets.spiffe_id.replace(leaf.spiffe_id.clone());
        secrets.validity = Some(leaf.validity);
        if let Some(expected) = expected.filter(|expected| **expected != *leaf.spiffe_id) {
            let detail = format!("{} instead of {expected}", leaf.spiffe_id);
            return Err(Fault { what: "another identity than expected", detail });
        }
        if let Some(before) = before.filter(|before| *before != leaf.spiffe_id) {
            return Err(Fault { what: "the identity changed", detail: format!("from {before} to {}", leaf.spiffe_id) });
        }
        Ok(())
    }
}
