//! Stage 2, its certificate: from an identity to a verified leaf that is renewed for as long as somebody wants it.
//!
//! ```text
//! Manager (handle) ── wanted ──▶ worker ── asks ──▶ Schedule (pure: what is due, who goes first, when to retry)
//!    ▲                            │
//!    └── watch: newest leaf ◀─────┴── Issuer: key + CSR ▶ CertificateAuthority ▶ verify ▶ Svid
//! ```

pub mod announce;
pub mod ca;
mod changes;
pub mod csr;
mod entry;
mod gauges;
mod inbox;
pub mod issuer;
pub mod manager;
pub mod metrics;
pub mod overview;
pub mod preflight;
pub mod progress;
mod queue;
mod recognise;
pub mod renewal;
pub mod resume;
pub mod schedule;
pub mod signer;
pub mod signing_cas;
pub mod subscribers;
pub mod verify;
pub mod worker;
