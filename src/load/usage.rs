//! What a process uses, as the kernel tells it. Linux only: elsewhere it is not known.

use std::path::{Path, PathBuf};

use super::plan::ServerProcess;
use super::results::Usage;

/// Clock ticks a second in `/proc/PID/stat`: `USER_HZ`, which is 100 on every architecture.
const TICKS: f64 = 100.0;

/// Which process.
#[derive(Debug, Clone)]
pub(crate) enum Process {
    /// By its folder in `/proc`.
    One(PathBuf),
    /// Whichever has the number in this file.
    InFile(PathBuf),
}

/// One look at it; CPU since it began.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Look {
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_bytes: u64,
    /// When the process began, in the kernel's ticks: by which two with one number are told apart.
    began: u64,
    /// The most memory that it ever had.
    most_rss_bytes: u64,
}

impl Process {
    /// This one.
    pub(crate) fn this() -> Self {
        Self::One(PathBuf::from("/proc/self"))
    }

    /// The server's.
    ///
    /// # Errors
    /// If there is none, or nothing can be learned of it.
    pub(crate) fn find(process: &ServerProcess) -> Result<Self, String> {
        if !Path::new("/proc/self/stat").exists() {
            return Err("what a process uses can be read on Linux only (--server-pid, --server-pid-file)".to_owned());
        }
        let (process, name) = match process {
            ServerProcess::Numbered(pid) => {
                (Self::One(folder(*pid)), format!("{pid} that can be looked at (--server-pid)"))
            }
            ServerProcess::InFile(file) => {
                (Self::InFile(file.clone()), format!("with the number in {} (--server-pid-file)", file.display()))
            }
        };
        match process.look() {
            Some(_) => Ok(process),
            None => Err(format!("there is no process {name}")),
        }
    }

    /// `None` if there is no number in the file.
    fn folder(&self) -> Option<PathBuf> {
        match self {
            Self::One(folder) => Some(folder.clone()),
            Self::InFile(file) => std::fs::read_to_string(file).ok()?.trim().parse().ok().map(folder),
        }
    }

    /// `None` if it is gone.
    pub(crate) fn look(&self) -> Option<Look> {
        let folder = self.folder()?;
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        let status = std::fs::read_to_string(folder.join("status")).ok()?;
        Some(Look {
            cpu_seconds: cpu(&stat)?,
            rss_bytes: memory(&status, "VmRSS:")?,
            began: began(&stat)?,
            most_rss_bytes: memory(&status, "VmHWM:")?,
        })
    }

    /// What it used since `before`, if it is still there; another process that has taken its place, since it began.
    pub(crate) fn since(&self, before: Look, peak: u64) -> Option<Usage> {
        let now = self.look()?;
        let is_the_same = now.began == before.began;
        Some(Usage {
            cpu_seconds: if is_the_same { (now.cpu_seconds - before.cpu_seconds).max(0.0) } else { now.cpu_seconds },
            rss_bytes: now.rss_bytes,
            peak_rss_bytes: if is_the_same { peak.max(now.rss_bytes) } else { now.most_rss_bytes },
            descriptors: self.descriptors(),
        })
    }

    /// 0 if another user's.
    fn descriptors(&self) -> u64 {
        let entries = self.folder().and_then(|folder| std::fs::read_dir(folder.join("fd")).ok());
        entries.map_or(0, |entries| entries.count() as u64)
    }
}

/// User and system time, fields 14 and 15 of `stat`; the second field is a name that may have spaces and parentheses in it.
fn cpu(stat: &str) -> Option<f64> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS)
}

/// Field 22.
fn began(stat: &str) -> Option<u64> {
    let (_, after) = stat.rsplit_once(')')?;
    after.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn folder(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

fn memory(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0 3 0 77 1 1";
        assert_eq!((cpu(stat), began(stat)), (Some(4.0), Some(77)));
        assert_eq!(memory("VmPeak:\t 9 kB\nVmRSS:\t   12 kB\n", "VmRSS:"), Some(12 * 1024));
        for broken in ["", "7 (a)", "7 (a) S 1 2"] {
            assert_eq!((cpu(broken), began(broken), memory(broken, "VmRSS:")), (None, None, None), "{broken}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_can_be_looked_at_and_none_with_the_number_0() {
        let this = Process::this();
        let before = this.look().unwrap();
        let used = this.since(before, 0).unwrap();
        assert!(used.rss_bytes > 1 << 20 && used.peak_rss_bytes == used.rss_bytes && used.descriptors > 2, "{used:?}");
        assert!(Process::find(&ServerProcess::Numbered(0)).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn who_takes_the_place_of_a_process_is_looked_at_from_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let in_file = ServerProcess::InFile(file.clone());
        assert!(Process::find(&in_file).is_err());
        std::fs::write(&file, format!("{}\n", std::process::id())).unwrap();
        let process = Process::find(&in_file).unwrap();
        let other = Look { cpu_seconds: 1e6, began: 0, ..Look::default() };
        let used = process.since(other, u64::MAX).unwrap();
        assert!(used.peak_rss_bytes >= used.rss_bytes && used.peak_rss_bytes < u64::MAX, "{used:?}");
        std::fs::remove_file(&file).unwrap();
        assert!(process.look().is_none());
    }
}
