//! What a process uses, as the kernel tells it. Linux only: elsewhere it is not known.

use std::path::{Path, PathBuf};

use super::results::Usage;

/// Clock ticks a second in `/proc/PID/stat`: `USER_HZ`, which is 100 on every architecture.
const TICKS: f64 = 100.0;

/// Which process.
#[derive(Debug, Clone)]
pub(crate) struct Process(PathBuf);

/// One look at it; CPU since it began.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Look {
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_bytes: u64,
}

impl Process {
    /// This one.
    pub(crate) fn this() -> Self {
        Self(PathBuf::from("/proc/self"))
    }

    /// The one with this number.
    ///
    /// # Errors
    /// If there is none, or nothing can be learned of it.
    pub(crate) fn numbered(pid: u32) -> Result<Self, String> {
        if !Path::new("/proc/self/stat").exists() {
            return Err("what a process uses can be read on Linux only (--server-pid)".to_owned());
        }
        let process = Self(PathBuf::from(format!("/proc/{pid}")));
        match process.look() {
            Some(_) => Ok(process),
            None => Err(format!("there is no process {pid} that can be looked at (--server-pid)")),
        }
    }

    /// `None` if it is gone.
    pub(crate) fn look(&self) -> Option<Look> {
        let stat = std::fs::read_to_string(self.0.join("stat")).ok()?;
        let status = std::fs::read_to_string(self.0.join("status")).ok()?;
        Some(Look { cpu_seconds: cpu(&stat)?, rss_bytes: rss(&status)? })
    }

    /// What it used since `before`, if it is still there.
    pub(crate) fn since(&self, before: Look, peak: u64) -> Option<Usage> {
        let now = self.look()?;
        Some(Usage {
            cpu_seconds: (now.cpu_seconds - before.cpu_seconds).max(0.0),
            rss_bytes: now.rss_bytes,
            peak_rss_bytes: peak.max(now.rss_bytes),
            descriptors: self.descriptors(),
        })
    }

    /// 0 if another user's.
    fn descriptors(&self) -> u64 {
        std::fs::read_dir(self.0.join("fd")).map_or(0, |entries| entries.count() as u64)
    }
}

/// User and system time, fields 14 and 15 of `stat`; the second field is a name that may have spaces and parentheses in it.
fn cpu(stat: &str) -> Option<f64> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS)
}

fn rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0 3 0 1 1 1";
        assert_eq!(cpu(stat), Some(4.0));
        assert_eq!(rss("VmPeak:\t 9 kB\nVmRSS:\t   12 kB\n"), Some(12 * 1024));
        for broken in ["", "7 (a)", "7 (a) S 1 2"] {
            assert_eq!((cpu(broken), rss(broken)), (None, None), "{broken}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_can_be_looked_at_and_none_with_the_number_0() {
        let this = Process::this();
        let before = this.look().unwrap();
        let used = this.since(before, 0).unwrap();
        assert!(used.rss_bytes > 1 << 20 && used.peak_rss_bytes == used.rss_bytes && used.descriptors > 2, "{used:?}");
        assert!(Process::numbered(0).is_err());
    }
}
