use std::time::Duration;

use super::*;
use crate::model::policy::{
    Backend, BackendKind, BuiltinSettings, CaSource, IdentityPolicy, IssuerRef, MeshPolicy, PolicySet, ProvidedCa,
    Selector, TrustAnchors,
};
use crate::testing::certs::TestCa;

const KEY: &str = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";

fn backend(name: &str, kind: BackendKind) -> Arc<Backend> {
    Arc::new(Backend {
        name: name.into(),
        leaf_lifetime: Some(Duration::from_secs(3600)),
        request_timeout: Duration::from_secs(10),
        trust_domain: "default".into(),
        kind,
    })
}

/// One of everything that a policy can say.
fn policy(provided: ProvidedCa) -> PolicySet {
    let ca = TestCa::root("root");
    let bundle = Arc::new(ca.bundle());
    let issuer = IssuerRef { name: "mesh-ca".into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
    let by = |trust| BackendKind::CertManager { issuer: issuer.clone(), trust };
    let backends = vec![
        backend("own", BackendKind::Builtin(BuiltinSettings::default())),
        backend("inline", by(CaSource::Inline(bundle.clone()))),
        backend("file", by(CaSource::File("/etc/ca.pem".into()))),
        backend("secret", by(CaSource::Secret("ca".into()))),
        backend("issuer", by(CaSource::Issuer)),
        backend("given", BackendKind::Provided(provided)),
        backend("vault", BackendKind::NotInProgram("vault")),
    ];
    let identity = |name: &str, selector, path: Option<&str>| {
        Arc::new(IdentityPolicy {
            name: name.into(),
            selector,
            trust_domain: "default".into(),
            path: path.map(|path| PathTemplate::parse(path).unwrap()),
            backend: "own".into(),
        })
    };
    let labels = Selector::Labels([("app".into(), "web".into())].into());
    let mesh = MeshPolicy {
        name: "default".into(),
        enabled_backend: Some("own".into()),
        backends,
        identities: vec![
            identity("web", labels, Some("/wl/{{ .Workload }}")),
            identity("nobody", Selector::Nobody, None),
        ],
        trusts: vec![Arc::new(TrustAnchors { name: "other".into(), trust_domain: "other".into(), bundle })],
        skip_validation: true,
    };
    PolicySet { meshes: [("default".into(), Arc::new(mesh))].into(), ..PolicySet::default() }
}

fn again(policies: &PolicySet) -> (PolicySet, String) {
    let text = serde_json::to_string(policies).unwrap();
    (serde_json::from_str(&text).unwrap(), text)
}

#[test]
fn a_policy_comes_back_as_it_was() {
    let given = ProvidedCa {
        certificate: DataSource::Secret("ca".into()),
        private_key: DataSource::File("/etc/ca.key".into()),
        allow_self_signed: true,
    };
    let policies = policy(given);
    assert_eq!(again(&policies).0, policies);
}

#[test]
fn a_private_key_is_not_written_down() {
    let ca = TestCa::root("given").certificate().clone();
    let inline = |text: String| DataSource::Inline(SecretBytes::new(text.into_bytes()));
    let (certificate, private_key) = (inline(ca.pem() + KEY), inline(KEY.to_owned()));
    let (kept, text) = again(&policy(ProvidedCa { certificate, private_key, allow_self_signed: true }));
    assert!(!text.contains("PRIVATE") && !text.contains("c2VjcmV0"), "{text}");
    let backend = kept.meshes["default"].backend("given").unwrap().clone();
    let BackendKind::Provided(given) = &backend.kind else { unreachable!() };
    assert_eq!((&given.certificate, &given.private_key), (&inline(ca.pem()), &DataSource::NotKept));
}

#[test]
fn what_does_not_make_sense_does_not_come_back() {
    let given = ProvidedCa {
        certificate: DataSource::Secret("ca".into()),
        private_key: DataSource::Secret("key".into()),
        allow_self_signed: true,
    };
    let (_, text) = again(&policy(given));
    for (good, bad) in [("\"vault\"}", "\"other\"}"), ("/wl/{{ .Workload }}", "wl"), ("BEGIN CERT", "BEGIN LETT")] {
        assert!(text.contains(good), "{good}");
        assert!(serde_json::from_str::<PolicySet>(&text.replace(good, bad)).is_err(), "{good}");
    }
}
