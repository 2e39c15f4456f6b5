//! One document: which resource it is, in the Kubernetes form or the Universal form, and what it defines.

use std::path::PathBuf;
use std::sync::Arc;

use super::Context;
use super::identity::{self, IdentityDefinition};
use super::policy::{self, MeshDefinition};
use super::{names, secret, trust};
use crate::document::{Field, Fields, Node, Report, may_mean, quoted};
use crate::model::diagnostic::{Location, Problem};
use crate::model::policy::TrustAnchors;
use crate::model::secrets::SecretBytes;

/// The API group and version of Kuma's resources.
const KUMA_API: &str = "kuma.io/v1alpha1";

/// The group alone.
const KUMA_GROUP: &str = "kuma.io";

/// The mesh of a resource that names none.
const DEFAULT_MESH: &str = "default";

/// What tells resources apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Mesh(Arc<str>),
    Secret { mesh: Arc<str>, name: Arc<str> },
    Identity { mesh: Arc<str>, name: Arc<str> },
    Trust { mesh: Arc<str>, name: Arc<str> },
}

/// What a good resource says.
#[derive(Debug, Clone)]
pub(super) enum Definition {
    Mesh(MeshDefinition),
    Secret(SecretBytes),
    Identity(Box<IdentityDefinition>),
    Trust(Arc<TrustAnchors>),
}

/// What a document turned out to be.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Something broken that cannot be told apart from other resources: it might be any of those that its file had.
    Unidentified,
    /// None that this program reads. It hides none either, but may have taken the place of one that its file had.
    Foreign,
    /// A resource; without a definition if it is broken.
    Known { key: Key, at: Location, definition: Option<Definition> },
}

/// A document with everything that there is to say about it.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) outcome: Outcome,
    pub(super) problems: Vec<Problem>,
    pub(super) notices: Vec<Problem>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mesh,
    MeshIdentity,
    MeshTrust,
    Secret,
}

impl Kind {
    const ALL: [(&'static str, Self); 4] = [
        ("Mesh", Self::Mesh),
        ("MeshIdentity", Self::MeshIdentity),
        ("MeshTrust", Self::MeshTrust),
        ("Secret", Self::Secret),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| *name)
    }

    fn decode(field: &Field<'_>) -> Option<Self> {
        let name = field.name()?;
        let found = Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
        if found.is_none() {
            field.problem_with_hint(
                format!("{} is not a resource that this program reads", quoted(name)),
                "it reads Mesh, MeshIdentity, MeshTrust and mesh Secrets; keep others in files that are not listed",
            );
        }
        found
    }
}

/// Decodes a document from `file` (`None`: from the cluster).
pub(super) fn decode(document: &Node, file: Option<Arc<PathBuf>>, context: &Context) -> Decoded {
    let report = Report::new(file);
    let outcome = decode_outcome(&report.root(document), context);
    let outcome =
        outcome.unwrap_or_else(|| if is_foreign(document) { Outcome::Foreign } else { Outcome::Unidentified });
    let (problems, notices) = report.finish();
    Decoded { outcome, problems, notices }
}

/// Whether a document that is no resource is plainly something else: by its kind, which is not even one with slips of the pen, or
/// by the group of its API. A list of whatever it is may have anything in it.
fn is_foreign(document: &Node) -> bool {
    let text = |key| document.get(key).and_then(Node::text).filter(|text| !text.trim().is_empty());
    let is_ours = |kind: &str| Kind::ALL.iter().any(|(ours, _)| may_mean(kind, ours));
    let is_foreign_api = || {
        let group = text("apiVersion").and_then(|version| version.split_once('/'));
        group.is_some_and(|(group, _)| !may_mean(group, KUMA_GROUP))
    };
    match (text("kind"), text("type")) {
        (Some(kind), _) if kind.ends_with("List") => false,
        (Some(kind), other) => is_foreign_api() || !is_ours(kind) && !other.is_some_and(is_ours),
        (None, Some(kind)) => {
            let is_universal = ["apiVersion", "kind", "metadata"].iter().all(|key| document.get(key).is_none());
            is_universal && !is_ours(kind)
        }
        (None, None) => false,
    }
}

fn decode_outcome(root: &Field<'_>, context: &Context) -> Option<Outcome> {
    let fields = root.map()?;
    let kubernetes = ["apiVersion", "kind", "metadata"].iter().any(|key| root.node().get(key).is_some());
    if kubernetes {
        decode_kubernetes(&fields, context)
    } else if root.node().get("type").is_some() {
        decode_universal(&fields, context)
    } else {
        root.problem_with_hint(
            "is not a resource",
            "it needs apiVersion, kind and metadata (Kubernetes), or type and name (Universal)",
        );
        None
    }
}

fn decode_kubernetes(fields: &Fields<'_>, context: &Context) -> Option<Outcome> {
    // Whatever is wrong from here on makes the resource void.
    let report = fields.as_field().report();
    let before = report.count();
    let kind = fields.required("kind").and_then(|field| Kind::decode(&field));
    let api_version = fields.required("apiVersion");
    let metadata = fields.required("metadata").and_then(|field| field.map());
    let name_field = metadata.as_ref().and_then(|metadata| metadata.required("name"));
    let name = name_field.as_ref().and_then(Field::name);
    let (kind, name_field, name, metadata) = (kind?, name_field?, name?, metadata?);
    let mesh = decode_mesh_label(&metadata);
    // A Mesh is known by its name alone. Any other resource must not be taken for one of another mesh, such as `default`.
    let mesh = if kind == Kind::Mesh { mesh.unwrap_or(DEFAULT_MESH) } else { mesh? };
    let key = announce(fields, kind, name, mesh);

    let expected = if kind == Kind::Secret { "v1" } else { KUMA_API };
    if let Some(field) = api_version
        && field.text().is_some_and(|found| found != expected)
    {
        field.problem(format!("a {} has the apiVersion {expected}", kind.name()));
    }
    let spec = || fields.optional("spec").and_then(|field| field.map());
    let definition = match kind {
        Kind::Secret => {
            let _ = names::secret(&name_field);
            secret::decode_kubernetes(fields, &metadata, context).map(Definition::Secret)
        }
        Kind::Mesh => {
            let mtls = spec().and_then(|spec| spec.optional("mtls"));
            policy::decode(name, &name_field, mtls.as_ref(), context).map(Definition::Mesh)
        }
        Kind::MeshIdentity | Kind::MeshTrust => {
            if let Some(field) = metadata.optional("namespace")
                && field.text().is_some_and(|found| found != context.system_namespace)
            {
                let (kind, namespace) = (kind.name(), &context.system_namespace);
                field.problem(format!("a {kind} is in the system namespace, {namespace}"));
            }
            let spec = fields.required("spec").and_then(|field| field.map());
            spec.and_then(|spec| {
                let definition = decode_spec(kind, (name, &name_field), mesh, &spec, context);
                spec.refuse_others();
                definition
            })
        }
    };
    let definition = definition.filter(|_| report.count() == before);
    Some(Outcome::Known { key, at: name_field.location(), definition })
}

/// The mesh that a resource belongs to by its label; `None` if that is broken.
fn decode_mesh_label<'t>(metadata: &Fields<'t>) -> Option<&'t str> {
    let Some(labels) = metadata.optional("labels") else { return Some(DEFAULT_MESH) };
    let Some(mesh) = labels.map()?.optional("kuma.io/mesh") else { return Some(DEFAULT_MESH) };
    mesh.name()
}

fn decode_universal(fields: &Fields<'_>, context: &Context) -> Option<Outcome> {
    let report = fields.as_field().report();
    let before = report.count();
    let kind = fields.required("type").and_then(|field| Kind::decode(&field));
    let name_field = fields.required("name");
    let name = name_field.as_ref().and_then(Field::name);
    let (kind, name_field, name) = (kind?, name_field?, name?);
    let mesh = fields.optional("mesh").map_or(Some(DEFAULT_MESH), |field| field.name())?;
    let key = announce(fields, kind, name, mesh);

    let definition = match kind {
        Kind::Secret => {
            let _ = names::secret(&name_field);
            secret::decode_universal(fields).map(Definition::Secret)
        }
        Kind::Mesh => {
            let inside = fields.optional("spec").and_then(|field| field.map()).and_then(|spec| spec.optional("mtls"));
            let outside = fields.optional("mtls");
            if let (Some(_), Some(inside)) = (&outside, &inside) {
                inside.problem("there is an mtls outside of spec as well; one of them has to go");
            }
            policy::decode(name, &name_field, outside.or(inside).as_ref(), context).map(Definition::Mesh)
        }
        Kind::MeshIdentity | Kind::MeshTrust => match fields.optional("spec") {
            None => decode_spec(kind, (name, &name_field), mesh, fields, context),
            Some(spec) => spec.map().and_then(|spec| {
                let definition = decode_spec(kind, (name, &name_field), mesh, &spec, context);
                spec.refuse_others();
                definition
            }),
        },
    };
    let definition = definition.filter(|_| report.count() == before);
    Some(Outcome::Known { key, at: name_field.location(), definition })
}

/// The fields of a `MeshIdentity` or `MeshTrust`, wherever its form has them.
fn decode_spec(
    kind: Kind,
    (name, name_field): (&str, &Field<'_>),
    mesh: &str,
    spec: &Fields<'_>,
    context: &Context,
) -> Option<Definition> {
    // The mesh need not have a Mesh resource, so nobody else looks at its name. What else is wrong is told all the same.
    policy::check_trust_domain(mesh, spec.as_field());
    match kind {
        Kind::MeshIdentity => {
            identity::decode(name, name_field, mesh, spec, context).map(Box::new).map(Definition::Identity)
        }
        _ => trust::decode(name, spec, context).map(Arc::new).map(Definition::Trust),
    }
}

/// From here on, problems are about this resource.
fn announce(fields: &Fields<'_>, kind: Kind, name: &str, mesh: &str) -> Key {
    let report = fields.as_field().report();
    // Not validated yet, and on its way into a log.
    let shown = |name: &str| match names::looks_like_content(name) {
        true => "?".to_owned(),
        false => name.chars().take(80).flat_map(char::escape_debug).collect::<String>(),
    };
    if kind == Kind::Mesh {
        report.about(format!("Mesh {}", shown(name)));
        return Key::Mesh(name.into());
    }
    report.about(format!("{} {}/{}", kind.name(), shown(mesh), shown(name)));
    let (mesh, name) = (mesh.into(), name.into());
    match kind {
        Kind::MeshIdentity => Key::Identity { mesh, name },
        Kind::MeshTrust => Key::Trust { mesh, name },
        Kind::Secret | Kind::Mesh => Key::Secret { mesh, name },
    }
}
