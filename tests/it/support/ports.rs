//! Ports for programs that cannot be told to choose one, or that must have the same one after a restart.

use std::net::TcpListener;

/// A free loopback port below the range from which the kernel gives ports to outgoing connections and to port 0: so
/// nothing takes it while the program that has it is stopped for a while.
pub fn free() -> u16 {
    (0..1000)
        .map(|_| fastrand::u16(10_000..30_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("some port is free")
}
