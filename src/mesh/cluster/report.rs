//! How the objects fare: what there is to tell of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::object::ObjectRef;
use super::objects::ClusterObjects;
use crate::model::policy::PolicySet;

/// Whether an object counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// It does.
    Accepted,
    /// It is broken: what was good of it before stays in force, if there is anything.
    Invalid,
    /// A resource file has one of the same kind, mesh and name.
    ShadowedByFile,
}

/// How one object fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Whether it counts.
    pub acceptance: Acceptance,
    /// Whether it, or what was good of it before, counts: it is in force, unless its backends are still tested.
    pub in_force: bool,
    /// What is wrong, or good to know: sentences without the object's name.
    pub messages: Vec<String>,
}

/// How all objects fare.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The objects that were compiled.
    pub objects: Arc<ClusterObjects>,
    /// How each of them fares.
    pub standings: BTreeMap<ObjectRef, Standing>,
    /// What came out of it, with the resource files.
    pub policies: PolicySet,
}
