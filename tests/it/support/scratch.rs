//! Folders for what a test run writes: logs, etcd's data, kubeconfigs.
//!
//! They stay when the run ends, because a failed test's logs are wanted then and the shared cluster, a static, is never
//! dropped. The next run removes what ended runs left.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A new empty folder of its own for `name`.
pub fn dir(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = run_dir().join(format!("{name}-{number}"));
    fs::create_dir_all(&dir).expect("the scratch folder can be made");
    dir
}

fn run_dir() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR"));
        remove_old(all);
        all.join(format!("it-{}", std::process::id()))
    })
}

fn remove_old(all: &Path) {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("it-")).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Another run may be removing it too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
