//! `MeshIdentity`: whom it selects, the SPIFFE IDs that those have, and who signs them (S4-6).

use std::sync::Arc;
use std::time::Duration;

use super::backend::{self, OF_IDENTITY, Reference};
use super::{Context, not_in_program, policy, provided};
use crate::document::{Field, Fields, quoted};
use crate::model::diagnostic::Location;
use crate::model::policy::{Backend, BackendKind, BuiltinSettings, IdentityPolicy, Selector};
use crate::model::template::{NO_ZONE, PathTemplate, TemplateField, is_clean, render_trust_domain};

/// What a MeshIdentity says.
#[derive(Debug, Clone)]
pub(super) struct IdentityDefinition {
    pub(super) policy: Arc<IdentityPolicy>,
    pub(super) backend: Arc<Backend>,
    /// The Secrets that it names.
    pub(super) references: Vec<Reference>,
    /// Where its trust domain and its path are, or would be.
    pub(super) trust_domain_at: Location,
    pub(super) path_at: Location,
}

impl PartialEq for IdentityDefinition {
    fn eq(&self, other: &Self) -> bool {
        (&self.policy, &self.backend) == (&other.policy, &other.backend)
    }
}

/// Decodes the fields of `spec`. `None` if it is broken, which is reported.
pub(super) fn decode(
    name: &str,
    name_field: &Field<'_>,
    mesh: &str,
    spec: &Fields<'_>,
    context: &Context,
) -> Option<IdentityDefinition> {
    // Its CA's files are kept under this name.
    if !is_clean(name) || name.starts_with('.') || name.len() > 253 {
        name_field.problem("can have letters, digits, -, _ and ., and not begin with a dot; at most 253");
    }
    let selector = spec.given("selector").map_or(Some(Selector::Nobody), |field| decode_selector(&field));
    let spiffe_id = spec.optional("spiffeID");
    let parts = spiffe_id
        .as_ref()
        .and_then(|field| field.strict_map(|fields| (fields.optional("trustDomain"), fields.optional("path"))));
    let (domain_field, path_field) = parts.unwrap_or_default();
    let trust_domain = decode_trust_domain(domain_field.as_ref(), mesh, context);
    let path = match &path_field {
        None => Some(None),
        Some(field) => decode_path(field, context).map(Some),
    };
    let mut references = Vec::new();
    let provider = spec.required("provider").and_then(|field| decode_provider(&field, context, &mut references));

    let at = |field: &Option<Field<'_>>| {
        let nearest = field.as_ref().or(spiffe_id.as_ref()).unwrap_or(name_field);
        nearest.location()
    };
    let (trust_domain_at, path_at) = (at(&domain_field), at(&path_field));
    let (selector, trust_domain, path, Provider { kind, leaf_lifetime }) = (selector?, trust_domain?, path?, provider?);
    let trust_domain: Arc<str> = trust_domain.into();
    let backend: Arc<str> = format!("{OF_IDENTITY}{name}").into();
    let policy = IdentityPolicy {
        name: name.into(),
        selector,
        trust_domain: trust_domain.clone(),
        path,
        backend: backend.clone(),
    };
    let request_timeout = backend::DEFAULT_REQUEST_TIMEOUT;
    let backend = Backend { name: backend, leaf_lifetime, request_timeout, trust_domain, kind };
    Some(IdentityDefinition {
        policy: Arc::new(policy),
        backend: Arc::new(backend),
        references,
        trust_domain_at,
        path_at,
    })
}

/// Nothing in it selects nobody; `dataplane` without labels selects everybody, as in Kuma.
fn decode_selector(field: &Field<'_>) -> Option<Selector> {
    let dataplane = field.strict_map(|fields| fields.given("dataplane"))?;
    let Some(dataplane) = dataplane else { return Some(Selector::Nobody) };
    let labels = dataplane.strict_map(|fields| fields.given("matchLabels"))?;
    let Some(labels) = labels else { return Some(Selector::Labels(Default::default())) };
    let labels = labels.map()?;
    // All of them are looked at, so that every problem is told.
    let decoded: Vec<_> = labels.entries().map(|(key, value)| Some((key.into(), value.text()?.into()))).collect();
    decoded.into_iter().collect::<Option<_>>().map(Selector::Labels)
}

fn decode_trust_domain(field: Option<&Field<'_>>, mesh: &str, context: &Context) -> Option<String> {
    // The name of the mesh has been looked at.
    let Some(field) = field else { return Some(mesh.to_owned()) };
    let rendered = field.check(render_trust_domain(field.name()?, mesh, &context.zone))?;
    policy::check_trust_domain(&rendered, field).then_some(rendered)
}

fn decode_path(field: &Field<'_>, context: &Context) -> Option<PathTemplate> {
    let template = field.check(PathTemplate::parse(field.name()?))?;
    if template.names(TemplateField::Zone) && context.zone.is_empty() {
        field.problem(NO_ZONE);
        return None;
    }
    if !template.tells_workloads_apart() {
        field.notice("names nothing that tells workloads apart: all that it selects share one SPIFFE ID");
    }
    Some(template)
}

struct Provider {
    kind: BackendKind,
    leaf_lifetime: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Bundled,
    CertManager,
    Extension,
    Spire,
    Vault,
    Acm,
}

/// Type and the block that goes with it.
const BLOCKS: [(Type, &str); 6] = [
    (Type::Bundled, "bundled"),
    (Type::CertManager, "certManager"),
    (Type::Extension, "extension"),
    (Type::Spire, "spire"),
    (Type::Vault, "vault"),
    (Type::Acm, "acmpca"),
];

const TYPES: [(&str, Type); 6] = [
    ("Bundled", Type::Bundled),
    ("CertManager", Type::CertManager),
    ("Extension", Type::Extension),
    ("Spire", Type::Spire),
    ("Vault", Type::Vault),
    ("ACMPCA", Type::Acm),
];

const EXTENSIONS: [(&str, Type); 7] = [
    ("CertManager", Type::CertManager),
    ("certmanager", Type::CertManager),
    ("cert-manager", Type::CertManager),
    ("Vault", Type::Vault),
    ("vault", Type::Vault),
    ("ACMPCA", Type::Acm),
    ("acmpca", Type::Acm),
];

fn decode_provider(field: &Field<'_>, context: &Context, references: &mut Vec<Reference>) -> Option<Provider> {
    let fields = field.map()?;
    let type_field = fields.required("type");
    let kind = type_field.as_ref().and_then(|field| field.one_of(&TYPES));
    let blocks = BLOCKS.map(|(kind, block)| (kind, block, fields.optional(block)));
    fields.refuse_others();
    let (type_field, kind) = (type_field?, kind?);
    for (_, _, block) in blocks.iter().filter(|(other, ..)| *other != kind) {
        if let Some(block) = block {
            block.problem("is not what the type says; one of them has to go");
        }
    }
    let (_, name, block) = blocks.into_iter().find(|(of, ..)| *of == kind)?;
    let missing = || {
        field.problem(format!("{name} is missing, which the type asks for"));
        None
    };
    match (kind, block) {
        (Type::Bundled, Some(block)) => decode_bundled(&block, context, references),
        (Type::CertManager, Some(block)) => decode_cert_manager(&type_field, &block, context, references),
        (Type::Extension, Some(block)) => decode_extension(&block, context, references),
        (Type::Bundled | Type::CertManager | Type::Extension, None) => missing(),
        (Type::Spire | Type::Vault | Type::Acm, _) => Some(unusable(&type_field, kind)),
    }
}

fn unusable(type_field: &Field<'_>, kind: Type) -> Provider {
    let name = match kind {
        Type::Vault => "vault",
        Type::Acm => "acmpca",
        _ => "spire",
    };
    Provider { kind: not_in_program::notice(type_field, name), leaf_lifetime: None }
}

/// A CA of this server's own making, or one that the user gives.
fn decode_bundled(block: &Field<'_>, context: &Context, references: &mut Vec<Reference>) -> Option<Provider> {
    let fields = block.map()?;
    let allow = fields.optional("insecureAllowSelfSigned");
    let allow_self_signed = allow.and_then(|field| field.boolean()).unwrap_or(false);
    let leaf_lifetime = decode_expiry(&fields);
    let trust_creation = fields.optional("meshTrustCreation");
    if let Some(field) = trust_creation
        && field.one_of(&[("Enabled", true), ("Disabled", false)]) == Some(false)
    {
        field.notice("has no effect: in this server, a CA that signs for a mesh is trusted by it");
    }
    let generated = fields.optional("autogenerate").and_then(|field| {
        let enabled = field.strict_map(|fields| fields.optional("enabled").and_then(|field| field.boolean()))?;
        enabled.filter(|enabled| *enabled).map(|_| field)
    });
    let ca = fields.optional("ca");
    fields.refuse_others();
    let kind = match (generated, ca) {
        (None, Some(ca)) => provided::decode_bundled(&ca, allow_self_signed, leaf_lifetime, context, references)?,
        (Some(generated), None) => {
            if !allow_self_signed {
                generated.problem_with_hint(
                    "makes a self-signed CA, which is not allowed",
                    "set insecureAllowSelfSigned: true if that is meant",
                );
                return None;
            }
            BackendKind::Builtin(BuiltinSettings::default())
        }
        (Some(_), Some(ca)) => {
            ca.problem("autogenerate is enabled as well; one of them has to go");
            return None;
        }
        (None, None) => {
            let hint = "ca.certificate and ca.privateKey, or autogenerate.enabled: true";
            block.problem_with_hint("names no CA", hint);
            return None;
        }
    };
    Some(Provider { kind, leaf_lifetime })
}

fn decode_cert_manager(
    type_field: &Field<'_>,
    block: &Field<'_>,
    context: &Context,
    references: &mut Vec<Reference>,
) -> Option<Provider> {
    backend::needs_cluster(type_field, context);
    let (leaf_lifetime, kind) = block.strict_map(|fields| {
        (decode_expiry(fields), backend::decode_cert_manager_block(fields, context, references))
    })?;
    Some(Provider { kind: kind?, leaf_lifetime })
}

/// Kuma's way to providers that are not its own: a name, and settings that are theirs.
fn decode_extension(block: &Field<'_>, context: &Context, references: &mut Vec<Reference>) -> Option<Provider> {
    let fields = block.map()?;
    let (name, kind, config) = (fields.optional("name"), fields.optional("type"), fields.optional("config"));
    fields.refuse_others();
    let Some(name) = name.or(kind) else {
        block.problem_with_hint("has no name", "name: CertManager");
        return None;
    };
    match (name.one_of(&EXTENSIONS)?, config) {
        (Type::CertManager, Some(config)) => decode_cert_manager(&name, &config, context, references),
        (Type::CertManager, None) => {
            block.problem("config is missing");
            None
        }
        (kind, _) => Some(unusable(&name, kind)),
    }
}

/// `certificateParameters.expiry`: the lifetime of leaves.
fn decode_expiry(fields: &Fields<'_>) -> Option<Duration> {
    let parameters = fields.optional("certificateParameters")?;
    let expiry = parameters.strict_map(|fields| fields.optional("expiry"))??;
    expiry.duration(backend::LEAF_LIFETIME)
}

/// What a message calls it.
pub(super) fn shown(name: &str) -> String {
    format!("MeshIdentity {}", quoted(name))
}
