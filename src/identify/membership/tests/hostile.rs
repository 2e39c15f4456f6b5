//! Names of an attacker's choice.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::instance::bounded;
use super::super::subject::Subject;
use super::*;
use crate::model::template::TemplateField;

/// Names as an attacker would choose them: parts of templates and of paths, and what parsers stumble over.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-c]{1,2}",
        "[./a-]{0,4}",
        "\\PC{0,6}",
        prop::sample::select(vec![
            "ns/shop/sa/web",
            "..",
            "%2e%2e",
            "a/b",
            "{{ .Mesh }}",
            "sa",
            "a-b",
            "b-a",
            "\0",
            "A"
        ])
        .prop_map(str::to_owned),
    ]
}

/// Workloads of both kinds; those outside Kubernetes with or without Kuma's labels.
fn workloads() -> impl Strategy<Value = Proof> {
    let pod = (hostile(), hostile(), hostile(), hostile()).prop_map(|(namespace, account, pod, label)| Proof {
        instance: Some(format!("{namespace}/{pod}/u1")),
        labels: labels([("k8s.kuma.io/namespace", &*label), ("k8s.kuma.io/service-account", &*label)]),
        standing: Standing::default(),
        ..proof(None, in_pod(&namespace, &account, &pod))
    });
    let elsewhere =
        (hostile(), hostile(), proptest::option::of((hostile(), hostile()))).prop_map(|(workload, instance, kuma)| {
            Proof {
                instance: Some(instance),
                labels: kuma.map_or_else(Labels::new, |(namespace, account)| {
                    labels([("k8s.kuma.io/namespace", &*namespace), ("k8s.kuma.io/service-account", &*account)])
                }),
                ..proof(None, named(&workload))
            }
        });
    prop_oneof![pod, elsewhere]
}

const TEMPLATES: [(&str, &[TemplateField]); 7] = {
    use TemplateField::{Name, Namespace, ServiceAccount, Workload};
    [
        ("/{{ .Mesh }}/{{ .Workload }}", &[Workload]),
        ("/{{ .Namespace }}/{{ .Workload }}", &[Namespace, Workload]),
        ("/ns/{{ .Namespace }}/sa/{{ .ServiceAccount }}", &[Namespace, ServiceAccount]),
        ("/a-{{ .Namespace }}-b/{{ .Workload }}-a", &[Namespace, Workload]),
        ("/{{ .Namespace }}/{{ .ServiceAccount }}/{{ .Name }}", &[Namespace, ServiceAccount, Name]),
        ("/{{ .Zone }}/{{ .Name }}", &[Name]),
        ("/{{ .ServiceAccount }}", &[ServiceAccount]),
    ]
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// Two proxies have the same ID by a template only if they agree in every field that it names; and one has as many
    /// segments as the template.
    #[test]
    fn nobody_renders_to_anothers_id(one in workloads(), other in workloads(), template in 0..TEMPLATES.len()) {
        let (path, fields) = TEMPLATES[template];
        let policies = set([modern("default", vec![identity_policy("id", &[], "example.com", Some(path))])]);
        if let Ok(id) = id(&one, &policies) {
            prop_assert_eq!(id.matches('/').count(), path.matches('/').count() + 2);
            prop_assert!(id.split('/').skip(3).all(|segment| !["", ".", ".."].contains(&segment)));
        }
        if let (Ok(a), Ok(b)) = (id(&one, &policies), id(&other, &policies)) {
            let named = |proof| {
                let subject = Subject::of(proof);
                fields.iter().map(|field| match field {
                    TemplateField::Namespace => subject.namespace.map(str::to_owned),
                    TemplateField::ServiceAccount => subject.service_account.map(str::to_owned),
                    TemplateField::Workload => subject.workload.map(str::to_owned),
                    _ => subject.name.map(str::to_owned),
                }).collect::<Vec<_>>()
            };
            prop_assert_eq!(a == b, named(&one) == named(&other), "{} {}", a, b);
            // What takes a name that is a pod's in its namespace only says which namespace.
            for proof in [&one, &other].into_iter().filter(|proof| proof.workload.namespace.is_some()) {
                prop_assert!(fields.contains(&TemplateField::Namespace));
                prop_assert_eq!(&named(proof)[0], &proof.workload.namespace.as_deref().map(str::to_owned));
            }
        }
    }

    /// Likewise by default, where no two workloads of any kind share one.
    #[test]
    fn nobody_has_anothers_default_id(one in workloads(), other in workloads()) {
        let policies = policies(&["default"]);
        let (a, b) = (id(&one, &policies), id(&other, &policies));
        if let (Ok(a), Ok(b)) = (a, b) {
            let subject = |proof: &Proof| {
                let Workload { namespace, service_account, name, .. } = proof.workload.clone();
                (namespace, service_account, name)
            };
            prop_assert_eq!(a == b, subject(&one) == subject(&other), "{} {}", a, b);
        }
    }

    #[test]
    fn different_node_ids_stay_different(ids in proptest::collection::btree_set(".{0,300}", 2..6)) {
        let bounded: BTreeSet<_> = ids.iter().map(|id| bounded(id)).collect();
        prop_assert_eq!(bounded.len(), ids.len());
    }
}
