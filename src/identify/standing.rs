//! What may end a proof of identity, or change what is known of the workload behind it, while streams live by it: a token
//! that is revoked, a pod that is deleted or labelled anew.

use std::fmt;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};

use super::IdentifyError;
use crate::model::identity::Labels;

/// One thing that a proof depends on; each method has its own.
pub trait Stands: fmt::Debug + Send + Sync + 'static {
    /// What is known of the workload now.
    ///
    /// # Errors
    /// Why the proof is not good any more, or why that cannot be told.
    fn facts(&self) -> Result<Facts, IdentifyError>;

    /// An item whenever [`Stands::facts`] may have another answer, from the moment of the call on.
    fn changes(&self) -> BoxStream<'static, ()>;
}

/// What the server itself has read of a workload, as opposed to what its proof says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The mesh that it is assigned to: the label `kuma.io/mesh` of its pod or of the pod's namespace, which agree if both
    /// have it.
    pub mesh: Option<Arc<str>>,
    /// Its labels.
    pub labels: Arc<Labels>,
}

/// Everything that a proof depends on; nothing for most.
#[derive(Clone, Default)]
pub struct Standing(Vec<Arc<dyn Stands>>);

impl Standing {
    /// Depends on this alone.
    pub fn on(stands: Arc<dyn Stands>) -> Self {
        Self(vec![stands])
    }

    /// Depends on what either depends on.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// What is known of the workload now, all together.
    ///
    /// # Errors
    /// The first that does not stand; or that two of them contradict each other.
    pub fn facts(&self) -> Result<Facts, IdentifyError> {
        let mut all = Facts::default();
        for stands in &self.0 {
            let Facts { mesh, labels } = stands.facts()?;
            match (&all.mesh, mesh) {
                (Some(one), Some(other)) if *one != other => {
                    return Err(IdentifyError::Forbidden(format!(
                        "it is assigned to two meshes, {one:?} and {other:?}"
                    )));
                }
                (None, mesh) => all.mesh = mesh,
                (Some(_), _) => {}
            }
            if let Some((key, _)) =
                labels.iter().find(|(key, value)| all.labels.get(*key).is_some_and(|one| one != *value))
            {
                return Err(IdentifyError::Forbidden(format!("it has two values of the label {key:?}")));
            }
            if all.labels.is_empty() {
                all.labels = labels;
            } else {
                Arc::make_mut(&mut all.labels).extend(labels.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
        }
        Ok(all)
    }

    /// An item whenever [`Standing::facts`] may have another answer.
    pub fn changes(&self) -> BoxStream<'static, ()> {
        match self.0.as_slice() {
            [] => stream::pending().boxed(),
            [only] => only.changes(),
            several => stream::select_all(several.iter().map(|stands| stands.changes())).boxed(),
        }
    }
}

/// By what they depend on, not by what that says at the moment.
impl PartialEq for Standing {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(one, other)| Arc::ptr_eq(one, other))
    }
}

impl Eq for Standing {}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}
