//! Ports for programs that cannot be told to choose one, or that must have the same one after a restart.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Mutex;

/// Ports that have been given out: between that and being listened at, nothing else shows that they are taken.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A free loopback port below the range from which the kernel gives ports to outgoing connections and to port 0: so
/// nothing takes it while the program that has it is stopped for a while. None is given out twice.
pub fn free() -> u16 {
    let mut given = GIVEN.lock().expect("not poisoned");
    (0..1000)
        .map(|_| fastrand::u16(10_000..30_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok() && given.insert(*port))
        .expect("some port is free")
}

#[test]
fn no_port_is_given_out_twice() {
    let ports: BTreeSet<u16> = (0..1000).map(|_| free()).collect();
    assert_eq!(ports.len(), 1000);
}
