//! `envoy-sds rotate`: new certificates, now.

use clap::{ArgGroup, Args};
use tonic::Code;

use super::admin_api::{AdminApi, AdminFlags, Selection};
use super::{Failure, counted, output, runtime};
use crate::admin::proto::v1::RotateRequest;

/// Renew the certificate of one proxy, of a mesh, or of all, now
///
/// It returns when the renewals are queued; `envoy-sds proxies` shows the new serials, or why there is none.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("selection").args(["proxy", "mesh", "all"]).required(true).multiple(true),
    after_help = "Examples:\n  envoy-sds rotate web-0\n  envoy-sds rotate --mesh default\n  envoy-sds rotate --all"
)]
pub(super) struct Rotate {
    /// This one: [MESH/]NAME or a SPIFFE ID
    #[arg(value_name = "PROXY")]
    proxy: Option<String>,

    /// Those of this mesh
    #[arg(long, value_name = "MESH")]
    mesh: Option<String>,

    /// Every proxy of the server
    #[arg(long, conflicts_with_all = ["proxy", "mesh"])]
    all: bool,

    #[command(flatten)]
    admin: AdminFlags,
}

impl Rotate {
    pub(super) fn run(self) -> Result<(), Failure> {
        let count = runtime()?.block_on(self.rotate())?;
        output::line(format_args!("renewal queued: {}", counted(count, "proxy")))
    }

    async fn rotate(&self) -> Result<usize, Failure> {
        let mut api = AdminApi::connect(&self.admin).await?;
        if self.all {
            return Ok(api.rotate(RotateRequest { all: true, ..RotateRequest::default() }).await?);
        }
        let mut outcome = Ok(0);
        for Selection { mesh, name, spiffe_id } in Selection::readings(self.mesh.as_deref(), self.proxy.as_deref()) {
            let next = api.rotate(RotateRequest { mesh, name, spiffe_id, all: false }).await;
            let not_found = next.as_ref().is_err_and(|error| error.code == Code::NotFound);
            // The first reading is the likelier one, so its error is the one to show.
            if !not_found || outcome.is_ok() {
                outcome = next;
            }
            if !not_found {
                break;
            }
        }
        Ok(outcome?)
    }
}
