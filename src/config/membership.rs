//! `membership`: which mesh proxies belong to where nothing says it, and whom meshes let in.

use std::collections::BTreeMap;

use crate::document::{Field, Fields};

/// `membership`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// The mesh of proxies for which nothing names one.
    pub default: Option<String>,
    /// Whom meshes let in.
    pub allow: Vec<AllowRule>,
}

/// One of `membership.allow`: criteria of which there is at least one; what is empty is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowRule {
    /// The mesh.
    pub mesh: String,
    /// Namespaces.
    pub namespaces: Vec<String>,
    /// Service accounts; a name alone counts in `namespaces`, of which there is one then.
    pub service_accounts: Vec<ServiceAccountName>,
    /// Workloads.
    pub workloads: Vec<String>,
    /// Labels, all of which a proxy has to have; those of a pod count only beside namespaces or service accounts.
    pub labels: BTreeMap<String, String>,
}

/// `NAMESPACE/NAME` or `NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccountName {
    /// The namespace, if it was given.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

impl Membership {
    /// The meshes that are named, and where.
    pub fn meshes(&self) -> Vec<(String, String)> {
        let default = self.default.iter().map(|mesh| ("membership.default".to_owned(), mesh.clone()));
        let rules = self.allow.iter().enumerate();
        let rules = rules.map(|(index, rule)| (format!("membership.allow[{index}].mesh"), rule.mesh.clone()));
        default.chain(rules).collect()
    }

    pub(super) fn decode(field: &Field<'_>) -> Option<Self> {
        field.strict_map(|fields| Self {
            default: fields.given("default").and_then(|f| f.name().map(str::to_owned)),
            // Whoever writes it wants to keep somebody out: with nothing after it, it must not quietly let in all.
            allow: fields
                .given("allow")
                .map(|f| not_empty(&f))
                .unwrap_or_default()
                .iter()
                .filter_map(AllowRule::decode)
                .collect(),
        })
    }
}

impl AllowRule {
    fn decode(field: &Field<'_>) -> Option<Self> {
        let rule = field.strict_map(|fields| {
            let mesh = fields.required("mesh").and_then(|f| f.name().map(str::to_owned));
            let names = |key| fields.given(key).map(|f| names(&f));
            let namespaces = names("namespaces");
            let service_accounts = fields.given("serviceAccounts").map(|f| service_accounts(&f, namespaces.is_some()));
            let workloads = names("workloads");
            let labels = fields.given("labels").map(|f| labels(&f));
            if namespaces.is_none() && service_accounts.is_none() && workloads.is_none() && labels.is_none() {
                let hint =
                    "give namespaces, serviceAccounts, workloads or labels; a mesh without a rule lets in everybody";
                field.problem_with_hint("has no criterion", hint);
            }
            Some(Self {
                mesh: mesh?,
                namespaces: namespaces.unwrap_or_default(),
                service_accounts: service_accounts.unwrap_or_default(),
                workloads: workloads.unwrap_or_default(),
                labels: labels.unwrap_or_default(),
            })
        });
        rule.flatten()
    }
}

/// The items of a list that has some: an empty one would mean nobody to one reader and everybody to another.
fn not_empty<'t>(field: &Field<'t>) -> Vec<Field<'t>> {
    let items = field.list();
    if items.as_ref().is_some_and(Vec::is_empty) {
        field.problem_with_hint("must not be empty", "leave it out if it does not matter");
    }
    items.unwrap_or_default()
}

fn names(field: &Field<'_>) -> Vec<String> {
    not_empty(field).iter().filter_map(|item| item.name().map(str::to_owned)).collect()
}

fn service_accounts(field: &Field<'_>, has_namespaces: bool) -> Vec<ServiceAccountName> {
    let account = |item: &Field<'_>| {
        let text = item.name()?;
        match text.split_once('/') {
            None if !has_namespaces => {
                let hint = format!("write NAMESPACE/{text}, or give namespaces beside it");
                item.problem_with_hint("every namespace may have a service account of that name", hint);
                None
            }
            None => Some(ServiceAccountName { namespace: None, name: text.to_owned() }),
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Some(ServiceAccountName { namespace: Some(namespace.to_owned()), name: name.to_owned() })
            }
            Some(_) => {
                item.problem("is not a service account; expected NAMESPACE/NAME");
                None
            }
        }
    };
    not_empty(field).iter().filter_map(account).collect()
}

fn labels(field: &Field<'_>) -> BTreeMap<String, String> {
    let Some(fields) = field.map() else { return BTreeMap::new() };
    let labels: BTreeMap<_, _> =
        Fields::entries(&fields).filter_map(|(key, value)| Some((key.to_owned(), value.text()?.to_owned()))).collect();
    if fields.entries().next().is_none() {
        field.problem_with_hint("must not be empty", "leave it out if it does not matter");
    }
    labels
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
