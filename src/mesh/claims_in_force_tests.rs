//! Sets of policies that nobody has checked together.

use std::time::Duration;

use super::*;
use crate::model::policy::{Backend, BackendKind, BuiltinSettings, Selector};
use crate::model::template::PathTemplate;

fn backend(name: &Arc<str>) -> Arc<Backend> {
    Arc::new(Backend {
        name: name.clone(),
        leaf_lifetime: None,
        request_timeout: Duration::from_secs(10),
        trust_domain: "unimportant".into(),
        kind: BackendKind::Builtin(BuiltinSettings::default()),
    })
}

/// Meshes as text: `x+ web:p/wl` is the mesh `x` with classic mTLS on, and an identity policy `web` in the trust domain `p`,
/// with that fixed beginning of its path, and then the workload's name or, with a `*`, the proxy's; `-` has the default path.
fn policies(text: &str) -> PolicySet {
    let identity = |text: &str| {
        let (name, claim) = text.split_once(':').unwrap();
        let (domain, path) = claim.split_once('/').unwrap();
        let field = if path.ends_with('*') { "Name" } else { "Workload" };
        let prefix = path.trim_end_matches('*');
        let slash = if prefix.is_empty() { "" } else { "/" };
        let template = || PathTemplate::parse(&format!("{slash}{prefix}/{{{{ .{field} }}}}")).unwrap();
        let path = (path != "-").then(template);
        Arc::new(IdentityPolicy {
            name: name.into(),
            selector: Selector::Nobody,
            trust_domain: domain.into(),
            path,
            backend: format!("of-{name}").into(),
        })
    };
    let mesh = |text: &str| {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap();
        let mut policy = MeshPolicy::classic(name.trim_end_matches('+').into(), "ca".into(), Vec::new());
        if !name.ends_with('+') {
            policy.enabled_backend = None;
        }
        policy.identities = words.map(identity).collect();
        policy.backends = policy.identities.iter().map(|identity| backend(&identity.backend)).collect();
        (policy.name.clone(), Arc::new(policy))
    };
    PolicySet {
        meshes: text.split(',').filter(|text| !text.trim().is_empty()).map(mesh).collect(),
        ..PolicySet::default()
    }
}

#[test]
fn what_is_in_force_comes_first() {
    for (name, before, now, expected) in [
        ("nothing is shared", "x+ web:p/a", "x+ web:p/a, y+ web:q/a", None),
        ("the new one of two that share a domain", "y web:p/a", "x web:p/a, y web:p/a", Some("x of-web")),
        ("the new one, whichever comes first", "x web:p/a", "x web:p/a, y web:p/a", Some("y of-web")),
        ("both new: by mesh", "", "x web:p/a, y web:p/a", Some("y of-web")),
        ("a swap half way", "x web:p/a, y web:q/a", "x web:q/a, y web:q/a", Some("x of-web")),
        ("a new mesh with the name of a domain", "x web:q/a", "x web:q/a, q+", Some("q all")),
        ("a new domain with the name of a mesh", "q+", "x web:q/a, q+", Some("x of-web")),
        ("both new: the name wins", "", "x web:q/a, q+", Some("x of-web")),
        ("another path in a domain of its own", "x web:p/a", "x web:p/a api:p/b", None),
        ("a path that meets another", "x web:p/a", "x web:p/a api:p/a*", Some("x of-api")),
        ("a path that moves onto another", "x api:p/a web:p/b", "x api:p/a web:p/a*", Some("x of-web")),
        ("the mesh's own domain, and mTLS comes on", "x web:x/*", "x+ web:x/*", Some("x ca")),
        ("mTLS is on, and a default path comes", "x+", "x+ web:x/*", Some("x of-web")),
        ("the default path is the same workload's", "x+", "x+ web:x/-", None),
        ("another domain has no default paths", "x+", "x+ web:p/*", None),
    ] {
        let found = first_conflict(&policies(now), &policies(before), "zone");
        let shown = found
            .as_ref()
            .map(|Conflict { mesh, signer, .. }| format!("{mesh} {}", signer.as_deref().unwrap_or("all")));
        assert_eq!(shown.as_deref(), expected, "{name}: {found:?}");
    }
}

#[test]
fn a_conflict_says_with_what() {
    let reason = |before, now| first_conflict(&policies(now), &policies(before), "").unwrap().reason;
    let said = reason("x web:p/a", "x web:p/a, y web:p/a");
    assert_eq!(said, "the trust domain \"p\" is in force for mesh \"x\", by MeshIdentity \"web\"");
    let said = reason("q+", "x web:q/a, q+");
    assert_eq!(said, "the trust domain \"q\" is in force for mesh \"q\", by its name");
}
