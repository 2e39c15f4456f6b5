//! The tokens by which the two Envoys prove who they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;

use crate::identify::proxy_token::{DEFAULT_AUDIENCE, KEY_FOLDER, Request, issue as sign, newest_or_create};
use crate::runtime::clock::Clock;
use crate::runtime::private_file;

/// Where the server has its keys.
pub(super) fn state_dir(folder: &Path) -> PathBuf {
    folder.join("state")
}

/// A file with a token for the proxy `<workload>-0`, signed with the server's key.
pub(super) fn issue(folder: &Path, workload: &str, valid_for: Duration) -> anyhow::Result<PathBuf> {
    let keys = state_dir(folder).join(KEY_FOLDER);
    let newest = newest_or_create(&keys).map_err(|problems| anyhow!("no key to sign tokens with: {problems:?}"))?;
    let request = Request {
        mesh: "default".to_owned(),
        name: format!("{workload}-0"),
        workload: workload.to_owned(),
        labels: BTreeMap::new(),
        audiences: vec![DEFAULT_AUDIENCE.to_owned()],
        valid_for,
    };
    let issued = sign(&newest.key, &request, Clock::system().now()).map_err(anyhow::Error::msg)?;
    let file = folder.join(format!("{workload}.token"));
    private_file::write(&file, issued.token.expose().as_bytes())?;
    Ok(file)
}
