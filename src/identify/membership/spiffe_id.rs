//! The SPIFFE ID that policy gives a proxy.

use std::fmt::Display;

use spiffe::{SpiffeId, TrustDomain};

use super::subject::Subject;
use crate::identify::IdentifyError;
use crate::model::policy::{IdentityPolicy, MeshPolicy};
use crate::model::template::{PathTemplate, TemplateField};

/// The SPIFFE ID of `subject` by the identity policy that selects it, if there is one, or else the default one. Each name is
/// one segment, or a part of one, or nothing, so no name can reach into another's ID.
pub(super) fn of(
    mesh: &MeshPolicy,
    policy: Option<&IdentityPolicy>,
    subject: &Subject<'_>,
    zone: &str,
) -> Result<SpiffeId, IdentifyError> {
    let domain = match policy {
        None => trust_domain(&mesh.name, "the mesh name")?,
        Some(policy) => trust_domain(&policy.trust_domain, "the trust domain")?,
    };
    let template = policy.and_then(|policy| Some((&policy.name, policy.path.as_ref()?)));
    let forbidden = |what: String| match template {
        None => IdentifyError::Forbidden(what),
        Some((name, path)) => {
            IdentifyError::Forbidden(format!("MeshIdentity {:?} with the path {path}: {what}", name.as_ref()))
        }
    };
    let segments = match template {
        None => default_path(subject),
        Some((_, path)) => rendered(path, &mesh.name, subject, zone),
    };
    let segments = segments.map_err(forbidden)?;
    let texts: Vec<&str> = segments.iter().map(String::as_str).collect();
    SpiffeId::from_segments(domain, &texts)
        .map_err(|error| forbidden(unusable(&format!("{:?}", texts.join("/")), &error)))
}

/// `TrustDomain::new` also reads whole IDs, and lowers capitals: two meshes must not end up in one trust domain.
fn trust_domain(name: &str, what: &str) -> Result<TrustDomain, IdentifyError> {
    let what = format!("{what} {name:?}");
    let forbidden = |why: &dyn Display| IdentifyError::Forbidden(unusable(&what, why));
    let domain = TrustDomain::new(name).map_err(|error| forbidden(&error))?;
    if domain.as_str() == name { Ok(domain) } else { Err(forbidden(&"a trust domain is lower case")) }
}

/// `/ns/<namespace>/sa/<serviceAccount>` in Kubernetes, `/<workload>` elsewhere.
fn default_path(subject: &Subject<'_>) -> Result<Vec<String>, String> {
    match (subject.is_kubernetes, subject.namespace, subject.service_account, subject.workload) {
        (true, Some(namespace), Some(account), _) => Ok(["ns", namespace, "sa", account].map(str::to_owned).to_vec()),
        (false, _, _, Some(workload)) => Ok(vec![workload.to_owned()]),
        _ => Err("the proof names no workload".to_owned()),
    }
}

/// The segments of the path of an identity policy.
fn rendered(path: &PathTemplate, mesh: &str, subject: &Subject<'_>, zone: &str) -> Result<Vec<String>, String> {
    let of_a_namespace = [TemplateField::Workload, TemplateField::ServiceAccount, TemplateField::Name];
    if subject.is_kubernetes
        && !path.names(TemplateField::Namespace)
        && of_a_namespace.into_iter().any(|field| path.names(field))
    {
        return Err("pods of any namespace could take it: add {{ .Namespace }}".to_owned());
    }
    let value = |field: TemplateField| match field {
        TemplateField::Mesh => Some(mesh),
        TemplateField::Zone => Some(zone),
        TemplateField::Namespace => subject.namespace,
        TemplateField::ServiceAccount => subject.service_account,
        TemplateField::Workload => subject.workload,
        TemplateField::Name => subject.name,
    };
    path.render(value).map_err(|field| match value(field).filter(|text| !text.is_empty()) {
        Some(text) => format!("{text:?} cannot be part of a SPIFFE ID"),
        None => missing(field, subject.is_kubernetes).to_owned(),
    })
}

/// What is not known of a proxy, and what would tell it.
fn missing(field: TemplateField, is_kubernetes: bool) -> &'static str {
    match (field, is_kubernetes) {
        (TemplateField::Mesh, _) => "there is no .Mesh",
        (TemplateField::Zone, _) => "there is no .Zone: set zone in the server's configuration",
        (TemplateField::Namespace, true) => "its proof gives no .Namespace: a service account token would",
        (TemplateField::Namespace, false) => "its proof gives no .Namespace: a label k8s.kuma.io/namespace in it would",
        (TemplateField::ServiceAccount | TemplateField::Workload, true) => {
            "its proof gives no service account: a service account token would"
        }
        (TemplateField::ServiceAccount, false) => {
            "its proof gives no .ServiceAccount: a label k8s.kuma.io/service-account in it would"
        }
        (TemplateField::Workload, false) => "its proof gives no .Workload: a proxy token with a workload would",
        (TemplateField::Name, true) => "its proof gives no .Name: a service account token that is bound to a pod would",
        (TemplateField::Name, false) => {
            "its proof gives no .Name, and a node id is no proof: a proxy token with a name would"
        }
    }
}

fn unusable(what: &str, why: &dyn Display) -> String {
    format!("{what} cannot be part of a SPIFFE ID: {why}")
}
