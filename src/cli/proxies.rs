//! `envoy-sds proxies`: who is connected, and how its certificate is doing.

use anyhow::anyhow;
use clap::{Args, ValueEnum};

use super::admin_api::{AdminApi, AdminFlags, Selection};
use super::{Failure, output, proxy_json, proxy_table, refusals, runtime};
use crate::admin::proto::v1;

/// List the proxies of a running server, with their secrets and certificates
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  envoy-sds proxies --mesh default\n  envoy-sds proxies web-0 -o json\n  envoy-sds proxies --refused"
)]
pub(super) struct Proxies {
    /// Only this one: [MESH/]NAME or a SPIFFE ID
    #[arg(value_name = "PROXY")]
    proxy: Option<String>,

    /// Only those of this mesh
    #[arg(long, value_name = "MESH")]
    mesh: Option<String>,

    /// List whom the server has refused lately instead, and why
    #[arg(long, conflicts_with_all = ["proxy", "mesh"])]
    refused: bool,

    /// A table, a table with everything, or JSON
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,

    #[command(flatten)]
    admin: AdminFlags,
}

/// How the proxies are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Wide,
    Json,
}

impl Proxies {
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.refused {
            return self.run_refused();
        }
        let proxies = runtime()?.block_on(self.list())?;
        if let (true, Some(proxy)) = (proxies.is_empty(), &self.proxy) {
            return Err(anyhow!("there is no proxy {proxy:?}").into());
        }
        match self.output {
            Format::Table => output::text(proxy_table::table(&proxies, false)),
            Format::Wide => output::text(proxy_table::table(&proxies, true)),
            Format::Json => output::line(proxy_json::document(&proxies).map_err(anyhow::Error::from)?),
        }
    }

    fn run_refused(&self) -> Result<(), Failure> {
        let refusals = async { Ok::<_, Failure>(AdminApi::connect(&self.admin).await?.refusals().await?) };
        let refusals = runtime()?.block_on(refusals)?;
        match self.output {
            Format::Table => output::text(refusals::table(&refusals, false)),
            Format::Wide => output::text(refusals::table(&refusals, true)),
            Format::Json => output::line(refusals::document(&refusals).map_err(anyhow::Error::from)?),
        }
    }

    /// Those that are meant by the first reading of the words that means any.
    async fn list(&self) -> Result<Vec<v1::Proxy>, Failure> {
        let mut api = AdminApi::connect(&self.admin).await?;
        let mut proxies = Vec::new();
        for selection in Selection::readings(self.mesh.as_deref(), self.proxy.as_deref()) {
            proxies = api.proxies(selection).await?;
            if !proxies.is_empty() {
                break;
            }
        }
        Ok(proxies)
    }
}
