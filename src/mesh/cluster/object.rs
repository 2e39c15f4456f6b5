//! One object of the cluster: which it is, and the document that it is compiled from.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::core::error_boundary::InvalidObject;
use serde_json::{Value, json};

use crate::document::Node;
use crate::mesh::Source;
use crate::model::diagnostic::{Location, Problem};

/// The API group of Kuma's resources.
const GROUP: &str = "kuma.io";
/// The version of it.
const VERSION: &str = "v1alpha1";
/// Label: the mesh that an object belongs to.
const MESH: &str = "kuma.io/mesh";
/// The mesh where there is no such label.
const DEFAULT_MESH: &str = "default";
/// What the paths of objects begin with; see [`ObjectRef::path`].
const MARK: &[u8] = b"\0cluster/";

/// What `path` stands for in the cluster: `meshes`, or `meshes/default`; `None` if it is a file's.
pub fn in_cluster(path: &Path) -> Option<&str> {
    std::str::from_utf8(path.as_os_str().as_bytes().strip_prefix(MARK)?).ok()
}

/// The kinds of object that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// `Mesh`, which has no namespace.
    Mesh,
    /// `MeshIdentity`; of the system namespace only.
    MeshIdentity,
    /// `MeshTrust`; of the system namespace only.
    MeshTrust,
}

impl ObjectKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mesh, Self::MeshIdentity, Self::MeshTrust];

    /// `kind` of such an object.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh",
            Self::MeshIdentity => "MeshIdentity",
            Self::MeshTrust => "MeshTrust",
        }
    }

    /// Its name in the API's paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Mesh => "meshes",
            Self::MeshIdentity => "meshidentities",
            Self::MeshTrust => "meshtrusts",
        }
    }

    /// What the paths of its objects begin with; see [`ObjectRef::path`].
    pub fn path(self) -> PathBuf {
        PathBuf::from(OsStr::from_bytes(&[MARK, self.plural().as_bytes()].concat()))
    }

    /// Its group and version, as discovery has them.
    pub(super) fn group_version(self) -> String {
        self.resource().api_version
    }

    /// What the client needs to know of the kind.
    pub(super) fn resource(self) -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, self.name()), self.plural())
    }
}

/// Which object it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: ObjectKind,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl ObjectRef {
    /// The path that stands for this object where resources are told apart by their files. No file has it: it begins
    /// with a NUL. It never leaves [`compile`](crate::mesh::compile).
    pub fn path(&self) -> PathBuf {
        self.kind.path().join(&*self.name)
    }

    /// The object that `path` stands for; `None` if it is a file's.
    pub fn of_path(path: &Path) -> Option<Self> {
        let (plural, name) = in_cluster(path)?.split_once('/')?;
        let kind = ObjectKind::ALL.into_iter().find(|kind| kind.plural() == plural)?;
        Some(Self { kind, name: name.into() })
    }
}

impl fmt::Display for ObjectRef {
    /// `Mesh default (cluster)`, as in [`Location::resource`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (cluster)", self.kind.name(), self.name)
    }
}

/// An object as it was seen last.
#[derive(Debug)]
pub struct Object {
    /// Which it is.
    pub at: ObjectRef,
    /// The mesh that it is of.
    pub mesh: Arc<str>,
    /// `metadata.uid`: another one if it was deleted and made again.
    pub uid: String,
    /// `metadata.namespace`; `None` of a Mesh.
    pub namespace: Option<String>,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// `metadata.resourceVersion`.
    pub resource_version: Option<String>,
    /// `status.conditions`, whoever wrote them.
    pub conditions: Vec<Value>,
    /// What is compiled: everything but the status and what the API server keeps of the object.
    pub source: Source,
}

impl Object {
    /// What a watch has delivered; `None` if it has no name, which no object of an API server does.
    pub(super) fn new(kind: ObjectKind, object: Result<DynamicObject, InvalidObject>) -> Option<Self> {
        let (metadata, mut data, invalid) = match object {
            Ok(object) => (object.metadata, object.data, None),
            Err(invalid) => (invalid.metadata, Value::Null, Some(invalid.error)),
        };
        let at = ObjectRef { kind, name: metadata.name.as_deref()?.into() };
        let mesh = metadata.labels.as_ref().and_then(|labels| labels.get(MESH)).map_or(DEFAULT_MESH, String::as_str);
        let mesh = if kind == ObjectKind::Mesh { at.name.clone() } else { mesh.into() };
        let conditions = data.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let path = Arc::new(at.path());
        let documents = match (invalid, data.as_object_mut()) {
            (None, Some(fields)) => {
                fields.remove("status");
                fields.insert("apiVersion".to_owned(), json!(format!("{GROUP}/{VERSION}")));
                fields.insert("kind".to_owned(), json!(kind.name()));
                let named = json!({
                    "name": metadata.name, "namespace": metadata.namespace, "labels": metadata.labels,
                });
                fields.insert("metadata".to_owned(), named);
                Ok(vec![Node::from(data)])
            }
            (invalid, _) => {
                let what = format!("is not an object: {}", invalid.unwrap_or_else(|| "it has no fields".to_owned()));
                let resource = Some(format!("{} {}", kind.name(), at.name));
                let at = Location { file: Some(path.clone()), resource, ..Location::default() };
                Err(vec![Problem { at, what, hint: None }])
            }
        };
        Some(Self {
            mesh,
            uid: metadata.uid.unwrap_or_default(),
            namespace: metadata.namespace,
            generation: metadata.generation,
            resource_version: metadata.resource_version,
            conditions,
            source: Source { path, documents },
            at,
        })
    }

    /// Whether it is the same object and says the same, whatever its status. Not by its generation: where a kind has no
    /// status subresource, each write of a status makes a new one.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.at == other.at && self.uid == other.uid && self.source.documents == other.source.documents
    }
}
