//! What resources refer to: mesh Secrets, which have to hold what they are named for. Pure.

use super::Context;
use super::backend::{Reference, Use};
use crate::document::quoted;
use crate::model::bundle::{Bundle, BundleError};
use crate::model::ca_pair::{CaChain, CaKey, CaPairError};
use crate::model::diagnostic::Problem;
use crate::model::policy::DataSource;
use crate::model::secrets::{MeshSecret, MeshSecrets};

/// What is wrong with a reference.
pub(super) struct Wrong {
    pub(super) problem: Problem,
    /// Whether who refers to it does not count. If not, that is told all the same: time alone has made it wrong, or a Secret
    /// that is there cannot be read, and what it held is not known after a restart.
    pub(super) is_void: bool,
}

/// A Secret must hold what it is named for. One that is in no file may be in the cluster, if there is one.
pub(super) fn check(mesh: &str, reference: &Reference, secrets: &MeshSecrets, context: &Context) -> Option<Wrong> {
    let Reference { name, at, meant } = reference;
    let wrong = |what: String, hint: Option<String>, is_void: bool| {
        Some(Wrong { problem: Problem { at: at.clone(), what, hint }, is_void })
    };
    let content = match (secrets.find(mesh, name), secrets.gap()) {
        (Some(MeshSecret::Good(content) | MeshSecret::Unreadable { last: Some(content), .. }), _) => content,
        (Some(MeshSecret::Unreadable { why, last: None }), _) => {
            return wrong(format!("the Secret {} cannot be read: {why}", quoted(name)), None, false);
        }
        (None, _) if context.kubernetes_available => return None,
        (None, Some(why)) => {
            return wrong(format!("the Secret {} has not been found: {why}", quoted(name)), None, false);
        }
        (None, None) => {
            let hint = Some("add it to the resource files".to_owned());
            return wrong(format!("there is no mesh Secret {}", quoted(name)), hint, true);
        }
    };
    let bad_pair = |error: CaPairError| {
        let has_lapsed = matches!(error, CaPairError::Expired { .. });
        wrong(format!("the Secret {}: {error}", quoted(name)), error.hint().map(str::to_owned), !has_lapsed)
    };
    match meant {
        Use::Other => None,
        Use::Bundle => {
            let error = Bundle::from_pem(content.expose(), context.now).err()?;
            let has_lapsed = matches!(error, BundleError::Expired { .. });
            wrong(format!("the Secret {} is no trust bundle: {error}", quoted(name)), None, !has_lapsed)
        }
        Use::CaCertificate { allow_self_signed } => {
            bad_pair(CaChain::from_pem(content.expose(), *allow_self_signed, context.now).err()?)
        }
        Use::CaKey { certificate } => {
            let key = match CaKey::from_pem(content.expose()) {
                Ok(key) => key,
                Err(error) => return bad_pair(error),
            };
            let pem = match certificate {
                DataSource::Inline(pem) => pem,
                DataSource::Secret(name) => secrets.get(mesh, name)?,
                DataSource::File(_) | DataSource::EnvVar(_) | DataSource::NotKept => return None,
            };
            // What is wrong with the certificate itself is told where that is named.
            let chain = CaChain::from_pem(pem.expose(), true, context.now).ok()?;
            bad_pair(key.check_belongs_to(&chain).err()?)
        }
    }
}
