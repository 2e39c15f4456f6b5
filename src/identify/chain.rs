//! The configured methods, asked in order.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

use super::membership::{self, Rules};
use super::{Authenticate, Evidence, Identify, IdentifyError, NodeClaim, Proof, node_id};
use crate::model::identity::{Identity, Workload};
use crate::model::policy::PolicySet;

/// Authenticates streams by the configured methods.
#[derive(Debug)]
pub struct Identifiers {
    methods: Vec<Arc<dyn Identify>>,
    insecure_node_id: bool,
    policies: watch::Receiver<Arc<PolicySet>>,
    rules: Rules,
    zone: Arc<str>,
}

impl Identifiers {
    /// Asks `methods` in this order; with `insecure_node_id`, a peer without any evidence is believed. `policies` tells
    /// which meshes there are, and `rules` whom they let in. `zone` is the server's; it may be empty.
    pub fn new(
        methods: Vec<Arc<dyn Identify>>,
        insecure_node_id: bool,
        policies: watch::Receiver<Arc<PolicySet>>,
        rules: Rules,
        zone: Arc<str>,
    ) -> Self {
        Self { methods, insecure_node_id, policies, rules, zone }
    }

    fn no_evidence(&self, evidence: &Evidence) -> IdentifyError {
        let methods: Vec<&str> = self.methods.iter().map(|method| method.method()).collect();
        IdentifyError::NoEvidence(match (methods.is_empty(), &evidence.bearer_token) {
            (true, None) => "no identity method is configured; see identify in the server configuration".to_owned(),
            (true, Some(_)) => "there is a bearer token, but no method that could verify it is configured".to_owned(),
            (false, None) => format!("accepted: {}", methods.join(", ")),
            (false, Some(_)) => format!("there is a bearer token, but none for any of: {}", methods.join(", ")),
        })
    }
}

#[async_trait]
impl Authenticate for Identifiers {
    async fn open(&self, evidence: &Evidence) -> Result<Option<Proof>, IdentifyError> {
        let mut proven: Option<Proof> = None;
        // All of them, also after the first proof: two that contradict each other are an attack or a mistake.
        for method in &self.methods {
            let Some(proof) = method.identify(evidence).await? else { continue };
            proven = Some(match proven {
                None => proof,
                Some(first) => agreed(first, proof)?,
            });
        }
        match proven {
            Some(proof) => Ok(Some(proof)),
            // A token that nobody has verified is bad evidence, not none.
            None if self.insecure_node_id && evidence.bearer_token.is_none() => Ok(None),
            None => Err(self.no_evidence(evidence)),
        }
    }

    fn complete(&self, proof: Option<&Proof>, node: &NodeClaim) -> Result<Identity, IdentifyError> {
        let policies = self.policies.borrow().clone();
        let identity = |proof: &Proof| membership::identity(proof, node, &policies, &self.rules, &self.zone);
        match proof {
            Some(proof) => identity(proof),
            None if self.insecure_node_id => identity(&node_id::believe(node, &policies)),
            None => Err(self.no_evidence(&Evidence::default())),
        }
    }

    fn changes(&self, proof: Option<&Proof>) -> BoxStream<'static, ()> {
        let policies = WatchStream::from_changes(self.policies.clone()).map(drop);
        match proof {
            Some(proof) => stream::select(policies, proof.standing.changes()).boxed(),
            None => policies.boxed(),
        }
    }
}

/// What two methods prove together: the first, with what only the second knows.
fn agreed(first: Proof, second: Proof) -> Result<Proof, IdentifyError> {
    let meshes_agree = agree(first.mesh.as_ref(), second.mesh.as_ref());
    let domains_agree = agree(first.trust_domain.as_ref(), second.trust_domain.as_ref())
        && agree(first.spiffe_id.as_ref(), second.spiffe_id.as_ref());
    let instances_agree = agree(first.instance.as_ref(), second.instance.as_ref());
    let pods_agree = agree(first.workload.pod.as_ref(), second.workload.pod.as_ref());
    let labels_agree = first.labels.iter().all(|(key, value)| agree(Some(value), second.labels.get(key)));
    let subjects_agree = subject(&first.workload) == subject(&second.workload);
    let agreements = [
        ("mesh", meshes_agree),
        ("trust domain", domains_agree),
        ("name of the proxy", instances_agree),
        ("pod", pods_agree),
        ("value of a label", labels_agree),
        ("workload", subjects_agree),
    ];
    if let Some((what, _)) = agreements.into_iter().find(|(_, agree)| !agree) {
        let reason = format!("it proves another identity than {}: the {what} differs", first.method);
        return Err(IdentifyError::Refused { method: second.method, reason });
    }
    Ok(Proof {
        mesh: first.mesh.or(second.mesh),
        trust_domain: first.trust_domain.or(second.trust_domain),
        spiffe_id: first.spiffe_id.or(second.spiffe_id),
        labels: first.labels.into_iter().chain(second.labels).collect(),
        instance: first.instance.or(second.instance),
        workload: Workload { pod: first.workload.pod.or(second.workload.pod), ..first.workload },
        // The stream ends when either proof does.
        until: [first.until, second.until].into_iter().flatten().min(),
        standing: first.standing.and(second.standing),
        ..first
    })
}

/// Whether both say the same, or one of them nothing.
fn agree<T: PartialEq>(first: Option<&T>, second: Option<&T>) -> bool {
    first.zip(second).is_none_or(|(first, second)| first == second)
}

/// What becomes the SPIFFE ID.
fn subject(workload: &Workload) -> (Option<&str>, Option<&str>, Option<&str>) {
    match (workload.namespace.as_deref(), workload.service_account.as_deref()) {
        (Some(namespace), Some(account)) => (Some(namespace), Some(account), None),
        _ => (None, None, workload.name.as_deref()),
    }
}

#[cfg(test)]
#[path = "combination_tests.rs"]
mod combinations;

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::BearerToken;
    use super::super::membership::tests::policies;
    use super::*;

    type Outcome = Result<Option<Proof>, IdentifyError>;

    #[derive(Debug)]
    struct Fixed(&'static str, Outcome);

    #[async_trait]
    impl Identify for Fixed {
        fn method(&self) -> &'static str {
            self.0
        }

        async fn identify(&self, _evidence: &Evidence) -> Outcome {
            self.1.clone()
        }
    }

    fn proof(method: &'static str, mesh: Option<&str>, name: &str) -> Proof {
        let workload = Workload { name: Some(name.into()), ..Workload::default() };
        Proof { method, mesh: mesh.map(str::to_owned), workload, ..Proof::default() }
    }

    fn in_domain(proof: Proof, domain: &str) -> Proof {
        Proof { trust_domain: Some(domain.into()), ..proof }
    }

    fn labelled(proof: Proof, key: &str, value: &str) -> Proof {
        Proof { labels: [(key.into(), value.into())].into(), ..proof }
    }

    fn chain(outcomes: Vec<(&'static str, Outcome)>, insecure: bool) -> Identifiers {
        let (_, meshes) = watch::channel(Arc::new(policies(&["default", "prod"])));
        let methods = outcomes.into_iter().map(|(name, outcome)| Arc::new(Fixed(name, outcome)) as Arc<dyn Identify>);
        Identifiers::new(methods.collect(), insecure, meshes, Rules::default(), "".into())
    }

    fn refused() -> IdentifyError {
        IdentifyError::Refused { method: "a", reason: "bad".to_owned() }
    }

    fn token() -> Evidence {
        Evidence { bearer_token: Some(BearerToken::new("t".to_owned())), ..Evidence::default() }
    }

    #[tokio::test]
    async fn the_first_method_with_evidence_proves() {
        let chain = chain(vec![("a", Ok(None)), ("b", Ok(Some(proof("b", None, "web"))))], false);
        assert_eq!(chain.open(&Evidence::default()).await.unwrap().unwrap().method, "b");
    }

    #[tokio::test]
    async fn bad_evidence_never_falls_through() {
        for insecure in [false, true] {
            let chain = chain(vec![("a", Err(refused())), ("b", Ok(Some(proof("b", None, "web"))))], insecure);
            assert_eq!(chain.open(&token()).await, Err(refused()));
        }
        // In the other order too.
        let chain = chain(vec![("b", Ok(Some(proof("b", None, "web")))), ("a", Err(refused()))], false);
        assert_eq!(chain.open(&token()).await, Err(refused()));
    }

    #[tokio::test]
    async fn two_proofs_must_agree() {
        let both = |first: Proof, second: Proof| chain(vec![("a", Ok(Some(first))), ("b", Ok(Some(second)))], false);
        for (first, second) in [
            (proof("a", None, "web"), proof("b", None, "db")),
            (proof("a", Some("prod"), "web"), proof("b", Some("default"), "web")),
            (in_domain(proof("a", None, "web"), "prod"), in_domain(proof("b", None, "web"), "default")),
            (labelled(proof("a", None, "web"), "tier", "front"), labelled(proof("b", None, "web"), "tier", "back")),
        ] {
            let error = both(first, second).open(&Evidence::default()).await.unwrap_err();
            assert!(error.to_string().contains("another identity"), "{error}");
        }
        let until = Some(Timestamp::UNIX_EPOCH);
        let second = Proof { instance: Some("web-0".to_owned()), until, ..proof("b", Some("prod"), "web") };
        let second = labelled(in_domain(second, "prod"), "tier", "front");
        let agreed = both(labelled(proof("a", None, "web"), "app", "web"), second)
            .open(&Evidence::default())
            .await
            .unwrap()
            .unwrap();
        assert_eq!((agreed.method, agreed.mesh.as_deref()), ("a", Some("prod")));
        assert_eq!((agreed.instance.as_deref(), agreed.until), (Some("web-0"), until));
        assert_eq!(agreed.trust_domain.as_deref(), Some("prod"));
        let labels: Vec<_> = agreed.labels.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(labels, [("app", "web"), ("tier", "front")]);
    }

    #[tokio::test]
    async fn without_evidence() {
        let nothing = Evidence::default();
        let error = chain(vec![], false).open(&nothing).await.unwrap_err().to_string();
        assert!(error.contains("no identity method is configured; see identify"), "{error}");
        let error = chain(vec![("a", Ok(None))], false).open(&nothing).await.unwrap_err().to_string();
        assert!(error.contains("accepted: a"), "{error}");
        assert_eq!(chain(vec![("a", Ok(None))], true).open(&nothing).await, Ok(None));
        assert!(chain(vec![("a", Ok(None))], true).open(&token()).await.is_err());
        assert!(chain(vec![], true).open(&token()).await.is_err());
    }

    #[tokio::test]
    async fn completion() {
        let node = NodeClaim { id: "prod.web-0".to_owned(), cluster: "web".to_owned(), ..NodeClaim::default() };
        let believed = chain(vec![], true).complete(None, &node).unwrap();
        assert_eq!(believed.spiffe_id.to_string(), "spiffe://prod/web");
        assert_eq!(believed.method, node_id::METHOD);
        assert!(chain(vec![], false).complete(None, &node).is_err());
        // With a proof, the node's own mesh and name count for nothing.
        let proven = chain(vec![], true).complete(Some(&proof("a", None, "db")), &node).unwrap();
        assert_eq!(proven.spiffe_id.to_string(), "spiffe://default/db");
    }
}
