//! `identify.unixPeer`.

use std::collections::BTreeMap;

use crate::document::{Field, Fields};

/// A peer of a unix socket, and the proxy that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixPeerRule {
    /// User id.
    pub uid: u32,
    /// Group id; any, if absent.
    pub gid: Option<u32>,
    /// Its mesh.
    pub mesh: String,
    /// Its name.
    pub name: String,
    /// Its workload.
    pub workload: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

pub(super) fn decode(field: &Field<'_>) -> Vec<UnixPeerRule> {
    let mut rules: Vec<UnixPeerRule> = Vec::new();
    for item in field.list().unwrap_or_default() {
        let Some(rule) = UnixPeerRule::decode(&item) else { continue };
        if rules.iter().any(|other| (other.uid, other.gid) == (rule.uid, rule.gid)) {
            item.problem("the same peer is there twice");
        }
        rules.push(rule);
    }
    rules
}

impl UnixPeerRule {
    fn decode(field: &Field<'_>) -> Option<Self> {
        let fields = field.map()?;
        let id = |field: Field<'_>| field.integer(0..=i64::from(u32::MAX)).and_then(|id| u32::try_from(id).ok());
        let text = |field: Field<'_>| field.name().map(str::to_owned);
        let uid = fields.required("uid").and_then(id);
        let gid = fields.optional("gid").and_then(id);
        let mesh = fields.optional("mesh").map_or_else(|| Some("default".to_owned()), text);
        let name = fields.required("name").and_then(text);
        let workload = fields.required("workload").and_then(text);
        let labels = fields.optional("labels").and_then(|field| field.map());
        let labels = labels.iter().flat_map(Fields::entries);
        let labels = labels.filter_map(|(key, field)| Some((key.to_owned(), field.text()?.to_owned()))).collect();
        fields.refuse_others();
        Some(Self { uid: uid?, gid, mesh: mesh?, name: name?, workload: workload?, labels })
    }
}
