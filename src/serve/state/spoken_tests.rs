//! Requests in both variants of the protocol, as the client of the random interleavings makes them.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;
use crate::serve::wire::{DeltaDiscoveryRequest, DiscoveryRequest, ErrorDetail};

/// What a client says in one request.
pub(super) struct Said<'a> {
    /// What it wanted until now, and from now on.
    pub(super) before: &'a BTreeSet<&'static str>,
    pub(super) now: &'a BTreeSet<&'static str>,
    /// Of what it wanted before, what it asks for once more.
    pub(super) again: &'a BTreeSet<&'static str>,
    /// The versions that it has.
    pub(super) holds: &'a BTreeMap<&'static str, Version>,
    pub(super) nonce: &'a str,
    pub(super) version: &'a str,
    pub(super) error: Option<ErrorDetail>,
    pub(super) type_url: &'a str,
}

/// A variant of the protocol, as its clients speak it.
pub(super) trait Spoken: Machine {
    /// Names are asked for one by one: again if the client says so, and a removal answers what is unknown.
    const BY_NAME: bool;

    fn say(said: Said<'_>) -> Self::Request;

    fn removed(&mut self, _at: Duration) -> Option<(Vec<Arc<str>>, String)> {
        None
    }
}

fn owned<'a>(names: impl IntoIterator<Item = &'a &'static str>) -> Vec<String> {
    names.into_iter().map(|name| (*name).to_owned()).collect()
}

impl Spoken for sotw::State {
    const BY_NAME: bool = false;

    fn say(said: Said<'_>) -> DiscoveryRequest {
        DiscoveryRequest {
            version_info: said.version.to_owned(),
            resource_names: owned(said.now),
            type_url: said.type_url.to_owned(),
            response_nonce: said.nonce.to_owned(),
            error_detail: said.error,
            ..Default::default()
        }
    }
}

impl Spoken for delta::State {
    const BY_NAME: bool = true;

    fn say(said: Said<'_>) -> DeltaDiscoveryRequest {
        let versions = said.holds.iter().map(|(name, version)| ((*name).to_owned(), version.to_string()));
        DeltaDiscoveryRequest {
            type_url: said.type_url.to_owned(),
            resource_names_subscribe: owned(said.now.difference(said.before).chain(said.again)),
            resource_names_unsubscribe: owned(said.before.difference(said.now)),
            initial_resource_versions: versions.collect(),
            response_nonce: said.nonce.to_owned(),
            error_detail: said.error,
            ..Default::default()
        }
    }

    fn removed(&mut self, at: Duration) -> Option<(Vec<Arc<str>>, String)> {
        self.next_removal(at).map(|removal| (removal.names, removal.nonce))
    }
}
