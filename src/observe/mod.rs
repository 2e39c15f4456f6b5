//! What an operator sees of the program as a whole: logs and readiness. Metrics belong to the stages; how an end is written as
//! one is the same for all.

pub mod logging;
pub mod readiness;
pub mod validity;
