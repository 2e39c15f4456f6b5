//! What an operator sees of the program as a whole: logs and readiness. Metrics belong to the stages.

pub mod logging;
pub mod readiness;
