use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use std::sync::Arc;

use super::*;
use crate::document;
use crate::model::policy::{Backend, BackendKind, BuiltinSettings};
use crate::model::policy::{CaSource, IssuerRef};

pub(super) fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

/// A certificate as PEM: a CA or not, valid until the given year.
pub(super) fn certificate(ca: bool, until: i32) -> String {
    let mut params = rcgen::CertificateParams::default();
    if ca {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().pem()
}

pub(super) fn compile_text(text: &str, kubernetes_available: bool) -> Compiled {
    let context = Context {
        kubernetes_available,
        system_namespace: "kong-mesh-system".to_owned(),
        zone: String::new(),
        read_file: None,
        now: now(),
    };
    let documents = Ok(document::parse(text).unwrap());
    let source = Source { path: Arc::new("m.yaml".into()), documents };
    compile(&[source], &context, &mut KnownGood::default())
}

pub(super) fn texts(problems: &[crate::model::diagnostic::Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// The problems of a text, with a cluster at hand.
pub(super) fn check(text: &str) -> Vec<String> {
    texts(&compile_text(text, true).problems)
}

/// A Universal Mesh with one backend, whose fields are given in flow style.
pub(super) fn mesh(backend: &str) -> String {
    format!("type: Mesh\nname: default\nmtls:\n  enabledBackend: b\n  backends:\n  - {backend}\n")
}

fn backend(compiled: &Compiled) -> &Backend {
    compiled.resources.policies.meshes["default"].enabled().unwrap()
}

#[test]
fn both_forms_and_both_spellings_say_the_same() {
    let kubernetes = "apiVersion: kuma.io/v1alpha1\nkind: Mesh\nmetadata: {name: default}\nspec:\n  mtls:\n    \
                      enabledBackend: b\n    backends:\n    - {name: b, type: certmanager, conf: {issuerRef: {name: i}}}\n";
    let expected = compile_text(kubernetes, true);
    assert_eq!(texts(&expected.problems), [""; 0]);
    let policies = &expected.resources.policies;
    assert_eq!(
        backend(&expected).kind,
        BackendKind::CertManager {
            issuer: IssuerRef { name: "i".into(), kind: "Issuer".into(), group: "cert-manager.io".into() },
            trust: CaSource::Issuer,
        }
    );
    let listed = format!("apiVersion: v1\nkind: List\nitems:\n- {}", kubernetes.trim_end().replace('\n', "\n  "));
    let wrapped = mesh("{name: b, type: certmanager, conf: {issuerRef: {name: i}}}");
    let wrapped = wrapped.replace("mtls:\n", "spec:\n mtls:\n");
    for same in [
        mesh("{name: b, type: certmanager, conf: {issuerRef: {name: i}}}"),
        mesh("{name: b, type: cert-manager, certManager: {issuerName: i}}"),
        mesh("{name: b, type: certmanager, certManager: {issuerName: i, issuerKind: Issuer}}"),
        mesh("{name: b, type: cert-manager, conf: {issuerRef: {name: i}}, certManager: {issuerName: i}}"),
        wrapped,
        listed,
    ] {
        let compiled = compile_text(&same, true);
        assert_eq!(texts(&compiled.problems), [""; 0], "{same}");
        assert_eq!(&compiled.resources.policies, policies, "{same}");
    }
}

#[test]
fn durations_and_defaults() {
    let compiled = compile_text(
        &mesh(
            "{name: b, type: builtin, mode: STRICT, rootChain: {requestTimeout: 3s}, dpCert: {rotation: {expiration: \
             1d}, requestTimeout: 5s}, conf: {caCert: {RSAbits: 2048, expiration: 10y}}}",
        ),
        false,
    );
    assert_eq!(texts(&compiled.problems), [""; 0]);
    assert_eq!(compiled.notices.len(), 1, "{:?}", texts(&compiled.notices));
    let backend = backend(&compiled);
    assert_eq!(backend.leaf_lifetime, Some(std::time::Duration::from_secs(86_400)));
    assert_eq!(backend.request_timeout, std::time::Duration::from_secs(5));
    assert_eq!(backend.kind, BackendKind::Builtin(BuiltinSettings::default()));

    let compiled = compile_text(&mesh("{name: b, type: builtin}"), false);
    assert_eq!(
        compiled.resources.policies.meshes["default"].backends[0].request_timeout,
        backend::DEFAULT_REQUEST_TIMEOUT
    );
}

#[test]
fn problems_say_where_and_what_to_do() {
    for (text, expected) in [
        (
            mesh("{name: b, type: vault, conf: {fromCp: {address: 'http://v'}}}"),
            vec![
                "6: backends[0]: dpCert.rotation.expiration is missing, which Vault needs (the lifetime of leaves, such as \
                 24h)"
                    .into(),
                "6: backends[0].conf.fromCp.auth: is missing".into(),
                "6: backends[0].conf.fromCp.role: is missing".into(),
            ],
        ),
        (
            mesh("{name: b, type: certmanger}"),
            vec![
                "6: backends[0].type: \"certmanger\" is not one of builtin, certmanager, cert-manager, provided, vault, \
                 acmpca, acm (did you mean certmanager?)"
                    .into(),
            ],
        ),
        (
            mesh("{name: b, type: builtin, dpCert: {rotation: {expiration: 24}, requestTimout: 1s}}"),
            vec![
                "6: backends[0].dpCert: unknown field \"requestTimout\" (did you mean requestTimeout?)".into(),
                "6: backends[0].dpCert.rotation.expiration: \"24\" has no unit (such as 10s, 24h, 1h30m or 30d)".into(),
            ],
        ),
        (
            mesh("{name: b, type: builtin, dpCert: {rotation: {expiration: 1s}}}"),
            vec!["6: backends[0].dpCert.rotation.expiration: 1s is out of bounds; it must be from 5s to 10y".into()],
        ),
        (
            mesh("{name: b, type: builtin, dpCert: {rotation: {expiration: 2d}}, conf: {caCert: {expiration: 1d}}}"),
            vec![
                "6: backends[0].conf.caCert.expiration: is shorter than dpCert.rotation.expiration: a leaf cannot \
                 outlive its CA"
                    .into(),
            ],
        ),
        (
            mesh("{name: b, type: certmanager, conf: {issuerRef: {kind: Issuer}}}"),
            vec!["6: backends[0].conf.issuerRef.name: is missing".into()],
        ),
        (
            mesh("{name: b, type: certmanager, conf: {issuerRef: {name: i, kind: Isuer}}}"),
            vec![
                "6: backends[0].conf.issuerRef.kind: \"Isuer\" is not one of Issuer, ClusterIssuer (did you mean \
                 Issuer?)"
                    .into(),
            ],
        ),
        (
            mesh("{name: b, type: certmanager, conf: {issuerRef: {name: i}}, certManager: {issuerName: j}}"),
            vec!["6: backends[0]: conf.issuerRef and certManager say different things (one of them has to go)".into()],
        ),
        (
            mesh("{name: b, type: certmanager}"),
            vec![
                "6: backends[0]: names no issuer (conf.issuerRef.name, or certManager.issuerName: a cert-manager \
                 Issuer in the system namespace, or a ClusterIssuer)"
                    .into(),
            ],
        ),
        (
            mesh("{name: b, type: builtin}\n  - {name: b, type: builtin}"),
            vec!["7: backends[1]: the name \"b\" is there twice, first in backends[0]".into()],
        ),
        (
            mesh("{name: other, type: builtin}"),
            vec!["4: enabledBackend: \"b\" is not the name of one of the backends (there are: other)".into()],
        ),
        (
            mesh("{name: b, type: builtin}") + "  enabled: true\n",
            vec!["7: unknown field \"enabled\" (known here: enabledBackend, backends, skipValidation)".into()],
        ),
    ] {
        let expected: Vec<_> = expected
            .iter()
            .map(|problem: &String| {
                let (line, rest) = problem.split_once(": ").unwrap();
                let path = if rest.starts_with("unknown") { "mtls: " } else { "mtls." };
                format!("m.yaml:{line}: Mesh default: {path}{rest}")
            })
            .collect();
        assert_eq!(check(&text), expected, "{text}");
        assert!(compile_text(&text, true).resources.policies.meshes.is_empty());
    }
}

#[test]
fn problems_with_whole_documents() {
    for (text, expected) in [
        (
            "a: 1",
            "m.yaml:1: is not a resource (it needs apiVersion, kind and metadata (Kubernetes), or type and name \
                  (Universal))",
        ),
        (
            "kind: Deployment\napiVersion: apps/v1\nmetadata: {name: x}",
            "m.yaml:1: kind: \"Deployment\" is not a resource \
          that this program reads (it reads Mesh, MeshIdentity, MeshTrust and mesh Secrets; keep others in files that \
          are not listed)",
        ),
        (
            "apiVersion: kuma.io/v2\nkind: Mesh\nmetadata: {name: x}",
            "m.yaml:1: Mesh x: apiVersion: a Mesh has the \
          apiVersion kuma.io/v1alpha1",
        ),
        ("type: Mesh", "m.yaml:1: name: is missing"),
        (
            "type: Mesh\nname: a/b\nmtls: {}",
            "m.yaml:2: Mesh a/b: name: \"a/b\" cannot be a SPIFFE trust domain \
          (lower-case letters, digits, -, _ and ., at most 255)",
        ),
        (
            "apiVersion: v1\nkind: Secret\ntype: Opaque\nmetadata: {name: s}\ndata: {value: YQ==}",
            "m.yaml:3: Secret \
          default/s: type: is not a mesh Secret, and other Secrets are not read (make it a Secret of type \
          system.kuma.io/secret, labelled kuma.io/mesh: <mesh>)",
        ),
        (
            "apiVersion: v1\nkind: Secret\ntype: system.kuma.io/secret\nmetadata: {name: s, namespace: x}\nstringData: \
          {value: a}",
            "m.yaml:4: Secret default/s: metadata.namespace: mesh Secrets are in the system namespace, \
          kong-mesh-system",
        ),
        (
            "type: Secret\nname: s\nmesh: m\ndata: '-----BEGIN PRIVATE KEY-----'",
            "m.yaml:4: Secret m/s: data: is not base64",
        ),
    ] {
        assert_eq!(check(text), [expected], "{text}");
    }
}

#[test]
fn ca_certs_come_from_one_good_source() {
    let good = certificate(true, 2036);
    let issuer = "name: b, type: certmanager, conf: {issuerRef: {name: i}, caCert: ";
    let with = |ca: &str| mesh(&format!("{{{issuer}{ca}}}}}"));
    let inline = |pem: &str| with(&format!("{{inline: {}}}", STANDARD.encode(pem)));
    for text in [
        inline(&good),
        with(&format!("{{inlineString: {}}}", serde_json::to_string(&good).unwrap())),
        with("{file: /etc/ca.pem}"),
        with("{secret: ca}"),
    ] {
        assert_eq!(check(&text), [""; 0], "{text}");
    }
    for (text, expected) in [
        (with("{}"), "caCert: names no source (one of inlineString, inline (base64), file, secret)"),
        (with("{file: a, secret: b}"), "caCert: names more than one source: file and secret; exactly one is meant"),
        (with("{inline: '%'}"), "caCert.inline: is not base64"),
        (with("{inlineString: nothing}"), "caCert.inlineString: no PEM block `-----BEGIN CERTIFICATE-----` in it"),
        (inline(&certificate(false, 2036)), "is not a CA: its basic constraints do not say CA:TRUE"),
        (inline(&certificate(true, 2025)), "expired at 2025-01-01T00:00:00Z"),
        (inline("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "there is a private key in it"),
    ] {
        let problems = check(&text);
        assert!(problems.len() == 1 && problems[0].contains(expected), "{text}: {problems:?}");
        assert!(!problems[0].contains("AAAA"));
    }
}

#[test]
fn a_secret_with_a_ca_is_found_in_either_form() {
    let pem = certificate(true, 2036);
    let data = STANDARD.encode(&pem);
    let with_mesh = mesh("{name: b, type: certmanager, conf: {issuerRef: {name: i}, caCert: {secret: ca}}}");
    let labels = "labels: {kuma.io/mesh: default}";
    for secret in [
        format!("type: Secret\nmesh: default\nname: ca\ndata: {data}"),
        format!(
            "apiVersion: v1\nkind: Secret\ntype: system.kuma.io/secret\nmetadata: {{name: ca, namespace: \
             kong-mesh-system, {labels}}}\ndata: {{value: {data}}}"
        ),
    ] {
        let compiled = compile_text(&format!("{with_mesh}---\n{secret}"), true);
        assert_eq!(texts(&compiled.problems), [""; 0]);
        let content = compiled.resources.secrets.get("default", "ca").map(|content| content.expose());
        assert_eq!(content, Some(pem.as_bytes()));
        assert!(!format!("{:?}", compiled.resources).contains("BEGIN"));
    }
    let broken = format!("{with_mesh}---\ntype: Secret\nname: ca\ndata: YQ==");
    assert!(check(&broken)[0].contains("mtls.backends[0].conf.caCert.secret: the Secret \"ca\" is no trust bundle"));
}

#[test]
fn without_a_cluster_there_is_no_cert_manager() {
    let text = mesh("{name: b, type: certmanager, conf: {issuerRef: {name: i}, caCert: {secret: ca}}}");
    let compiled = compile_text(&text, false);
    assert!(texts(&compiled.problems)[0].contains("needs a Kubernetes cluster with cert-manager"));
    assert!(compiled.resources.policies.meshes.is_empty());
    assert_eq!(check(&text), [""; 0], "with one, the Secret may be there as well");
}

/// The YAML of the documents as it stands there, but for what they leave out (`...` in a certificate).
#[test]
fn every_example_of_the_documents_is_understood() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/seeds");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let placeholder = "-----BEGIN CERTIFICATE-----\n            ...";
        let pem = certificate(true, 2036).trim_end().replace('\n', "\n            ");
        let text = std::fs::read_to_string(&path).unwrap().replace(placeholder, &pem);
        let compiled = compile_text(&text, true);
        assert_eq!(texts(&compiled.problems), [""; 0], "{name}");
        let notices = texts(&compiled.notices);
        let policy = &compiled.resources.policies.meshes["default"];
        if name.contains("meshidentity") {
            assert!(policy.enabled_backend.is_none() && notices.is_empty(), "{name}: {notices:?}");
            assert_eq!(policy.identities[0].path.as_ref().unwrap().to_string(), "/{{ .Namespace }}/{{ .Workload }}");
            assert_eq!(&*policy.identities[0].trust_domain, "internal.kongair.com");
            assert_eq!(policy.signer(Some("flight-operations-id")).unwrap().kind.label(), "provided");
            count += 1;
            continue;
        }
        let expected = match () {
            () if name.contains("vault") => "vault",
            () if name.contains("acm") => "acmpca",
            () => "certmanager",
        };
        assert_eq!(backend(&compiled).kind.label(), expected, "{name}");
        if expected == "certmanager" {
            assert_eq!(notices, [""; 0], "{name}");
        } else {
            assert!(notices.len() == 1 && notices[0].contains("is not in the program yet"), "{name}: {notices:?}");
        }
        count += 1;
    }
    assert_eq!(count, 10);
}

proptest::proptest! {
    #[test]
    fn arbitrary_meshes_never_panic(text in "((type|name|mtls|spec|backends|conf|caCert|enabledBackend|kind|metadata): |Mesh|Secret|default|\n|\n  |\n- |\\{|\\}|,|1){0,40}") {
        if let Ok(documents) = document::parse(&text) {
            let context = Context { kubernetes_available: false, system_namespace: String::new(), zone: String::new(), read_file: None, now: now() };
            let source = Source { path: Arc::new("m.yaml".into()), documents: Ok(documents) };
            compile(&[source], &context, &mut KnownGood::default());
        }
    }
}
