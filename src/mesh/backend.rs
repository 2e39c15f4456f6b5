//! `spec.mtls.backends[]`: the types of CA, in both spellings that Kong's documents use (S0-1, S0-10, S4-4).

use std::sync::Arc;
use std::time::Duration;

use super::{Context, ca_cert, names, not_in_program, provided};
use crate::document::{Field, Fields};
use crate::model::diagnostic::Location;
use crate::model::policy::{Backend, BackendKind, BuiltinSettings, CaSource, DataSource, IssuerRef};

/// Bound on calls to a CA unless `dpCert.requestTimeout` says otherwise; Kuma's default too.
pub(super) const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

const SECOND: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Below, renewal would have no time to retry; above, it is no certificate for a workload any more.
pub(super) const LEAF_LIFETIME: std::ops::RangeInclusive<Duration> = SECOND.saturating_mul(5)..=YEAR.saturating_mul(10);
const ROOT_LIFETIME: std::ops::RangeInclusive<Duration> = SECOND.saturating_mul(5)..=YEAR.saturating_mul(100);
const REQUEST_TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=SECOND.saturating_mul(3600);

/// A mesh Secret that a backend names, and where.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    pub(super) name: Arc<str>,
    pub(super) at: Location,
    pub(super) meant: Use,
}

/// What a Secret is there for, so what has to be in it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Use {
    /// CA certificates to trust.
    Bundle,
    /// The certificate of a CA that signs.
    CaCertificate { allow_self_signed: bool },
    /// The key of a CA that signs, and where its certificate is.
    CaKey { certificate: DataSource },
    /// What only a CA that is not in the program knows.
    Other,
}

/// What the names of the backends of identity policies begin with; others' do not.
pub(super) const OF_IDENTITY: &str = "MeshIdentity/";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Builtin,
    CertManager,
    Provided,
    /// Known from the documents, but the program has nothing to do it with.
    Vault,
    Acm,
}

const TYPES: [(&str, Type); 7] = [
    ("builtin", Type::Builtin),
    ("certmanager", Type::CertManager),
    ("cert-manager", Type::CertManager),
    ("provided", Type::Provided),
    ("vault", Type::Vault),
    ("acmpca", Type::Acm),
    ("acm", Type::Acm),
];

/// Decodes one backend; the Secrets that it names are added to `references`.
pub(super) fn decode(
    field: &Field<'_>,
    mesh: &str,
    context: &Context,
    references: &mut Vec<Reference>,
) -> Option<Backend> {
    let fields = field.map()?;
    let name_field = fields.required("name");
    let name = name_field.as_ref().and_then(Field::name);
    if let Some(field) = &name_field
        && name.is_some_and(|name| names::looks_like_content(name) || name.chars().any(char::is_control))
    {
        field.problem("is not a name");
        return None;
    }
    if let Some(field) = name_field.filter(|_| name.is_some_and(|name| name.starts_with(OF_IDENTITY))) {
        field.problem(format!("names that begin with {OF_IDENTITY} are those of MeshIdentity resources"));
    }
    let type_field = fields.required("type");
    let kind = type_field.as_ref().and_then(|field| field.one_of(&TYPES));
    let common = Common::decode(&fields);
    let (type_field, kind) = (type_field?, kind?);

    let kind = match kind {
        Type::Builtin => decode_builtin(&fields, common.leaf_lifetime),
        Type::CertManager => {
            needs_cluster(&type_field, context);
            decode_cert_manager(&fields, context, references)
        }
        Type::Provided => provided::decode_classic(&fields, common.leaf_lifetime, context, references),
        Type::Vault => {
            not_in_program::vault_lifetime(&fields);
            not_in_program::vault(&type_field, &fields, context, references)
        }
        Type::Acm => not_in_program::acm(&type_field, &fields, context, references),
    };
    fields.refuse_others();
    Some(Backend {
        name: name?.into(),
        leaf_lifetime: common.leaf_lifetime,
        request_timeout: common.request_timeout.unwrap_or(DEFAULT_REQUEST_TIMEOUT),
        trust_domain: mesh.into(),
        kind: kind?,
    })
}

/// cert-manager is in a cluster.
pub(super) fn needs_cluster(type_field: &Field<'_>, context: &Context) {
    if !context.kubernetes_available {
        type_field.problem_with_hint(
            "needs a Kubernetes cluster with cert-manager, and this server has none",
            "run it in a cluster or give it a kubeconfig, and do not turn `kubernetes` off; or use the type builtin",
        );
    }
}

/// What backends of all types have.
struct Common {
    leaf_lifetime: Option<Duration>,
    request_timeout: Option<Duration>,
}

impl Common {
    fn decode(fields: &Fields<'_>) -> Self {
        let timeout = |fields: &Fields<'_>| fields.optional("requestTimeout").and_then(|f| f.duration(REQUEST_TIMEOUT));
        let dp_cert = fields.optional("dpCert").and_then(|field| {
            field.strict_map(|fields| {
                let rotation = fields.optional("rotation").and_then(|field| {
                    field.strict_map(|fields| fields.optional("expiration").and_then(|f| f.duration(LEAF_LIFETIME)))
                });
                (rotation.flatten(), timeout(fields))
            })
        });
        let (leaf_lifetime, request_timeout) = dp_cert.unwrap_or_default();
        // Accepted as Kuma does. Here the root comes with the certificates, or from caCert, and is not asked for apart.
        let _ = fields.optional("rootChain").and_then(|field| field.strict_map(|fields| timeout(fields)));
        // Whether plain text is let in is decided by the proxy's listeners, which this server does not configure.
        let _ = fields.optional("mode").and_then(|field| field.one_of(&[("STRICT", ()), ("PERMISSIVE", ())]));
        Self { leaf_lifetime, request_timeout }
    }
}

fn decode_builtin(fields: &Fields<'_>, leaf_lifetime: Option<Duration>) -> Option<BackendKind> {
    let mut settings = BuiltinSettings::default();
    let conf = fields.optional("conf");
    let ca_cert = conf.and_then(|field| field.strict_map(|fields| fields.optional("caCert"))).flatten();
    let Some(ca_cert) = ca_cert else { return Some(BackendKind::Builtin(settings)) };
    ca_cert.strict_map(|fields| {
        // Kuma's documents write RSAbits, its JSON rsaBits.
        for bits in [fields.optional("RSAbits"), fields.optional("rsaBits")].into_iter().flatten() {
            if bits.integer(0..=16_384).is_some() {
                bits.notice("has no effect: this program's CAs have ECDSA P-256 keys");
            }
        }
        let Some(expiration) = fields.optional("expiration") else { return };
        let Some(lifetime) = expiration.duration(ROOT_LIFETIME) else { return };
        settings.root_lifetime = lifetime;
        if leaf_lifetime.is_some_and(|leaf| leaf > lifetime) {
            expiration.problem("is shorter than dpCert.rotation.expiration: a leaf cannot outlive its CA");
        }
    })?;
    Some(BackendKind::Builtin(settings))
}

/// cert-manager's own issuers: their API group, and their kinds.
const CERT_MANAGER: &str = "cert-manager.io";
const CERT_MANAGER_KINDS: [(&str, &str); 2] = [("Issuer", "Issuer"), ("ClusterIssuer", "ClusterIssuer")];

const NAMED_ISSUER: [&str; 3] = ["issuerName", "issuerKind", "issuerGroup"];

/// `conf.{issuerRef, caCert}` (S0-10, S1-1) or `certManager.{issuerName, issuerKind}` (S4-4), whichever the type says;
/// both at once if they agree.
fn decode_cert_manager(fields: &Fields<'_>, context: &Context, references: &mut Vec<Reference>) -> Option<BackendKind> {
    let backend = fields.as_field();
    let conf = fields.optional("conf");
    let conf_parts = conf.as_ref().and_then(|field| {
        field.strict_map(|fields| {
            let issuer = fields.optional("issuerRef").map(|field| decode_issuer_ref(&field, context));
            (issuer, fields.optional("caCert").map(|field| ca_cert::decode(&field, context, references)))
        })
    });
    let block = fields.optional("certManager");
    let block_parts = block.as_ref().and_then(|field| {
        field.strict_map(|fields| {
            let named = NAMED_ISSUER.iter().any(|key| field.node().get(key).is_some());
            let issuer = decode_issuer(fields, NAMED_ISSUER, named);
            let issuer = named.then_some(issuer);
            (issuer, fields.optional("caCert").map(|field| ca_cert::decode(&field, context, references)))
        })
    });
    let (conf_issuer, conf_ca) = conf_parts.unwrap_or_default();
    let (block_issuer, block_ca) = block_parts.unwrap_or_default();

    let issuer = agree(backend, conf_issuer, block_issuer, "conf.issuerRef and certManager");
    let trust = agree(backend, conf_ca, block_ca, "conf.caCert and certManager.caCert");
    cert_manager(backend, issuer, trust)
}

/// The same in the `certManager` of a `MeshIdentity`: both spellings of the issuer are in one map.
pub(super) fn decode_cert_manager_block(
    fields: &Fields<'_>,
    context: &Context,
    references: &mut Vec<Reference>,
) -> Option<BackendKind> {
    let block = fields.as_field();
    let by_reference = fields.optional("issuerRef").map(|field| decode_issuer_ref(&field, context));
    let named = NAMED_ISSUER.iter().any(|key| block.node().get(key).is_some());
    let by_name = decode_issuer(fields, NAMED_ISSUER, named);
    let issuer = agree(block, by_reference, named.then_some(by_name), "issuerRef and issuerName");
    let trust = fields.optional("caCert").map(|field| ca_cert::decode(&field, context, references));
    cert_manager(block, issuer, trust)
}

fn cert_manager(
    at: &Field<'_>,
    issuer: Option<Option<IssuerRef>>,
    trust: Option<Option<CaSource>>,
) -> Option<BackendKind> {
    let Some(issuer) = issuer else {
        at.problem_with_hint(
            "names no issuer",
            "conf.issuerRef.name, or certManager.issuerName: a cert-manager Issuer in the system namespace, or a \
             ClusterIssuer",
        );
        return None;
    };
    Some(BackendKind::CertManager { issuer: issuer?, trust: trust.unwrap_or(Some(CaSource::Issuer))? })
}

/// One value out of two spellings. The outer `None`: neither is there; the inner one: it is broken, and reported.
fn agree<T: PartialEq>(
    backend: &Field<'_>,
    one: Option<Option<T>>,
    other: Option<Option<T>>,
    what: &str,
) -> Option<Option<T>> {
    match (one, other) {
        (Some(Some(one)), Some(Some(other))) if one != other => {
            backend.problem_with_hint(format!("{what} say different things"), "one of them has to go");
            Some(None)
        }
        (Some(one), Some(other)) => Some(one.and(other)),
        (one, other) => one.or(other),
    }
}

/// cert-manager's own form. It has no namespace in it: an Issuer is looked up where the requests are made.
fn decode_issuer_ref(field: &Field<'_>, context: &Context) -> Option<IssuerRef> {
    field
        .strict_map(|fields| {
            if let Some(namespace) = fields.optional("namespace")
                && namespace.text().is_some_and(|found| found != context.system_namespace)
            {
                namespace.problem_with_hint(
                    format!("an Issuer is looked up in the system namespace, {}", context.system_namespace),
                    "make the Issuer there, or use a ClusterIssuer, which is in no namespace",
                );
            }
            decode_issuer(fields, ["name", "kind", "group"], true)
        })
        .flatten()
}

/// Only the name is required; kind and group are cert-manager's defaults (S0-10).
fn decode_issuer(fields: &Fields<'_>, [name, kind, group]: [&'static str; 3], wanted: bool) -> Option<IssuerRef> {
    let name = if wanted { fields.required(name) } else { fields.optional(name) };
    let name = name.as_ref().and_then(names::object);
    let group = fields.optional(group).map_or(Some(CERT_MANAGER), |field| names::object(&field));
    let kind = fields.optional(kind).map_or(Some("Issuer"), |field| match group {
        // Whose issuers are of other kinds have a group of their own.
        Some(CERT_MANAGER) => field.one_of(&CERT_MANAGER_KINDS),
        _ => names::kind(&field),
    });
    Some(IssuerRef { name: name?.to_owned(), kind: kind?.to_owned(), group: group?.to_owned() })
}
