//! `envoy-sds token issue`: proxy tokens, signed offline.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::{Failure, output};
use crate::config::Surroundings;
use crate::identify::proxy_token::{
    DEFAULT_AUDIENCE, Issued, KEY_FOLDER, Newest, Request, SigningKey, create, issue, newest_or_create,
};
use crate::model::diagnostic::Problem;
use crate::model::duration;
use crate::runtime::clock::Clock;
use crate::runtime::private_file;

/// Proxy tokens: what Envoys prove with who they are
#[derive(Debug, Args)]
#[command(after_help = "Example: envoy-sds token issue --name web-0 --workload web --out token")]
pub(super) struct Token {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    Issue(Issue),
}

/// Sign proxy tokens, offline, with the newest key in the state directory (made if there is none)
///
/// Only tokens go to stdout, or to --out: one alone without an end of line, so that every client can send the file as it is;
/// several one a line. Their ids, by which they are revoked (identify.proxyToken.revocations), and their ends go to stderr if
/// stdout is a terminal, or with --verbose.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: envoy-sds token issue --mesh default --name web-0 --workload web --valid-for 30d --out token\n\n\
                        The keys are STATE_DIR/proxy-token/<kid>.key. All of them verify; the one whose file was modified \
                        last signs. To replace a key: --new-key, hand out new tokens, then remove the old key's file, which \
                        ends the streams of its tokens."
)]
struct Issue {
    /// Mesh that the proxy belongs to
    #[arg(long, value_name = "MESH", default_value = "default")]
    mesh: String,

    /// Name of the proxy, its own: proxies with one name are one proxy
    #[arg(long, value_name = "NAME")]
    name: String,

    /// Workload, which becomes the SPIFFE ID: spiffe://MESH/WORKLOAD, unless a MeshIdentity says otherwise
    #[arg(long, value_name = "WORKLOAD")]
    workload: String,

    /// Label of the workload, for policy; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,

    /// How long the token is good, such as 30m, 24h or 1y
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration::parse)]
    valid_for: Duration,

    /// Issue this many, for NAME-0, NAME-1, …
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: Option<u32>,

    /// Whom the token is for, one of identify.proxyToken.audiences; repeatable
    #[arg(long = "audience", value_name = "AUDIENCE", default_value = DEFAULT_AUDIENCE)]
    audiences: Vec<String>,

    /// Where the server keeps its keys [default: $XDG_STATE_HOME/envoy-sds or ~/.local/state/envoy-sds]
    #[arg(long, env = "ENVOY_SDS_STATE_DIR", value_name = "FOLDER")]
    state_dir: Option<PathBuf>,

    /// Write to this file instead of stdout: for this user alone (0600), and moved over the one before, as Envoy needs it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Make a new key first, and sign with it; the others go on verifying
    #[arg(long)]
    new_key: bool,

    /// Say id and end of each token on stderr
    #[arg(long, short)]
    verbose: bool,
}

impl Token {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            TokenCommand::Issue(issue) => issue.run(),
        }
    }
}

impl Issue {
    fn run(self) -> Result<(), Failure> {
        let state_dir = self.state_dir.clone().or_else(|| Surroundings::of_process().state_dir());
        let state_dir = state_dir.ok_or_else(|| {
            Failure::Usage("nobody says where the keys are: give --state-dir, or set HOME".to_owned())
        })?;
        let mut request = Request {
            mesh: self.mesh.clone(),
            name: self.name.clone(),
            workload: self.workload.clone(),
            labels: labels(&self.labels)?,
            audiences: self.audiences.clone(),
            valid_for: self.valid_for,
        };
        // Before a key is made for nothing; the last name is the longest.
        if let Some(count) = self.count {
            request.name = format!("{}-{}", self.name, count - 1);
        }
        let now = Clock::system().now();
        request.check(now).map_err(Failure::Usage)?;
        let key = self.key(&state_dir.join(KEY_FOLDER))?;
        let mut file = Zeroizing::new(String::new());
        for number in 0..self.count.unwrap_or(1) {
            if self.count.is_some() {
                request.name = format!("{}-{number}", self.name);
            }
            let issued = issue(&key, &request, now).map_err(Failure::Usage)?;
            self.tell(&request, &issued, &mut file)?;
        }
        match &self.out {
            Some(out) => Ok(private_file::write(out, file.as_bytes()).context("cannot write the file of --out")?),
            None => Ok(()),
        }
    }

    fn key(&self, folder: &std::path::Path) -> Result<SigningKey, Failure> {
        if self.new_key {
            return create(folder).map_err(|problem| cannot_sign(&[problem]));
        }
        let Newest { key, problems } = newest_or_create(folder).map_err(|problems| cannot_sign(&problems))?;
        problems.iter().for_each(|problem| output::error(format_args!("warning: {problem}")));
        Ok(key)
    }

    /// Shows a token, or adds it to what is to be in the file.
    fn tell(&self, request: &Request, issued: &Issued, file: &mut String) -> Result<(), Failure> {
        let to_terminal = self.out.is_none() && std::io::stdout().is_terminal();
        if self.verbose || to_terminal {
            let Issued { id, until, .. } = issued;
            output::error(format_args!("{}: id {id} until {until}", request.name));
        }
        let token = issued.token.expose();
        if self.out.is_some() {
            file.push_str(token);
            file.push_str(if self.count.is_some() { "\n" } else { "" });
            return Ok(());
        }
        match self.count {
            None if !to_terminal => output::text(token),
            _ => output::line(token),
        }
    }
}

fn cannot_sign(problems: &[Problem]) -> Failure {
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Failure::Runtime(anyhow::anyhow!("there is no key to sign with: {}", problems.join("; ")))
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE, such as app=web".to_owned()),
    }
}

fn labels(given: &[(String, String)]) -> Result<BTreeMap<String, String>, Failure> {
    let mut labels = BTreeMap::new();
    for (key, value) in given {
        if labels.insert(key.clone(), value.clone()).is_some() {
            return Err(Failure::Usage(format!("--label {key} is there twice")));
        }
    }
    Ok(labels)
}
