//! What the kernel tells of a process, so that its number cannot come to mean another one unnoticed.

use std::path::Path;

/// Where the kernel tells it (proc(5)).
pub const PROC: &str = "/proc";

/// When the process `pid` began, in clock ticks since the system did; `None` if there is no such process, if it has ended and
/// only its parent has not noticed, or if this server cannot see it. A number that is used again belongs to a process with
/// another beginning.
pub fn started(proc: &Path, pid: i32) -> Option<u64> {
    let pid = u32::try_from(pid).ok().filter(|pid| *pid > 0)?;
    read_started(&std::fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?)
}

/// The field `starttime` of `/proc/<pid>/stat`, the 22nd. The second is the program's name, in parentheses and of its own
/// choice: it may have spaces and parentheses in it, which no later field can. The third is its state: one that has ended is
/// in no control group of version 1 any more, and so says nothing.
fn read_started(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    fields.next().filter(|state| !matches!(*state, "Z" | "X" | "x"))?;
    fields.nth(22 - 4)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_process() {
        let fields =
            "S 1 4242 4242 0 -1 4194560 2710 0 11 0 5 2 0 0 20 0 9 0 987654 1282449408 5501 18446744073709551615";
        for name in ["envoy", "a b", "a) S 1 2", ") R (", "(((", "x\n) S"] {
            assert_eq!(read_started(&format!("4242 ({name}) {fields}")), Some(987_654), "{name:?}");
        }
        let ended = format!("4242 (envoy) {}", fields.replacen('S', "Z", 1));
        for bad in ["", "4242", "4242 (envoy) S 1 2", "4242 (envoy)", &ended] {
            assert_eq!(read_started(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn this_process_and_none() {
        let proc = Path::new(PROC);
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(started(proc, own).is_some());
        for pid in [0, -1, i32::MAX] {
            assert_eq!(started(proc, pid), None);
        }
    }
}
