//! Silence, removal, replacement and restarts, and what is trusted then.

use std::collections::BTreeSet;

use super::super::state::{Answer, SourceKey, TrustState};
use super::*;
use crate::model::policy::{BuiltinSettings, CaSource, IssuerRef, PolicySet};
use crate::testing::certs::{TestCa, timestamp};

const NOW: i64 = 1_800_000_000;

/// A mesh of these backends; each is `builtin`, `vault`, or the cert-manager issuer of that name.
fn policies(backends: &[(&str, &str)]) -> Arc<PolicySet> {
    let backend = |(name, kind): &(&str, &str)| {
        let kind = match *kind {
            "builtin" => BackendKind::Builtin(BuiltinSettings::default()),
            "vault" => BackendKind::NotInProgram("vault"),
            issuer => {
                let issuer = IssuerRef { name: issuer.into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
                BackendKind::CertManager { issuer, trust: CaSource::Issuer }
            }
        };
        Arc::new(Backend {
            name: (*name).into(),
            leaf_lifetime: Some(Duration::from_secs(3_600)),
            request_timeout: Duration::from_secs(10),
            trust_domain: "default".into(),
            kind,
        })
    };
    let policy = MeshPolicy::classic("default".into(), backends[0].0.into(), backends.iter().map(backend).collect());
    Arc::new(PolicySet { meshes: [("default".into(), Arc::new(policy))].into(), ..PolicySet::default() })
}

/// A server with this policy whose backends of these names say their CAs.
fn with(mut state: TrustState, backends: &[(&str, &str)], speak: &[(&str, &TestCa)]) -> TrustState {
    state.set_policies(policies(backends));
    for (backend, ca) in speak {
        let key: SourceKey = ("default".into(), (*backend).into());
        state.hear(&key, Answer::Good(Arc::new(ca.bundle())));
    }
    state.bundles(timestamp(NOW));
    state
}

fn start(backends: &[(&str, &str)], speak: &[(&str, &TestCa)]) -> TrustState {
    with(TrustState::default(), backends, speak)
}

fn restart(state: &TrustState, backends: &[(&str, &str)], speak: &[(&str, &TestCa)]) -> TrustState {
    with(TrustState::new(state.to_keep()), backends, speak)
}

fn trusted_at(state: &mut TrustState, at: i64) -> Vec<String> {
    let set = state.bundles(timestamp(at));
    let bundle = set.meshes.get("default").cloned();
    bundle.iter().flat_map(|bundle| bundle.certificates()).map(|ca| ca.subject()[3..].to_owned()).collect()
}

fn trusted(state: &mut TrustState) -> Vec<String> {
    trusted_at(state, NOW)
}

#[test]
fn what_is_taken_off_the_list_does_not_stay_because_another_is_silent() {
    let (old, stays, new) = (TestCa::root("Old"), TestCa::root("Stays"), TestCa::root("New"));
    let both = [("old", "builtin"), ("stays", "builtin")];
    let mut state = start(&both, &[("old", &old), ("stays", &stays)]);
    assert_eq!(trusted(&mut state), ["Old", "Stays"]);
    let mut state = with(state, &[("new", "silent"), ("stays", "builtin")], &[]);
    assert_eq!(trusted(&mut state), ["Stays"]);
    let mut state = with(state, &[("new", "silent")], &[]);
    assert_eq!(trusted(&mut state), ["Stays"], "nothing else is left");
    let mut state = with(state, &[("new", "silent")], &[("new", &new)]);
    assert_eq!(trusted(&mut state), ["New"]);
}

#[test]
fn a_backend_that_is_not_in_the_program_is_not_waited_for() {
    let backends = [("vault", "vault"), ("ca", "builtin")];
    assert_eq!(trusted(&mut start(&backends, &[("ca", &TestCa::root("CA"))])), ["CA"]);
    assert_eq!(trusted(&mut start(&backends[..1], &[])), [""; 0]);
}

#[test]
fn a_restart_with_the_same_resources_changes_nothing() {
    let (one, other) = (TestCa::root("One"), TestCa::root("Other"));
    let backends = [("one", "builtin"), ("other", "issuer")];
    let both = start(&backends, &[("one", &one), ("other", &other)]);
    assert_eq!(trusted(&mut restart(&both, &backends, &[])), ["One", "Other"], "both are silent");
    let mut again = restart(&both, &backends, &[("one", &one)]);
    assert_eq!(trusted(&mut again), ["One", "Other"]);
    again.hear(&("default".into(), "other".into()), Answer::Bad("away".into()));
    assert!(again.troubles().values().all(|trouble| trouble.has_last_good));

    // One that never spoke took nothing away before, and does not now.
    assert_eq!(trusted(&mut start(&backends, &[("one", &one)])), [""; 0], "nobody knows what it has signed");
    let alone = start(&backends[..1], &[("one", &one)]);
    let listed = with(alone, &backends, &[]);
    let mut again = restart(&listed, &backends, &[("one", &one)]);
    assert_eq!(trusted(&mut again), ["One"]);
    assert!(!again.bundles(timestamp(NOW)).known.contains(&("default".into(), "other".into())), "nor does it sign");

    // The only one was replaced, and its successor is silent.
    let replaced = with(both, &[("new", "silent")], &[]);
    assert_eq!(trusted(&mut restart(&replaced, &[("new", "silent")], &[])), ["One", "Other"]);
}

#[test]
fn resources_that_arrive_one_by_one_lose_nothing() {
    let (one, other) = (TestCa::root("One"), TestCa::root("Other"));
    let backends = [("one", "builtin"), ("other", "issuer")];
    let before = start(&backends, &[("one", &one), ("other", &other)]);
    let half = restart(&before, &backends[..1], &[("one", &one)]);
    assert_eq!(trusted(&mut with(restart(&half, &backends[..1], &[]), &backends, &[])), ["One", "Other"]);
    let mut certain = half;
    assert_eq!(trusted(&mut certain), ["One"]);
    certain.forget_others(&BTreeSet::new());
    assert_eq!(trusted(&mut with(certain, &backends, &[])), ["One"], "it was taken off the list");
}

#[test]
fn a_mesh_that_waits_for_a_source_keeps_what_it_had_though_all_others_are_forgotten() {
    let (one, other) = (TestCa::root("One"), TestCa::root("Other"));
    let before = start(&[("one", "builtin"), ("other", "issuer")], &[("one", &one), ("other", &other)]);
    let mut waits = restart(&before, &[("one", "builtin"), ("other", "another")], &[("one", &one)]);
    assert_eq!(trusted(&mut waits), [""; 0]);
    waits.forget_others(&BTreeSet::new());
    waits.hear(&("default".into(), "other".into()), Answer::Bad("away".into()));
    assert_eq!(trusted_at(&mut waits, NOW + 10), ["One", "Other"], "until its last leaf has ended");
}

#[test]
fn what_was_said_before_a_restart_is_not_lent_to_another() {
    let (one, other) = (TestCa::root("One"), TestCa::root("Other"));
    let before = start(&[("one", "builtin"), ("other", "issuer")], &[("one", &one), ("other", &other)]);
    assert_eq!(trusted(&mut restart(&before, &[("new", "builtin")], &[])), [""; 0]);
    let mut changed = restart(&before, &[("one", "builtin"), ("other", "another")], &[("one", &one)]);
    assert_eq!(trusted(&mut changed), [""; 0], "without it the bundle would cut peers off");
    changed.hear(&("default".into(), "other".into()), Answer::Bad("away".into()));
    assert_eq!(trusted_at(&mut changed, NOW + 10), ["One", "Other"], "until its last leaf has ended");
    let mut gone = restart(&before, &[("one", "builtin")], &[]);
    assert_eq!(trusted(&mut gone), ["One"]);
}

#[test]
fn a_ca_that_was_replaced_in_place_is_trusted_until_its_last_leaf_has_ended() {
    const HOUR: i64 = 3_600;
    let (old, new) = (TestCa::root("Old"), TestCa::root("New"));
    let first = start(&[("ca", "builtin")], &[("ca", &old)]);
    let issuer = [("ca", "issuer")];
    let mut state = with(first, &issuer, &[("ca", &new)]);
    assert_eq!(trusted(&mut state), ["New", "Old"]);
    let set = state.bundles(timestamp(NOW + 1));
    assert_eq!(set.added["default"], [(new.certificate().clone(), timestamp(NOW))]);
    let mut again = restart(&state, &issuer, &[("ca", &new)]);
    for state in [&mut state, &mut again] {
        assert_eq!(trusted_at(state, NOW + HOUR - 1), ["New", "Old"]);
        assert_eq!(trusted_at(state, NOW + HOUR + 1), ["New"]);
    }
    // It is the same when it was replaced while no server ran, and once more after that.
    let before = start(&[("ca", "builtin")], &[("ca", &old)]);
    let mut silent = restart(&before, &issuer, &[]);
    assert_eq!(trusted(&mut silent), [""; 0], "maybe another replica knows what it has signed");
    let mut state = with(silent, &issuer, &[("ca", &new)]);
    let mut again = restart(&state, &issuer, &[]);
    for state in [&mut state, &mut again] {
        assert_eq!(trusted_at(state, NOW + HOUR - 1), ["New", "Old"]);
        assert_eq!(trusted_at(state, NOW + HOUR + 1), ["New"]);
    }
    // Nobody comes in its place.
    let mut state = with(start(&[("ca", "builtin")], &[("ca", &old)]), &issuer, &[]);
    assert_eq!(trusted_at(&mut state, NOW + HOUR + 1), ["Old"], "nothing else is left");
    // To take it off the list is to trust it no more.
    let first = start(&[("ca", "builtin")], &[("ca", &old)]);
    let state = with(first, &issuer, &[("ca", &new)]);
    let third = TestCa::root("Third");
    assert_eq!(trusted(&mut with(state, &[("third", "builtin")], &[("third", &third)])), ["Third"]);
}

#[test]
fn a_mesh_that_starts_does_not_wait_for_ever_for_what_is_bad() {
    let (enabled, late) = (TestCa::root("Enabled"), TestCa::root("Late"));
    let backends = [("enabled", "builtin"), ("bad", "issuer"), ("awaited", "issuer")];
    let bad = |state: &mut TrustState| {
        state.hear(&("default".into(), "bad".into()), Answer::Bad("no such Secret".into()));
        state.hear(&("default".into(), "awaited".into()), Answer::Awaited("a list"));
    };
    let mut state = start(&backends, &[("enabled", &enabled)]);
    bad(&mut state);
    assert_eq!(trusted_at(&mut state, NOW + 1), [""; 0]);
    assert_eq!(state.look_again_at(), Some(timestamp(NOW + 10)));
    assert_eq!(trusted_at(&mut state, NOW + 10), [""; 0], "one may yet come");
    assert_eq!(state.look_again_at(), Some(timestamp(NOW + 60)));
    assert_eq!(trusted_at(&mut state, NOW + 60), ["Enabled"]);
    assert_eq!(state.look_again_at(), None);
    assert_eq!(state.troubles().len(), 2, "which is told");
    // It is new to peers when it comes.
    let mut state = with(state, &backends, &[("bad", &late)]);
    let set = state.bundles(timestamp(NOW + 60));
    assert_eq!(set.added["default"][0].0, *late.certificate());
    assert_eq!(trusted_at(&mut state, NOW + 60), ["Enabled", "Late"]);

    let mut state = start(&backends[..2], &[("enabled", &enabled)]);
    bad(&mut state);
    assert_eq!(trusted_at(&mut state, NOW + 9), [""; 0]);
    assert_eq!(trusted_at(&mut state, NOW + 10), ["Enabled"]);
    let mut state = start(&backends[..2], &[("bad", &late)]);
    assert_eq!(trusted_at(&mut state, NOW + 1_000), [""; 0], "without the enabled one everybody would be cut off");
}
