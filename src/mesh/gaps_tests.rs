use super::*;
use crate::document;
use crate::mesh::tests::now;
use crate::mesh::{Compiled, Context, KnownGood, Source, compile};
use crate::model::policy::PolicySet;

const GOOD: &str = "mtls: {enabledBackend: b, backends: [{name: b, type: builtin}]}";
const BROKEN: &str = "mtls: {enabledBackend: nonsense}";

/// A file for each of these, and what comes of them.
fn compiled(files: &[(&str, &str)], known: &mut KnownGood) -> Compiled {
    let context = Context {
        kubernetes_available: false,
        system_namespace: "system".to_owned(),
        zone: String::new(),
        read_file: None,
        now: now(),
    };
    let source = |(path, text): &(&str, &str)| Source {
        path: Arc::new(path.into()),
        documents: document::parse(text).map_err(|_errors| Vec::new()),
    };
    compile(&files.iter().map(source).collect::<Vec<_>>(), &context, known)
}

fn mesh(name: &str, mtls: &str) -> String {
    format!("{{type: Mesh, name: {name}, {mtls}}}")
}

/// Served, off, waiting and unread, as text.
fn shown(set: &PolicySet) -> String {
    let names = |names: Vec<&Arc<str>>| names.into_iter().map(|name| &**name).collect::<Vec<_>>().join(" ");
    let Unserved { off, waiting, unread, .. } = &set.unserved;
    let (served, off) = (names(set.meshes.keys().collect()), names(off.iter().collect()));
    format!("{served}|{off}|{}|{}", names(waiting.iter().collect()), unread.as_deref().unwrap_or_default())
}

#[test]
fn what_may_be_a_mesh_is_told_until_it_is_mended() {
    let good = mesh("payments", GOOD);
    let identity = "{type: MeshIdentity, name: i, mesh: modern, spec: {provider: {type: None}}}";
    for (other, expected) in [
        (mesh("default", GOOD), "default payments|||"),
        (mesh("default", BROKEN), "payments||default|"),
        ("{type: Mesh, name: default}".to_owned(), "payments|default||"),
        ("type: [".to_owned(), "payments|||other"),
        ("{type: Mesh}".to_owned(), "payments|||other"),
        (identity.to_owned(), "payments||modern|"),
        ("{type: MeshTrust, name: t}".to_owned(), "payments|||"),
    ] {
        let mut known = KnownGood::default();
        for _ in 0..2 {
            let result = compiled(&[("one", &good), ("other", &other)], &mut known);
            assert_eq!(shown(&result.resources.policies), expected, "{other}");
            known.begin();
        }
        let mended = compiled(&[("one", &good), ("other", &mesh("default", GOOD))], &mut known);
        assert_eq!(shown(&mended.resources.policies), "default payments|||", "{other}");
        let gone = compiled(&[("one", &good)], &mut known);
        assert_eq!(shown(&gone.resources.policies), "payments|||", "{other}");
    }
}

#[test]
fn what_is_plainly_none_of_ours_hides_nothing_and_is_told() {
    let good = mesh("payments", GOOD);
    for (other, hides) in [
        ("{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}", false),
        ("{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}", false),
        ("{apiVersion: kuma.io/v1alpha1, kind: MeshTrafficPermission, metadata: {name: p}}", false),
        ("{type: MeshTrafficPermission, name: p, mesh: payments}", false),
        ("{type: MeshTrace, name: t}", false),
        ("{kind: ConfigMap}", false),
        ("{apiVersion: appmesh.k8s.aws/v1beta2, kind: Mesh}", false),
        ("{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}]}", false),
        ("{apiVersion: kuma.io/v1alpha1, kind: Mesh}", true),
        ("{apiVersion: kuma.oi/v1alpha1, kind: Mesh}", true),
        ("{apiVersion: v1, kind: Secrets, metadata: {name: s}}", true),
        ("{kind: Mehs, metadata: {name: default}}", true),
        ("{type: mesh, name: default}", true),
        ("{type: 7, name: default}", true),
        ("{type: '', name: default}", true),
        ("{metadata: {name: default}, type: ConfigMap}", true),
        ("{kind: ConfigMap, type: Mesh, name: default}", true),
        ("{apiVersion: v1, kind: List, items: }", true),
        ("{apiVersion: v1, kind: List, items: [{kind: Mesh}]}", true),
        ("{apiVersion: kuma.io/v1alpha1, kind: MeshList, items: []}", true),
        ("{name: default}", true),
        ("[a]", true),
    ] {
        let mut known = KnownGood::default();
        let result = compiled(&[("one", &good), ("other", other)], &mut known);
        let expected = if hides { "payments|||other" } else { "payments|||" };
        assert_eq!(shown(&result.resources.policies), expected, "{other}");
        assert_eq!(known.gaps.may_hide_a_mesh().is_some(), hides, "{other}");
        assert_ne!(result.problems, [], "{other}");
        // A mesh may be what it has been made of.
        known.begin();
        let result = compiled(&[("one", other)], &mut known);
        assert_eq!(result.resources.policies.meshes.len(), 1, "{other}");
    }
}

#[test]
fn what_is_broken_when_it_appears_takes_nothing_away() {
    let good = mesh("payments", GOOD);
    let mut known = KnownGood::default();
    compiled(&[("one", &good)], &mut known);
    known.begin();
    let identity = "{type: MeshIdentity, name: i, mesh: payments, spec: {selector: {dataplane: {}}}}";
    for other in [&mesh("default", BROKEN), "type: [", identity] {
        let result = compiled(&[("one", &good), ("other", other)], &mut known);
        assert_eq!(shown(&result.resources.policies), "payments|||", "{other}");
        assert_eq!(result.resources.policies.meshes["payments"].identities, []);
    }
}

#[test]
fn a_gap_that_cannot_be_seen_any_more_stays_one() {
    let good = mesh("payments", GOOD);
    let mut known = KnownGood::default();
    compiled(&[("one", &good), ("other", &mesh("default", BROKEN))], &mut known);
    known.begin();
    for (other, expected) in [("type: [", "payments||default|"), ("{type: Mesh, name: x}", "payments|x||")] {
        let result = compiled(&[("one", &good), ("other", other)], &mut known);
        assert_eq!(shown(&result.resources.policies), expected, "{other}");
    }
}

#[test]
fn nobody_signs_for_whom_a_broken_identity_policy_selects() {
    let bundled = "{type: Bundled, bundled: {insecureAllowSelfSigned: true, autogenerate: {enabled: true}}}";
    let identity = |name: &str, provider: &str, selector: &str| {
        let path = if name == "z" { "/z/{{ .Workload }}" } else { "/other/{{ .Workload }}" };
        format!(
            "{{type: MeshIdentity, name: {name}, mesh: m, spec: {{selector: {selector}, spiffeID: {{path: '{path}'}}, \
             provider: {provider}}}}}"
        )
    };
    let front = BTreeMap::from([("tier".into(), "front".into()), ("app".into(), "web".into())]);
    // The signer's name of a proxy with these labels, beside classic mTLS; `z` selects all with `app: web`.
    for (selector, provider, expected) in [
        ("{dataplane: {matchLabels: {tier: front, app: web}}}", bundled, Some("MeshIdentity/a")),
        ("{dataplane: {matchLabels: {tier: front, app: web}}}", "{type: None}", None),
        ("{dataplane: {matchLabels: {tier: front, app: web}, more: 1}}", bundled, None),
        ("{dataplane: {matchLabels: {tier: back}}}", "{type: None}", Some("MeshIdentity/z")),
        ("{}", "{type: None}", Some("MeshIdentity/z")),
        // Who is selected by another one is not kept waiting by what may be anything.
        ("[]", bundled, Some("MeshIdentity/z")),
        ("{dataplane: {matchLabels: {tier: 1}}}", bundled, Some("MeshIdentity/z")),
    ] {
        let mut known = KnownGood::default();
        let z = identity("z", bundled, "{dataplane: {matchLabels: {app: web}}}");
        let files =
            [("m", mesh("m", GOOD)), ("a", identity("a", provider, selector)), ("z", z)].map(|(at, text)| (at, text));
        let files = files.each_ref().map(|(at, text)| (*at, text.as_str()));
        let result = compiled(&files, &mut known);
        let policy = &result.resources.policies.meshes["m"];
        let selected = policy.identity_for(&front).map(|identity| &*identity.name);
        let signer = policy.signer(selected).map(|backend| &*backend.name);
        assert_eq!(signer, expected, "{selector} {provider} {:?}", result.problems);
    }
}

#[test]
fn who_might_be_selected_has_no_weaker_identity_and_the_rest_is_left_alone() {
    let unreadable = "{type: MeshIdentity, name: a, mesh: m, spec: {selector: 7, provider: {type: None}}}";
    let (one, two) = (mesh("m", GOOD), mesh("n", GOOD));
    let mut known = KnownGood::default();
    let result = compiled(&[("m", &one), ("n", &two), ("a", unreadable)], &mut known);
    let meshes = &result.resources.policies.meshes;
    let signer = |mesh: &str| {
        let policy = &meshes[mesh];
        let selected = policy.identity_for(&BTreeMap::new()).map(|identity| &*identity.name);
        policy.signer(selected).map(|backend| backend.name.to_string())
    };
    assert_eq!((signer("m"), signer("n").as_deref()), (None, Some("b")));
    assert!(result.notices.iter().any(|notice| notice.what.contains("nobody can tell whom it selects")));
    // Once it is good, it is as if it had been so from the start; broken again, it keeps that.
    let good = "{type: MeshIdentity, name: a, mesh: m, spec: {selector: {}, provider: {type: Bundled, bundled: \
                {insecureAllowSelfSigned: true, autogenerate: {enabled: true}}}, spiffeID: {path: '/id/{{ .Workload }}'}}}";
    for text in [good, unreadable] {
        let result = compiled(&[("m", &one), ("n", &two), ("a", text)], &mut known);
        let policy = &result.resources.policies.meshes["m"];
        assert!(policy.identity_for(&BTreeMap::new()).is_none(), "{text}");
    }
}

#[test]
fn a_mesh_without_a_mesh_resource_is_told_and_served() {
    let bundled = "{type: Bundled, bundled: {insecureAllowSelfSigned: true, autogenerate: {enabled: true}}}";
    let identity = format!("{{type: MeshIdentity, name: i, mesh: typo, spec: {{provider: {bundled}}}}}");
    let good = mesh("payments", GOOD);
    let result = compiled(&[("one", &good), ("other", &identity)], &mut KnownGood::default());
    assert_eq!(shown(&result.resources.policies), "payments typo|||");
    assert_eq!(result.problems, []);
    let told: Vec<_> = result.notices.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("other:1: MeshIdentity typo/i: ") && told[0].contains("no Mesh defines mesh \"typo\""));
    let both = compiled(&[("one", &mesh("typo", GOOD)), ("other", &identity)], &mut KnownGood::default());
    assert_eq!(both.notices, []);
}

/// What is kept of it is not to be taken for that of a mesh that is gone.
#[test]
fn a_mesh_that_is_served_and_broken_in_part_may_have_more_backends() {
    let bundled = "{type: Bundled, bundled: {insecureAllowSelfSigned: true, autogenerate: {enabled: true}}}";
    let identity = format!("{{type: MeshIdentity, name: i, mesh: default, spec: {{provider: {bundled}}}}}");
    let files = |mtls: &str| [mesh("default", mtls), mesh("payments", BROKEN)];
    let incomplete = |mtls: &str| {
        let [one, other] = files(mtls);
        let sources = [("one", one.as_str()), ("other", other.as_str()), ("identity", identity.as_str())];
        let result = compiled(&sources, &mut KnownGood::default());
        assert!(result.resources.policies.meshes.contains_key("default"));
        result.resources.policies.unserved.incomplete().unwrap().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(incomplete(GOOD), ["payments".into()]);
    assert_eq!(incomplete(BROKEN), ["default".into(), "payments".into()]);
}
