//! Which mesh a proven peer belongs to, and which SPIFFE ID it has there. Pure.

use std::sync::Arc;

use aws_lc_rs::digest;
use spiffe::{SpiffeId, TrustDomain};

use super::{IdentifyError, NodeClaim, Proof};
use crate::model::identity::{Identity, Instance, Workload};
use crate::model::policy::PolicySet;

/// The mesh that is meant where nothing names one and there are several, as in Kuma.
const DEFAULT_MESH: &str = "default";

/// The longest `node.id` that is taken as it is.
const NODE_ID_CHARS: usize = 256;

/// The identity behind `proof`.
///
/// # Errors
/// [`IdentifyError::Forbidden`] if there is no such mesh, or if a name cannot be part of a SPIFFE ID.
pub fn identity(proof: &Proof, node: &NodeClaim, policies: &PolicySet) -> Result<Identity, IdentifyError> {
    proof.standing.facts()?;
    let of_domain = proof.trust_domain.as_deref().map(|domain| mesh_with(domain, policies)).transpose()?;
    let named = match (proof.mesh.as_deref(), of_domain) {
        (Some(named), Some(of_domain)) if *named != **of_domain => {
            return Err(IdentifyError::Forbidden(format!(
                "it is proven to be in two meshes, {named:?} and {of_domain:?}"
            )));
        }
        (named, of_domain) => named.or(of_domain.map(AsRef::as_ref)),
    };
    let mesh = mesh_of(named, policies)?;
    let spiffe_id = default_spiffe_id(&mesh, &proof.workload)?;
    let instance = match &proof.instance {
        Some(instance) => Instance::Proven(instance.as_str().into()),
        None => Instance::Node(bounded(name_in(&mesh, &node.id))),
    };
    Ok(Identity {
        mesh,
        spiffe_id,
        identity_policy: None,
        instance,
        workload: proof.workload.clone(),
        method: proof.method,
        proven_until: proof.until,
    })
}

/// The mesh that has this trust domain.
fn mesh_with<'p>(trust_domain: &str, policies: &'p PolicySet) -> Result<&'p Arc<str>, IdentifyError> {
    let found = policies.meshes.iter().find(|(_, policy)| policy.own_trust_domains().contains(trust_domain));
    let unknown = || IdentifyError::Forbidden(format!("no mesh has the trust domain {trust_domain:?}"));
    found.map(|(mesh, _)| mesh).ok_or_else(unknown)
}

/// The mesh that the proof names; else the only one there is; else `default`.
fn mesh_of(named: Option<&str>, policies: &PolicySet) -> Result<Arc<str>, IdentifyError> {
    let meshes = &policies.meshes;
    let found = match named {
        Some(name) => meshes.get_key_value(name),
        None if meshes.len() == 1 => meshes.first_key_value(),
        None => meshes.get_key_value(DEFAULT_MESH),
    };
    if let Some((mesh, _)) = found {
        return Ok(mesh.clone());
    }
    let known = meshes.keys().map(AsRef::as_ref).collect::<Vec<&str>>().join(", ");
    Err(IdentifyError::Forbidden(match (named, known.is_empty()) {
        (_, true) => "no mesh has mTLS enabled yet".to_owned(),
        (Some(name), false) => format!("there is no mesh {name:?}; known: {known}"),
        (None, false) => {
            format!("the proof names no mesh, and there are several but none is called {DEFAULT_MESH}; known: {known}")
        }
    }))
}

/// `spiffe://<mesh>/ns/<namespace>/sa/<serviceAccount>` on Kubernetes, `spiffe://<mesh>/<workload>` elsewhere. Each name
/// is one segment or nothing, so no name can reach into another's ID.
fn default_spiffe_id(mesh: &str, workload: &Workload) -> Result<SpiffeId, IdentifyError> {
    let forbidden = |what: &str, why: &dyn std::fmt::Display| {
        IdentifyError::Forbidden(format!("{what} cannot be part of a SPIFFE ID: {why}"))
    };
    let domain = TrustDomain::new(mesh).map_err(|error| forbidden(&format!("the mesh name {mesh:?}"), &error))?;
    // `TrustDomain::new` also reads whole IDs, and lowers capitals: two meshes must not end up in one trust domain.
    if domain.as_str() != mesh {
        return Err(forbidden(&format!("the mesh name {mesh:?}"), &"a trust domain is lower case"));
    }
    let segments = match workload {
        Workload { namespace: Some(namespace), service_account: Some(account), .. } => {
            vec!["ns", namespace, "sa", account]
        }
        Workload { name: Some(name), .. } => vec![name.as_ref()],
        _ => return Err(IdentifyError::Forbidden("the proof names no workload".to_owned())),
    };
    SpiffeId::from_segments(domain, &segments).map_err(|error| forbidden(&format!("{:?}", segments.join("/")), &error))
}

/// What `node.id` calls the proxy: `web-0` and `<mesh>.web-0` are two ways to say the same, so it is one proxy, by the name
/// that operators look for. Another prefix is part of the name, as names may have dots.
fn name_in<'a>(mesh: &str, id: &'a str) -> &'a str {
    let name = id.strip_prefix(mesh).and_then(|rest| rest.strip_prefix('.'));
    name.filter(|name| !name.is_empty()).unwrap_or(id)
}

/// `id` if it is reasonable, else its beginning and a hash of all of it, so that different ones stay different.
fn bounded(id: &str) -> Arc<str> {
    let printable = |c: &char| !c.is_control();
    if id.chars().count() <= NODE_ID_CHARS && id.chars().all(|c| printable(&c)) {
        return id.into();
    }
    let beginning: String = id.chars().filter(printable).take(64).collect();
    let hash = digest::digest(&digest::SHA256, id.as_bytes());
    format!("{beginning}…sha256-{}", hex::encode(&hash.as_ref()[..16])).into()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::model::policy::MeshPolicy;

    pub(crate) fn policies(meshes: &[&str]) -> PolicySet {
        let policy = |name: &str| MeshPolicy::classic(name.into(), "".into(), Vec::new());
        let meshes = meshes.iter().map(|name| (Arc::from(*name), Arc::new(policy(name)))).collect();
        PolicySet { meshes }
    }

    fn kubernetes(namespace: &str, account: &str) -> Workload {
        Workload { namespace: Some(namespace.into()), service_account: Some(account.into()), ..Workload::default() }
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

    fn id_of(mesh: Option<&str>, workload: Workload, meshes: &[&str]) -> Result<String, String> {
        identity(&proof(mesh, workload), &node("n"), &policies(meshes))
            .map(|identity| identity.spiffe_id.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_mesh_and_the_id() {
        let web = || kubernetes("shop", "web");
        for (mesh, workload, meshes, expected) in [
            (None, web(), &["default"][..], Ok("spiffe://default/ns/shop/sa/web")),
            (None, web(), &["prod"], Ok("spiffe://prod/ns/shop/sa/web")),
            (None, web(), &["default", "prod"], Ok("spiffe://default/ns/shop/sa/web")),
            (Some("prod"), web(), &["default", "prod"], Ok("spiffe://prod/ns/shop/sa/web")),
            (None, named("web"), &["default"], Ok("spiffe://default/web")),
            (None, named("web.v1"), &["default"], Ok("spiffe://default/web.v1")),
            (None, Workload { name: Some("x".into()), ..web() }, &["default"], Ok("spiffe://default/ns/shop/sa/web")),
            (Some("gone"), web(), &["default", "prod"], Err("there is no mesh \"gone\"; known: default, prod")),
            (None, web(), &["east", "west"], Err("known: east, west")),
            (None, web(), &[], Err("no mesh has mTLS enabled yet")),
            (None, Workload::default(), &["default"], Err("names no workload")),
            (None, Workload { name: None, ..named("") }, &["default"], Err("names no workload")),
            (None, named(""), &["default"], Err("SPIFFE ID")),
            (None, named("."), &["default"], Err("SPIFFE ID")),
            (None, named(".."), &["default"], Err("SPIFFE ID")),
            (None, named("ns/shop/sa/web"), &["default"], Err("SPIFFE ID")),
            (None, named("web?x"), &["default"], Err("SPIFFE ID")),
            (None, named("wéb"), &["default"], Err("SPIFFE ID")),
            (None, kubernetes("shop/sa/root", "web"), &["default"], Err("SPIFFE ID")),
            (None, kubernetes("shop", ""), &["default"], Err("SPIFFE ID")),
            (None, kubernetes("..", "web"), &["default"], Err("SPIFFE ID")),
            (None, web(), &["Default"], Err("lower case")),
            (None, web(), &["spiffe://default"], Err("lower case")),
            (None, web(), &["a/b"], Err("SPIFFE ID")),
        ] {
            match (id_of(mesh, workload.clone(), meshes), expected) {
                (Ok(id), Ok(expected)) => assert_eq!(id, expected),
                (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
                (got, expected) => panic!("{mesh:?} {workload:?} {meshes:?}: {got:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn the_instance() {
        let of = |proven: Option<&str>, id: &str| {
            let proof = Proof { instance: proven.map(str::to_owned), ..proof(None, named("web")) };
            identity(&proof, &node(id), &policies(&["default"])).unwrap().instance
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
        assert_eq!(
            of(Some("default.web"), "web-0"),
            Instance::Proven("default.web".into()),
            "proven, and not to be read"
        );
        let (long, longer) = (of(None, &"x".repeat(257)), of(None, &"x".repeat(258)));
        assert_ne!(long, longer);
        assert!(long.name().chars().count() <= NODE_ID_CHARS);
        assert!(of(None, "a\nb").name().chars().all(|c| !c.is_control()));
    }

    proptest! {
        /// Whatever the names, an identity has exactly the segments that its kind has: two different workloads never
        /// share an ID.
        #[test]
        fn names_stay_in_their_segment(namespace in "\\PC{0,12}|[./a]{0,5}", account in "\\PC{0,12}|[./a]{0,5}") {
            if let Ok(id) = id_of(None, kubernetes(&namespace, &account), &["default"]) {
                prop_assert_eq!(id, format!("spiffe://default/ns/{namespace}/sa/{account}"));
                prop_assert!(!namespace.contains('/') && !account.contains('/'));
                prop_assert!(![".", "..", ""].contains(&namespace.as_str()));
            }
            if let Ok(id) = id_of(None, named(&namespace), &["default"]) {
                prop_assert_eq!(id.matches('/').count(), 3);
            }
        }

        #[test]
        fn different_node_ids_stay_different(ids in proptest::collection::btree_set(".{0,300}", 2..6)) {
            let bounded: BTreeSet<_> = ids.iter().map(|id| bounded(id)).collect();
            prop_assert_eq!(bounded.len(), ids.len());
        }
    }
}
