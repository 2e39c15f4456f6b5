//! What every long-running program needs and none of it is about secrets: a clock, tasks, file watching, publishing,
//! Kubernetes access. Knows no stage.

pub mod any_server;
pub mod clock;
pub mod cluster;
pub mod compute;
pub mod descriptors;
pub mod file_watch;
pub mod private_file;
pub mod publish;
pub mod regular_file;
pub mod state_dir;
pub mod state_lock;
pub mod tasks;
pub mod watch_board;
