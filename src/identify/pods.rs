//! Which pod it is that something else than a token points at.

use std::fmt;

use async_trait::async_trait;

use super::standing::Standing;
use crate::model::identity::Workload;

/// Finds the pod behind a uid.
#[async_trait]
pub trait FindPods: fmt::Debug + Send + Sync + 'static {
    /// The pod of this uid on the API server, what stands for it; Ok(None) if there is none.
    ///
    /// # Errors
    /// Why that cannot be told now.
    async fn by_uid(&self, uid: &str) -> Result<Option<FoundPod>, String>;
}

/// A pod that is there.
#[derive(Debug, Clone)]
pub struct FoundPod {
    /// Its namespace, its service account and itself.
    pub workload: Workload,
    /// What ends with it.
    pub standing: Standing,
}
