//! What resources refer to: mesh Secrets, which have to hold what they are named for. Pure.

use super::Context;
use super::backend::{Reference, Use};
use crate::document::quoted;
use crate::model::bundle::Bundle;
use crate::model::ca_pair::{CaChain, CaKey, CaPairError};
use crate::model::diagnostic::Problem;
use crate::model::policy::DataSource;
use crate::model::secrets::MeshSecrets;

/// A Secret must hold what it is named for. One that is in no file may be in the cluster, if there is one.
pub(super) fn check(mesh: &str, reference: &Reference, secrets: &MeshSecrets, context: &Context) -> Option<Problem> {
    let Reference { name, at, meant } = reference;
    let problem = |what: String, hint: Option<String>| Some(Problem { at: at.clone(), what, hint });
    let Some(content) = secrets.get(mesh, name) else {
        if context.kubernetes_available {
            return None;
        }
        return problem(
            format!("there is no mesh Secret {}", quoted(name)),
            Some("add it to the resource files".to_owned()),
        );
    };
    let bad_pair =
        |error: CaPairError| problem(format!("the Secret {}: {error}", quoted(name)), error.hint().map(str::to_owned));
    match meant {
        Use::Other => None,
        Use::Bundle => {
            let error = Bundle::from_pem(content.expose(), context.now).err()?;
            problem(format!("the Secret {} is no trust bundle: {error}", quoted(name)), None)
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
                DataSource::File(_) | DataSource::EnvVar(_) => return None,
            };
            // What is wrong with the certificate itself is told where that is named.
            let chain = CaChain::from_pem(pem.expose(), true, context.now).ok()?;
            bad_pair(key.check_belongs_to(&chain).err()?)
        }
    }
}
