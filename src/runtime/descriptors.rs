//! File descriptors: each connection is one, and a process has a bounded number of them.

use std::io::stderr;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The least and the most that are kept for everything but proxies' connections: the admin address, the API server, files.
const RESERVE: (u64, u64) = (16, 256);

/// For how many descriptors there is room from the start.
const ROOM: u64 = 1 << 16;

/// Raises the process's own limit as far as it may, and says how many connections of proxies there may then be, so that
/// they never take the last descriptors.
pub fn for_connections() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let limit = if raised { maximum } else { current };
    make_room(limit.unwrap_or(ROOM).min(ROOM));
    limit.map_or(usize::MAX, |limit| usize::try_from(without_reserve(limit)).unwrap_or(usize::MAX))
}

/// Has the kernel's table of descriptors made as large at once, by a copy of one descriptor that is closed again. Linux doubles the
/// table when it is full, and a process of several threads waits for 10 to 20 ms then, which all of its proxies feel.
fn make_room(limit: u64) {
    // Where stderr is closed, or the limit is no more what it was, it grows as it goes.
    let _copy = i32::try_from(limit).map(|limit| fcntl_dupfd_cloexec(stderr(), limit - 1));
}

fn without_reserve(limit: u64) -> u64 {
    limit.saturating_sub((limit / 4).clamp(RESERVE.0, RESERVE.1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_kept_for_the_rest() {
        for (limit, connections) in [(1 << 20, (1 << 20) - 256), (1024, 768), (128, 96), (40, 24), (8, 1)] {
            assert_eq!(without_reserve(limit), connections, "{limit}");
        }
    }
}
