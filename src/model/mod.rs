//! The values that every stage shares. Nothing here waits, reads a file, talks to Kubernetes or knows Envoy's messages.

pub mod bundle;
pub mod bundle_set;
pub mod ca_pair;
pub mod certificate;
pub mod diagnostic;
pub mod duration;
pub mod held;
pub mod identity;
pub mod kept;
pub mod key;
pub mod policy;
pub mod preflight;
pub mod proxy_names;
pub mod roots;
pub mod secrets;
pub mod svid;
pub mod template;
pub mod text;
pub mod unserved;
