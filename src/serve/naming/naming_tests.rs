//! Names in the wild. Numbers are items of the conformance list.

use proptest::prelude::*;

use super::*;
use crate::model::identity::Workload;
use crate::serve::testing::identity;

const PROFILES: [Profile; 5] = [Spire, Istio, Kuma, Osm, EnvoyGateway];

/// Of the mesh `default`, with the service account `web` in the namespace `shop`.
fn pod() -> Identity {
    Identity {
        spiffe_id: "spiffe://default/ns/shop/sa/web".parse().unwrap(),
        identity_policy: None,
        workload: Workload {
            namespace: Some("shop".into()),
            service_account: Some("web".into()),
            ..Workload::default()
        },
        ..identity("web")
    }
}

fn names(profiles: &[Profile]) -> Names {
    Names::new(NameSettings { profiles: profiles.to_vec(), ..NameSettings::default() }).unwrap()
}

/// What a name gives to the proxy of [`pod`].
#[derive(Debug, Clone, Copy, PartialEq)]
enum Gives {
    Certificate,
    Bundle,
    All,
    Domain(&'static str),
    /// Nothing, but the kind is known: somebody else's, or something that this server does not have.
    NoCertificate,
    NoBundle,
    /// The name means nothing.
    Nothing,
}

use Gives::*;
use Profile::{EnvoyGateway, Istio, Kuma, Osm, Spire};

/// xds-conformance section D and what is near it: the name, the profiles that know it, and what it gives.
const TABLE: &[(&str, &[Profile], Gives)] = &[
    ("default", &[Spire, Istio], Certificate),
    ("ROOTCA", &[Spire, Istio], Bundle),
    ("ALL", &[Spire], All),
    ("spiffe://default/ns/shop/sa/web", &[Spire], Certificate),
    ("spiffe://default/ns/shop/sa/other", &[Spire], NoCertificate),
    ("spiffe://default/web", &[Spire], NoCertificate),
    ("spiffe://other/ns/shop/sa/web", &[Spire], NoCertificate),
    ("spiffe://default", &[Spire], Bundle),
    ("spiffe://other", &[Spire], Domain("other")),
    ("spiffe://other.example.org", &[Spire], Domain("other.example.org")),
    ("spiffe://OTHER", &[], Nothing),
    ("SPIFFE://other", &[], Nothing),
    ("spiffe://default/", &[], Nothing),
    ("spiffe://", &[], Nothing),
    ("spiffe:///web", &[], Nothing),
    ("spiffe://default/ns//web", &[], Nothing),
    ("spiffe://default?x", &[], Nothing),
    ("builtin://", &[Istio], Certificate),
    ("builtin://-cacert", &[Istio], Bundle),
    ("sds://gateway-cert", &[Istio], Certificate),
    ("sds://gateway-cert-cacert", &[Istio], Bundle),
    ("sds://", &[], Nothing),
    ("sds://-cacert", &[], Nothing),
    ("file-cert:/etc/certs/chain.pem~/etc/certs/key.pem", &[Istio], NoCertificate),
    ("file-root:/etc/certs/root.pem", &[Istio], NoBundle),
    ("file-root:system", &[Istio], NoBundle),
    ("kubernetes://web", &[Istio], NoCertificate),
    ("kubernetes://web-cacert", &[Istio], NoBundle),
    ("kubernetes-gateway://shop/web", &[Istio], NoCertificate),
    ("kubernetes-gateway://shop/web-cacert", &[Istio], NoBundle),
    ("configmap://shop/ca-cacert", &[Istio], NoBundle),
    ("invalid://web", &[Istio], NoCertificate),
    ("invalid://web-cacert", &[Istio], NoBundle),
    ("identity_cert", &[Kuma], Certificate),
    ("identity_cert:secret:default", &[Kuma], Certificate),
    ("identity_cert:secret:other", &[Kuma], NoCertificate),
    ("identity_cert:secret:", &[], Nothing),
    ("system_mtls_identity_default", &[Kuma], Certificate),
    ("system_mtls_identity_other", &[Kuma], NoCertificate),
    ("mesh_ca", &[Kuma], Bundle),
    ("mesh_ca:secret:default", &[Kuma], Bundle),
    ("mesh_ca:secret:other", &[Kuma], NoBundle),
    ("mesh_ca:secret:all", &[Kuma], All),
    ("system_mtls_ca_default", &[Kuma], Bundle),
    ("system_mtls_ca_other", &[Kuma], NoBundle),
    ("system_mtls_ca_all_meshes", &[Kuma], All),
    ("system_mtls_ca_", &[], Nothing),
    ("kri_mid_default_east_kuma-demo_identity-1_", &[Kuma], Certificate),
    ("kri_mid_default___identity-1_", &[Kuma], Certificate),
    ("kri_mid_other_east_kuma-demo_identity-1_", &[Kuma], NoCertificate),
    ("kri_mtrust_default_east_kuma-demo_trust-1_", &[Kuma], Bundle),
    ("kri_mtrust_other_east_kuma-demo_trust-1_", &[Kuma], NoBundle),
    ("kri_msvc_default_east_kuma-demo_backend_http", &[], Nothing),
    ("kri_mid_default_east_kuma-demo_identity-1", &[], Nothing),
    ("kri_mid_default_east_kuma-demo_identity-1__", &[], Nothing),
    ("kri_mid__east_kuma-demo_identity-1_", &[], Nothing),
    ("kri_mid_default_east_kuma-demo__", &[], Nothing),
    ("system_trust_bundle", &[Kuma], Bundle),
    ("cp_validation_ctx", &[], Nothing),
    ("service-cert:shop/web", &[Osm], Certificate),
    ("service-cert:shop/other", &[Osm], NoCertificate),
    ("service-cert:other/web", &[Osm], NoCertificate),
    ("service-cert", &[], Nothing),
    ("service-cert:shop", &[], Nothing),
    ("service-cert:shop/web/x", &[], Nothing),
    ("root-cert-for-mtls-inbound", &[Osm], Bundle),
    ("root-cert-for-mtls-inbound:shop/web", &[Osm], Bundle),
    ("root-cert-for-mtls-inbound:shop/other", &[Osm], NoBundle),
    ("root-cert-for-mtls-outbound", &[Osm], Bundle),
    ("root-cert-for-mtls-outbound:stock/db", &[Osm], Bundle),
    ("root-cert-for-mtls-outbound:", &[], Nothing),
    ("shop/web", &[EnvoyGateway], Certificate),
    ("shop/other", &[EnvoyGateway], NoCertificate),
    ("other/web", &[EnvoyGateway], NoCertificate),
    ("shop/ca/ca.crt", &[EnvoyGateway], Bundle),
    ("other/ca/ca.crt", &[EnvoyGateway], NoBundle),
    ("shop/ca/ca.crl", &[], Nothing),
    ("gateway/shop/eg/https/ca.crt", &[EnvoyGateway], Bundle),
    ("gateway/other/eg/https/ca.crt", &[EnvoyGateway], NoBundle),
    ("gateway/shop/eg/https/x/ca.crt", &[], Nothing),
    ("/web", &[], Nothing),
    ("shop/", &[], Nothing),
    ("Shop/web", &[], Nothing),
    ("a/*", &[], Nothing),
    ("*", &[], Nothing),
    ("", &[], Nothing),
    ("Default", &[], Nothing),
    ("default ", &[], Nothing),
    ("rootca", &[], Nothing),
    ("xdstp://authority/envoy.extensions.transport_sockets.tls.v3.Secret/default", &[], Nothing),
    ("имя", &[], Nothing),
];

impl Gives {
    fn expected(self) -> (Option<SecretKind>, Option<SecretRef>) {
        match self {
            Certificate => (Some(SecretKind::Certificate), Some(SecretRef::Certificate)),
            Bundle => (Some(SecretKind::Bundle), Some(SecretRef::TrustBundle)),
            All => (Some(SecretKind::Bundle), Some(SecretRef::AllTrustDomains)),
            Domain(name) => (Some(SecretKind::Bundle), Some(SecretRef::TrustDomain(name.into()))),
            NoCertificate => (Some(SecretKind::Certificate), None),
            NoBundle => (Some(SecretKind::Bundle), None),
            Nothing => (None, None),
        }
    }
}

#[test]
fn items_61_and_64_every_name_means_what_its_system_says_while_that_is_on() {
    let pod = pod();
    for (name, profiles, gives) in TABLE {
        for profile in PROFILES {
            let names = names(&[profile]);
            let expected = if profiles.contains(&profile) { *gives } else { Nothing };
            assert_eq!((names.kind(name), names.resolve(name, &pod)), expected.expected(), "{name} by {profile:?}");
        }
        let all = names(&PROFILES);
        assert_eq!((all.kind(name), all.resolve(name, &pod)), gives.expected(), "{name} by all");
        let none = names(&[]);
        assert_eq!((none.kind(name), none.resolve(name, &pod)), (None, None), "{name} by none");
    }
}

#[test]
fn item_65_the_kind_does_not_depend_on_who_asks() {
    let all = names(&PROFILES);
    let elsewhere = Identity {
        mesh: "other".into(),
        spiffe_id: "spiffe://other/ns/other/sa/other".parse().unwrap(),
        identity_policy: None,
        workload: Workload { namespace: Some("other".into()), name: Some("web".into()), ..Workload::default() },
        ..identity("web")
    };
    for (name, ..) in TABLE {
        for identity in [&pod(), &identity("web"), &elsewhere] {
            if let Some(secret) = all.resolve(name, identity) {
                assert_eq!(Some(secret.kind()), all.kind(name), "{name}");
            }
        }
    }
    assert_eq!(all.resolve("other/web", &elsewhere), Some(SecretRef::Certificate), "a workload of that name");
    assert_eq!(all.resolve("shop/web", &elsewhere), None);
    assert_eq!(all.resolve("spiffe://other", &elsewhere), Some(SecretRef::TrustBundle));
    assert_eq!(all.resolve("spiffe://default", &elsewhere), Some(SecretRef::TrustDomain("default".into())));
    // Outside Kubernetes, nothing that is named by namespace is one's own.
    for name in ["service-cert:shop/web", "shop/web", "shop/ca/ca.crt", "root-cert-for-mtls-inbound:shop/web"] {
        assert_eq!(all.resolve(name, &identity("web")), None, "{name}");
    }
}

#[test]
fn listed_names_are_every_proxys() {
    let settings = NameSettings {
        certificates: vec!["web-cert".to_owned(), "shop/other".to_owned(), "default".to_owned(), "*".to_owned()],
        trust_bundles: vec!["web-ca".to_owned(), "shop/web".to_owned()],
        ..NameSettings::default()
    };
    let names = Names::new(settings).unwrap();
    for name in ["web-cert", "shop/other", "default", "*"] {
        assert_eq!(names.resolve(name, &pod()), Some(SecretRef::Certificate), "{name}");
    }
    for name in ["web-ca", "shop/web", "ROOTCA"] {
        assert_eq!(names.resolve(name, &pod()), Some(SecretRef::TrustBundle), "{name}");
    }
    assert_eq!(names.kind("web"), None);
}

#[test]
fn item_66_a_list_that_gives_one_name_two_kinds_is_refused() {
    let conflicts = |profiles: &[Profile], certificates: &[&str], trust_bundles: &[&str]| {
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let settings = NameSettings {
            profiles: profiles.to_vec(),
            certificates: texts(certificates),
            trust_bundles: texts(trust_bundles),
            ..NameSettings::default()
        };
        let conflicts = Names::new(settings).err().unwrap_or_default();
        conflicts.into_iter().map(|conflict| (conflict.list, conflict.index)).collect::<Vec<_>>()
    };
    let (certificate, bundle) = (SecretKind::Certificate, SecretKind::Bundle);
    assert_eq!(conflicts(&[], &["a", "b"], &["b", "c", "a"]), [(bundle, 0), (bundle, 2)]);
    for (name, profiles, gives) in TABLE {
        let as_certificate = !matches!(gives, Certificate | Nothing);
        // Of a trust domain, which is every mesh's own to its proxies and another one to all others.
        let as_bundle = !matches!(gives, Bundle | Nothing) || *name == "spiffe://default";
        // One that is another proxy's by its name may be listed: the list says that it is everybody's own.
        let restricted = !profiles.contains(&Istio);
        let as_certificate = as_certificate && !(restricted && *gives == NoCertificate);
        let as_bundle = as_bundle && !(restricted && *gives == NoBundle);
        let unusable = name.is_empty();
        let expected = |kind, refused: bool| if refused || unusable { vec![(kind, 0)] } else { Vec::new() };
        assert_eq!(conflicts(&PROFILES, &[name], &[]), expected(certificate, as_certificate), "{name} as certificate");
        assert_eq!(conflicts(&PROFILES, &[], &[name]), expected(bundle, as_bundle), "{name} as trust bundle");
        assert_eq!(conflicts(&[], &[name], &[]), expected(certificate, false), "{name} without profiles");
    }
    assert_eq!(conflicts(&[], &[&"x".repeat(MAX_NAME)], &[&"x".repeat(MAX_NAME + 1)]), [(bundle, 0)]);
}

#[test]
fn a_name_that_is_too_long_means_nothing() {
    let name = |length: usize| format!("sds://{}", "x".repeat(length - 6));
    let all = names(&PROFILES);
    assert_eq!(all.kind(&name(MAX_NAME)), Some(SecretKind::Certificate));
    assert_eq!(all.kind(&name(MAX_NAME + 1)), None);
}

#[test]
fn either_side_can_turn_the_spiffe_validator_off() {
    for (server, proxy, style) in [
        (true, false, TrustStyle::SpiffeValidator),
        (true, true, TrustStyle::TrustedCa),
        (false, false, TrustStyle::TrustedCa),
        (false, true, TrustStyle::TrustedCa),
    ] {
        let names = Names::new(NameSettings { spiffe_validator: server, ..NameSettings::default() }).unwrap();
        assert_eq!(names.style(&NodeClaim { plain_trust: proxy, ..NodeClaim::default() }), style);
    }
}

/// Names made of the pieces that real ones are made of.
fn likely_name() -> impl Strategy<Value = String> {
    let pieces: Vec<String> = TABLE
        .iter()
        .flat_map(|(name, ..)| name.split_inclusive(['/', ':', '_', '-']))
        .chain(["", "-cacert", "ca.crt", "gateway/", "a", "all", "ALL", "default"])
        .map(str::to_owned)
        .collect();
    prop::collection::vec(prop::sample::select(pieces), 0..7).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// So it does not matter which profiles are on, nor in which order.
    #[test]
    fn item_66_no_two_profiles_give_one_name_two_kinds(name in prop_oneof![9 => likely_name(), 1 => any::<String>()]) {
        let meanings: Vec<_> = PROFILES.iter().filter_map(|profile| profile.meaning(&name)).collect();
        prop_assert!(meanings.iter().all(|meaning| *meaning == meanings[0]), "{}: {:?}", name, meanings);
    }
}

#[test]
fn item_66_nor_do_they_for_any_known_name() {
    for (name, profiles, _) in TABLE {
        let meanings: Vec<_> = PROFILES.iter().filter_map(|profile| profile.meaning(name)).collect();
        assert_eq!(meanings.len(), profiles.len(), "{name}");
        assert!(meanings.iter().all(|meaning| *meaning == meanings[0]), "{name}: {meanings:?}");
    }
}
