mod hostile;

use super::instance::NODE_ID_CHARS;
use super::*;
use crate::identify::standing::{Standing, Stands};
use crate::model::identity::{Instance, Pod, Workload};
use crate::model::policy::{IdentityPolicy, MeshPolicy, Selector};
use crate::model::template::PathTemplate;
use crate::model::unserved::Unserved;

/// Meshes of classic mTLS.
pub(crate) fn policies(meshes: &[&str]) -> PolicySet {
    let policy = |name: &str| MeshPolicy::classic(name.into(), "".into(), Vec::new());
    set(meshes.iter().map(|name| policy(name)))
}

fn set(meshes: impl IntoIterator<Item = MeshPolicy>) -> PolicySet {
    PolicySet {
        meshes: meshes.into_iter().map(|mesh| (mesh.name.clone(), Arc::new(mesh))).collect(),
        ..PolicySet::default()
    }
}

fn labels<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Labels {
    labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

/// A `MeshIdentity` that selects proxies with all of these labels.
fn identity_policy(name: &str, selected: &[(&str, &str)], domain: &str, path: Option<&str>) -> Arc<IdentityPolicy> {
    Arc::new(IdentityPolicy {
        name: name.into(),
        selector: Selector::Labels(labels(selected.iter().copied())),
        trust_domain: domain.into(),
        path: path.map(|path| PathTemplate::parse(path).unwrap()),
        backend: "ca".into(),
    })
}

/// A mesh without classic mTLS.
fn modern(name: &str, identities: Vec<Arc<IdentityPolicy>>) -> MeshPolicy {
    MeshPolicy { enabled_backend: None, identities, ..MeshPolicy::classic(name.into(), "".into(), Vec::new()) }
}

fn kubernetes(namespace: &str, account: &str) -> Workload {
    Workload { namespace: Some(namespace.into()), service_account: Some(account.into()), ..Workload::default() }
}

fn in_pod(namespace: &str, account: &str, pod: &str) -> Workload {
    Workload { pod: Some(Pod { name: pod.into(), uid: "u1".into() }), ..kubernetes(namespace, account) }
}

fn named(name: &str) -> Workload {
    Workload { name: Some(name.into()), ..Workload::default() }
}

fn proof(mesh: Option<&str>, workload: Workload) -> Proof {
    Proof { method: "test", mesh: mesh.map(str::to_owned), workload, ..Proof::default() }
}

fn node(id: &str) -> NodeClaim {
    NodeClaim { id: id.to_owned(), ..NodeClaim::default() }
}

/// What the server has read in the cluster.
#[derive(Debug)]
struct Read(Facts);

impl Stands for Read {
    fn facts(&self) -> Result<Facts, IdentifyError> {
        Ok(self.0.clone())
    }

    fn changes(&self) -> futures::stream::BoxStream<'static, ()> {
        Box::pin(futures::stream::pending())
    }
}

fn read(mesh: Option<&str>, read: &[(&str, &str)]) -> Standing {
    let facts = Facts { mesh: mesh.map(Into::into), labels: Arc::new(labels(read.iter().copied())) };
    Standing::on(Arc::new(Read(facts)))
}

fn decided(proof: &Proof, policies: &PolicySet, rules: &Rules) -> Result<Identity, String> {
    identity(proof, &node("n"), policies, rules, "east").map_err(|error| error.to_string())
}

fn id(proof: &Proof, policies: &PolicySet) -> Result<String, String> {
    decided(proof, policies, &Rules::default()).map(|identity| identity.spiffe_id.to_string())
}

#[track_caller]
fn expect<T: PartialEq<str> + std::fmt::Debug>(got: Result<T, String>, expected: Result<&str, &str>) {
    match (got, expected) {
        (Ok(got), Ok(expected)) => assert_eq!(&got, expected),
        (Err(error), Err(part)) => assert!(error.contains(part), "{part:?} is not in {error:?}"),
        (got, expected) => panic!("{got:?}, expected {expected:?}"),
    }
}

#[test]
fn the_mesh_and_the_default_id() {
    let web = || kubernetes("shop", "web");
    for (mesh, workload, meshes, expected) in [
        (None, web(), &["default"][..], Ok("spiffe://default/ns/shop/sa/web")),
        (None, web(), &["prod"], Ok("spiffe://prod/ns/shop/sa/web")),
        (None, web(), &["default", "prod"], Ok("spiffe://default/ns/shop/sa/web")),
        (Some("prod"), web(), &["default", "prod"], Ok("spiffe://prod/ns/shop/sa/web")),
        (None, named("web"), &["default"], Ok("spiffe://default/web")),
        (None, named("web.v1"), &["default"], Ok("spiffe://default/web.v1")),
        (None, Workload { name: Some("x".into()), ..web() }, &["default"], Ok("spiffe://default/ns/shop/sa/web")),
        (
            Some("gone"),
            web(),
            &["default", "prod"],
            Err("no mesh \"gone\" with mTLS on, which its proof of identity names; known: d"),
        ),
        (None, web(), &["east", "west"], Err("known: east, west")),
        (None, web(), &[], Err("no mesh has mTLS enabled yet")),
        (None, Workload::default(), &["default"], Err("names no workload")),
        (None, named(""), &["default"], Err("names no workload")),
        (None, kubernetes("shop", ""), &["default"], Err("names no workload")),
        (None, Workload { service_account: None, name: Some("web".into()), ..web() }, &["default"], Err("no workload")),
        (None, named("."), &["default"], Err("SPIFFE ID")),
        (None, named(".."), &["default"], Err("SPIFFE ID")),
        (None, named("ns/shop/sa/web"), &["default"], Err("SPIFFE ID")),
        (None, named("web?x"), &["default"], Err("SPIFFE ID")),
        (None, named("wéb"), &["default"], Err("SPIFFE ID")),
        (None, named(&"x".repeat(2048)), &["default"], Err("SPIFFE ID")),
        (None, kubernetes("shop/sa/root", "web"), &["default"], Err("SPIFFE ID")),
        (None, kubernetes("..", "web"), &["default"], Err("SPIFFE ID")),
        (None, web(), &["Default"], Err("lower case")),
        (None, web(), &["spiffe://default"], Err("lower case")),
        (None, web(), &["a/b"], Err("SPIFFE ID")),
    ] {
        expect(id(&proof(mesh, workload), &policies(meshes)), expected);
    }
}

#[test]
fn all_that_name_a_mesh_must_agree() {
    let meshes = || {
        let prod = identity_policy("id", &[("app", "web")], "prod.example", None);
        let classic = |name: &str| MeshPolicy::classic(name.into(), "".into(), Vec::new());
        set([MeshPolicy { identities: vec![prod], ..classic("prod") }, classic("test")])
    };
    for (token, domain, label, default, expected) in [
        (Some("prod"), None, None, None, Ok("prod")),
        (None, Some("prod.example"), None, None, Err("proven in the trust domain \"prod.example\", and policy gives")),
        (None, Some("test"), None, None, Ok("test")),
        (None, None, Some("test"), None, Ok("test")),
        (None, None, Some("test"), Some("prod"), Ok("test")),
        (None, None, None, Some("prod"), Ok("prod")),
        (Some("prod"), Some("prod"), Some("prod"), None, Ok("prod")),
        (
            None,
            None,
            None,
            None,
            Err("several, none is called default, and membership.default is not set; known: prod"),
        ),
        (None, None, None, Some("gone"), Err("no mesh \"gone\" with mTLS on, which membership.default names")),
        (None, None, Some("gone"), None, Err("no mesh \"gone\" with mTLS on, which the label kuma.io/mesh names")),
        (None, Some("other.example"), None, None, Err("no mesh has the trust domain \"other.example\"")),
        (Some("prod"), None, Some("test"), None, Err("names mesh \"prod\", but the label kuma.io/mesh names \"test\"")),
        (Some("test"), Some("prod.example"), None, None, Err("the trust domain of its proof names \"prod\"")),
        (None, Some("test"), Some("prod"), None, Err("but the label kuma.io/mesh names \"prod\"")),
        // Where they disagree it does not matter that one of them names nothing that there is.
        (Some("gone"), None, Some("test"), None, Err("but the label kuma.io/mesh names \"test\"")),
    ] {
        let proof =
            Proof { trust_domain: domain.map(Into::into), standing: read(label, &[]), ..proof(token, named("web")) };
        let rules = Rules { default: default.map(Into::into), ..Rules::default() };
        expect(decided(&proof, &meshes(), &rules).map(|identity| identity.mesh.to_string()), expected);
    }
    // With one mesh too, what names another is not overruled.
    for stray in
        [proof(Some("gone"), named("web")), Proof { standing: read(Some("gone"), &[]), ..proof(None, named("web")) }]
    {
        expect(id(&stray, &policies(&["default"])), Err("no mesh \"gone\" with mTLS on"));
    }
}

#[test]
fn what_is_proven_in_one_trust_domain_has_no_id_in_another() {
    let identities = vec![identity_policy("edge", &[("tier", "edge")], "edge.example", None)];
    let classic = MeshPolicy::classic("default".into(), "".into(), Vec::new());
    let meshes = set([MeshPolicy { identities, ..classic }]);
    for (domain, tier, expected) in [
        ("default", None, Ok("spiffe://default/db")),
        ("edge.example", Some("edge"), Ok("spiffe://edge.example/db")),
        (
            "edge.example",
            None,
            Err("proven in the trust domain \"edge.example\", and policy gives it an ID in \"default\""),
        ),
        (
            "default",
            Some("edge"),
            Err("proven in the trust domain \"default\", and policy gives it an ID in \"edge.example\""),
        ),
    ] {
        let labels = labels(tier.map(|tier| ("tier", tier)));
        let proof = Proof { trust_domain: Some(domain.into()), labels, ..proof(None, named("db")) };
        expect(id(&proof, &meshes), expected);
    }
}

#[test]
fn who_is_proven_by_an_id_has_no_other() {
    let template = |enabled: bool| {
        let identities = vec![identity_policy("all", &[("tier", "front")], "default", Some("/{{ .Workload }}-v2"))];
        let classic = MeshPolicy::classic("default".into(), "".into(), Vec::new());
        let enabled_backend = classic.enabled_backend.clone().filter(|_| enabled);
        set([MeshPolicy { identities, enabled_backend, ..classic }])
    };
    let shown = |name: &str, tier: Option<&str>| Proof {
        trust_domain: Some("default".into()),
        spiffe_id: Some(format!("spiffe://default/{name}").parse().unwrap()),
        labels: labels(tier.map(|tier| ("tier", tier))),
        ..proof(None, named(name))
    };
    expect(id(&shown("web", None), &template(true)), Ok("spiffe://default/web"));
    // The leaf of `web`, shown as a certificate, would be read as the workload `web-v2`.
    let reason = "proven to be spiffe://default/web-v2, and policy gives it spiffe://default/web-v2-v2";
    expect(id(&shown("web-v2", Some("front")), &template(true)), Err(reason));
    // Nothing is signed for it, and it learns whom to trust.
    let elsewhere = Proof { spiffe_id: Some("spiffe://default/a/b".parse().unwrap()), ..shown("web", None) };
    expect(id(&elsewhere, &template(false)), Ok("spiffe://default/web"));
}

#[test]
fn labels_that_contradict_each_other_refuse() {
    let proof = |value: &str| Proof {
        labels: labels([("tier", value)]),
        standing: read(None, &[("tier", "front"), ("app", "web")]),
        ..proof(None, named("web"))
    };
    expect(id(&proof("front"), &policies(&["default"])), Ok("spiffe://default/web"));
    let reason = "its label \"tier\" is \"front\" in the cluster and \"back\" in its proof";
    expect(id(&proof("back"), &policies(&["default"])), Err(reason));
}

#[test]
fn the_identity_policy_decides_and_without_one_the_mesh_has_to_have_a_backend() {
    let identities = vec![
        identity_policy("all", &[], "default", Some("/all/{{ .Workload }}")),
        identity_policy("front", &[("tier", "front")], "front.example", None),
    ];
    let chosen = |policies: &PolicySet, tier: Option<&str>| {
        let labels = labels(tier.map(|tier| ("tier", tier)));
        let identity = decided(&Proof { labels, ..proof(None, named("web")) }, policies, &Rules::default())?;
        Ok((identity.identity_policy.as_deref().map(str::to_owned), identity.spiffe_id.to_string()))
    };
    let by = |name: &str, id: &str| Ok::<_, String>((Some(name.to_owned()), id.to_owned()));
    let both = set([modern("default", identities.clone())]);
    assert_eq!(chosen(&both, None), by("all", "spiffe://default/all/web"));
    assert_eq!(chosen(&both, Some("front")), by("front", "spiffe://front.example/web"));
    let only_front = set([modern("default", identities[1..].to_vec())]);
    // Nobody signs for whom none selects, but it is let in.
    assert_eq!(chosen(&only_front, Some("back")), Ok((None, "spiffe://default/web".to_owned())));
    assert_eq!(only_front.meshes["default"].signer(None), None);
    let classic = MeshPolicy { enabled_backend: Some("ca-1".into()), ..modern("default", identities[1..].to_vec()) };
    assert_eq!(chosen(&set([classic]), Some("back")), Ok((None, "spiffe://default/web".to_owned())));
}

#[test]
fn labels_that_change_nothing_leave_the_identity_equal() {
    let policies = set([modern("default", vec![identity_policy("all", &[], "default", None)])]);
    let with = |read_labels: &[(&str, &str)]| {
        let proof = Proof { standing: read(None, read_labels), ..proof(None, kubernetes("shop", "web")) };
        decided(&proof, &policies, &Rules::default()).unwrap()
    };
    assert_eq!(with(&[]), with(&[("version", "2")]));
}

#[test]
fn templates_get_what_is_proven_and_nothing_else() {
    let token = || Proof { instance: Some("web-0".to_owned()), ..proof(None, named("web")) };
    let labelled = || Proof {
        labels: labels([("k8s.kuma.io/namespace", "vm"), ("k8s.kuma.io/service-account", "runner")]),
        ..token()
    };
    let pod = || Proof {
        instance: Some("shop/web-7f/u1".to_owned()),
        // What whoever creates the pod may write on it.
        standing: read(None, &[("kuma.io/workload", "db"), ("k8s.kuma.io/namespace", "bank")]),
        ..proof(None, in_pod("shop", "web", "web-7f"))
    };
    let unbound = || proof(None, kubernetes("shop", "web"));
    let lying = || Proof {
        labels: labels([("k8s.kuma.io/namespace", "bank"), ("k8s.kuma.io/service-account", "root")]),
        ..pod()
    };
    for (proof, path, expected) in [
        (token(), "/{{ .Mesh }}/{{ .Zone }}/{{ .Workload }}", Ok("/default/east/web")),
        (token(), "/i/{{ .Name }}", Ok("/i/web-0")),
        (Proof { instance: None, ..token() }, "/i/{{ .Name }}", Err("a node id is no proof")),
        (token(), "/{{ .Namespace }}/{{ .Workload }}", Err("a label k8s.kuma.io/namespace in it would")),
        (token(), "/{{ .ServiceAccount }}", Err("a label k8s.kuma.io/service-account in it would")),
        (labelled(), "/{{ .Namespace }}/{{ .ServiceAccount }}/{{ .Workload }}", Ok("/vm/runner/web")),
        (proof(None, Workload::default()), "/{{ .Workload }}", Err("gives no .Workload")),
        (proof(None, named("a/b")), "/{{ .Workload }}", Err("\"a/b\" cannot be part of a SPIFFE ID")),
        (proof(None, named("..")), "/{{ .Workload }}", Err("\"..\" cannot be part of a SPIFFE ID")),
        (pod(), "/ns/{{ .Namespace }}/w/{{ .Workload }}/{{ .Name }}", Ok("/ns/shop/w/web/web-7f")),
        (lying(), "/ns/{{ .Namespace }}/sa/{{ .ServiceAccount }}", Ok("/ns/shop/sa/web")),
        (unbound(), "/{{ .Namespace }}/{{ .Name }}", Err("a service account token that is bound to a pod would")),
        (pod(), "/{{ .Workload }}", Err("pods of any namespace could take it: add {{ .Namespace }}")),
        (pod(), "/{{ .ServiceAccount }}", Err("add {{ .Namespace }}")),
        (pod(), "/{{ .Mesh }}/{{ .Name }}", Err("add {{ .Namespace }}")),
        (pod(), "/everybody", Ok("/everybody")),
    ] {
        let policies = set([modern("default", vec![identity_policy("id", &[], "example.com", Some(path))])]);
        let expected = expected.map(|path| format!("spiffe://example.com{path}"));
        expect(id(&proof, &policies), expected.as_deref().map_err(|part| *part));
        if let Err(reason) = id(&proof, &policies) {
            assert!(reason.contains(&format!("MeshIdentity \"id\" with the path {path}: ")), "{reason}");
        }
    }
    let policies = set([modern("default", vec![identity_policy("id", &[], "example.com", Some("/{{ .Zone }}"))])]);
    let nowhere = identity(&token(), &node("n"), &policies, &Rules::default(), "").unwrap_err().to_string();
    assert!(nowhere.contains("set zone in the server's configuration"), "{nowhere}");
}

#[test]
fn the_instance() {
    let of = |proven: Option<&str>, id: &str| {
        let proof = Proof { instance: proven.map(str::to_owned), ..proof(None, named("web")) };
        identity(&proof, &node(id), &policies(&["default"]), &Rules::default(), "").unwrap().instance
    };
    assert_eq!(of(Some("shop/web-0/uid"), "other"), Instance::Proven("shop/web-0/uid".into()));
    for (id, name) in [
        ("web-0", "web-0"),
        ("default.web-0", "web-0"),
        ("default.web.v1", "web.v1"),
        ("other.web-0", "other.web-0"),
        ("default-web.0", "default-web.0"),
        ("default.", "default."),
    ] {
        assert_eq!(of(None, id), Instance::Node(name.into()));
    }
    assert_eq!(of(Some("default.web"), "web-0"), Instance::Proven("default.web".into()), "proven, and not to be read");
    let (long, longer) = (of(None, &"x".repeat(257)), of(None, &"x".repeat(258)));
    assert_ne!(long, longer);
    assert!(long.name().chars().count() <= NODE_ID_CHARS);
    assert!(of(None, "a\nb").name().chars().all(|c| !c.is_control()));
}

#[test]
fn a_mesh_that_is_missing_leaves_its_proxies_to_no_other() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
    let broken = |waiting: &[&str]| Unserved { waiting: names(waiting), ..Unserved::default() };
    let off = Unserved { off: names(&["default"]), ..Unserved::default() };
    let unread = || Unserved { unread: Some("mesh.yaml".into()), ..Unserved::default() };
    for (mesh, default, meshes, unserved, expected) in [
        (
            None,
            None,
            &["prod"][..],
            broken(&["default"]),
            Err("verified at the moment: nothing names its mesh, \"prod\""),
        ),
        (None, None, &["prod"], broken(&["test"]), Err("mesh \"test\" is broken or held back")),
        (None, None, &["prod"], unread(), Err("what is in mesh.yaml has not been understood")),
        (None, None, &["prod"], off, Err("not allowed: its proof names no mesh, mTLS is off in mesh default")),
        (None, None, &[], broken(&["prod"]), Err("verified at the moment: ")),
        (None, None, &[], unread(), Err("verified at the moment: ")),
        (None, None, &["a", "b"], broken(&["default"]), Err("verified at the moment: ")),
        (None, None, &["a", "b"], broken(&["c"]), Err("not allowed: ")),
        // Whatever else there is, `default` is meant.
        (None, None, &["default"], unread(), Ok("default")),
        (None, None, &["default", "prod"], broken(&["test"]), Ok("default")),
        (None, Some("prod"), &["prod"], unread(), Ok("prod")),
        (None, Some("test"), &["prod"], broken(&["test"]), Err("verified at the moment: ")),
        (None, Some("gone"), &["prod"], broken(&["test"]), Err("not allowed: ")),
        (Some("test"), None, &["prod"], broken(&["test"]), Err("verified at the moment: ")),
        (Some("prod"), None, &["prod"], broken(&["default"]), Ok("prod")),
    ] {
        let policies = PolicySet { unserved: unserved.clone(), ..policies(meshes) };
        let rules = Rules { default: default.map(Into::into), ..Rules::default() };
        let got = decided(&proof(mesh, named("web")), &policies, &rules);
        expect(got.map(|identity| identity.mesh.to_string()), expected);
    }
    let foreign = Proof { trust_domain: Some("test".into()), ..proof(None, named("web")) };
    let policies = PolicySet { unserved: broken(&["test"]), ..policies(&["prod"]) };
    expect(id(&foreign, &policies), Err("verified at the moment: "));
}
