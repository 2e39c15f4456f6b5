//! `identify.unixPeer`.

use std::collections::BTreeMap;

use crate::document::{Field, Fields};
use crate::model::{proxy_names, template};

/// The mesh of those that name none.
const DEFAULT_MESH: &str = "default";

/// Some peers of a unix socket, and who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixPeerRule {
    /// User id; any, if absent.
    pub uid: Option<u32>,
    /// Group id; any, if absent.
    pub gid: Option<u32>,
    /// Who is behind them.
    pub is: UnixPeerIs,
}

/// Who is behind a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnixPeerIs {
    /// `pod: true`: the Kubernetes pod that its process runs in.
    Pod,
    /// A proxy.
    Proxy {
        /// Its mesh.
        mesh: String,
        /// Its name.
        name: String,
        /// Its workload.
        workload: String,
        /// Its labels.
        labels: BTreeMap<String, String>,
    },
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
        let pod = fields.optional("pod").and_then(|field| field.boolean()).unwrap_or_default();
        // A proxy is one user's: whoever else is in its group would be it too. And with nothing after it, neither is anybody's.
        let uid = if pod { fields.given("uid") } else { fields.required("uid") };
        let (uid_given, uid) = (uid.is_some(), uid.and_then(id));
        let gid = fields.given("gid");
        let (gid_given, gid) = (gid.is_some(), gid.and_then(id));
        let is = if pod { Some(UnixPeerIs::Pod) } else { UnixPeerIs::proxy(&fields) };
        fields.refuse_others();
        // One that cannot be read must not become anybody's.
        let readable = uid_given == uid.is_some() && gid_given == gid.is_some() && (pod || uid_given);
        Some(Self { uid, gid, is: is.filter(|_| readable)? })
    }

    /// Whether it asks for the pod behind a peer.
    pub fn is_pod(&self) -> bool {
        self.is == UnixPeerIs::Pod
    }
}

impl UnixPeerIs {
    fn proxy(fields: &Fields<'_>) -> Option<Self> {
        let mesh = match fields.given("mesh") {
            None => Some(DEFAULT_MESH.to_owned()),
            Some(field) => {
                name(&field).filter(|mesh| field.check(proxy_names::check_mesh(mesh)).is_some()).map(str::to_owned)
            }
        };
        let workload = fields.required("workload").and_then(|field| {
            let workload = name(&field)?;
            if proxy_names::check_spiffe_id(DEFAULT_MESH, workload).is_ok() && template::is_clean(workload) {
                return Some(workload.to_owned());
            }
            field.problem_with_hint("cannot be part of a SPIFFE ID", "letters, digits, -, _ and .");
            None
        });
        let name = fields.required("name").and_then(|field| name(&field).map(str::to_owned));
        let labels = fields.given("labels").and_then(|field| {
            let labels = field.map()?;
            let labels = labels.entries().filter_map(|(key, field)| Some((key.to_owned(), field.text()?.to_owned())));
            let labels: BTreeMap<_, _> = labels.collect();
            field.check(proxy_names::check_new_labels(&labels)).map(|()| labels)
        });
        Some(Self::Proxy { mesh: mesh?, name: name?, workload: workload?, labels: labels.unwrap_or_default() })
    }
}

/// What may name a proxy; see `token issue`.
fn name<'t>(field: &Field<'t>) -> Option<&'t str> {
    let text = field.name()?;
    field.check(proxy_names::check_name(text)).map(|()| text)
}
