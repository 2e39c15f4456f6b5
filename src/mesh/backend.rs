//! `spec.mtls.backends[]`: the types of CA, in both spellings that Kong's documents use (S0-1, S0-10, S4-4).

use std::sync::Arc;
use std::time::Duration;

use super::{Context, ca_cert};
use crate::document::{Field, Fields};
use crate::model::diagnostic::Location;
use crate::model::policy::{Backend, BackendKind, BuiltinSettings, CaSource, IssuerRef};

/// Bound on calls to a CA unless `dpCert.requestTimeout` says otherwise; Kuma's default too.
pub(super) const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

const SECOND: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Below, renewal would have no time to retry; above, it is no certificate for a workload any more.
const LEAF_LIFETIME: std::ops::RangeInclusive<Duration> = SECOND.saturating_mul(5)..=YEAR.saturating_mul(10);
const ROOT_LIFETIME: std::ops::RangeInclusive<Duration> = SECOND.saturating_mul(5)..=YEAR.saturating_mul(100);
const REQUEST_TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=SECOND.saturating_mul(3600);

/// A mesh Secret that a backend names, and where.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    pub(super) name: Arc<str>,
    pub(super) at: Location,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Builtin,
    CertManager,
    /// Known from the documents, but the program has nothing to do it with.
    NotYet(&'static str),
}

const TYPES: [(&str, Type); 7] = [
    ("builtin", Type::Builtin),
    ("certmanager", Type::CertManager),
    ("cert-manager", Type::CertManager),
    ("provided", Type::NotYet("provided")),
    ("vault", Type::NotYet("vault")),
    ("acmpca", Type::NotYet("acmpca")),
    ("acm", Type::NotYet("acm")),
];

/// Decodes one backend; the Secrets that it names are added to `references`.
pub(super) fn decode(
    field: &Field<'_>,
    mesh: &str,
    context: &Context,
    references: &mut Vec<Reference>,
) -> Option<Backend> {
    let fields = field.map()?;
    let name = fields.required("name").and_then(|field| field.name());
    let type_field = fields.required("type");
    let kind = type_field.as_ref().and_then(|field| field.one_of(&TYPES));
    let common = Common::decode(&fields);
    let (type_field, kind) = (type_field?, kind?);

    let kind = match kind {
        Type::Builtin => decode_builtin(&fields, common.leaf_lifetime),
        Type::CertManager => {
            if !context.kubernetes_available {
                type_field.problem_with_hint(
                    "needs a Kubernetes cluster with cert-manager, and this server has none",
                    "run it in a cluster or give it a kubeconfig, and do not turn `kubernetes` off; or use the type \
                     builtin",
                );
            }
            decode_cert_manager(&fields, context, references)
        }
        Type::NotYet(name) => {
            // Only what all backends share was looked at: the rest is this type's own, and nothing here knows it.
            type_field.problem_with_hint(
                format!("{name} is a known type of backend, but not in the program yet: this mesh is not served"),
                "use certmanager or builtin, or leave this Mesh out",
            );
            return None;
        }
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

/// `conf.{issuerRef, caCert}` (S0-10, S1-1) or `certManager.{issuerName, issuerKind}` (S4-4), whichever the type says;
/// both at once if they agree.
fn decode_cert_manager(fields: &Fields<'_>, context: &Context, references: &mut Vec<Reference>) -> Option<BackendKind> {
    let backend = fields.as_field();
    let conf = fields.optional("conf");
    let conf_parts = conf.as_ref().and_then(|field| {
        field.strict_map(|fields| {
            let issuer = fields.optional("issuerRef").map(|field| decode_issuer_ref(&field));
            (issuer, fields.optional("caCert").map(|field| ca_cert::decode(&field, context, references)))
        })
    });
    let block = fields.optional("certManager");
    let block_parts = block.as_ref().and_then(|field| {
        field.strict_map(|fields| {
            let named = ["issuerName", "issuerKind", "issuerGroup"].iter().any(|key| field.node().get(key).is_some());
            let issuer = decode_issuer(fields, ["issuerName", "issuerKind", "issuerGroup"], named);
            let issuer = named.then_some(issuer);
            (issuer, fields.optional("caCert").map(|field| ca_cert::decode(&field, context, references)))
        })
    });
    let (conf_issuer, conf_ca) = conf_parts.unwrap_or_default();
    let (block_issuer, block_ca) = block_parts.unwrap_or_default();

    let issuer = agree(backend, conf_issuer, block_issuer, "conf.issuerRef and certManager");
    let trust = agree(backend, conf_ca, block_ca, "conf.caCert and certManager.caCert");
    let Some(issuer) = issuer else {
        backend.problem_with_hint(
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

fn decode_issuer_ref(field: &Field<'_>) -> Option<IssuerRef> {
    field.strict_map(|fields| decode_issuer(fields, ["name", "kind", "group"], true)).flatten()
}

/// Only the name is required; kind and group are cert-manager's defaults (S0-10).
fn decode_issuer(fields: &Fields<'_>, [name, kind, group]: [&'static str; 3], wanted: bool) -> Option<IssuerRef> {
    let name = if wanted { fields.required(name) } else { fields.optional(name) };
    let text = |field: Option<Field<'_>>, default: &str| {
        field.map_or_else(|| Some(default.to_owned()), |field| field.name().map(str::to_owned))
    };
    let (kind, group) = (text(fields.optional(kind), "Issuer"), text(fields.optional(group), "cert-manager.io"));
    Some(IssuerRef { name: name?.name()?.to_owned(), kind: kind?, group: group? })
}
