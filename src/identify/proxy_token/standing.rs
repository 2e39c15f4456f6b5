//! What a verified token still depends on: its key, and that nobody revokes it.

use std::sync::Arc;

use futures::stream::BoxStream;

use super::claims::Claims;
use super::key::VerifyingKey;
use super::live::Live;
use super::{METHOD, refused};
use crate::identify::IdentifyError;
use crate::identify::standing::{Facts, Stands};

/// One token. (When it ends is in the proof.)
#[derive(Debug)]
pub(super) struct TokenStanding {
    live: Arc<Live>,
    key: VerifyingKey,
    mesh: Box<str>,
    id: Box<str>,
}

impl TokenStanding {
    /// Of a token with these claims that `key` has signed.
    pub(super) fn new(live: Arc<Live>, key: VerifyingKey, claims: &Claims) -> Self {
        Self { live, key, mesh: claims.mesh.as_str().into(), id: claims.jti.as_str().into() }
    }

    /// # Errors
    /// Why the token is not good any more, or why that cannot be told.
    pub(super) fn check(&self) -> Result<(), IdentifyError> {
        let id = &self.id;
        if !self.live.keys().has(&self.key) {
            let kid = self.key.kid();
            return Err(refused(format!("the key of token {id} was removed ({kid}); issue another token")));
        }
        match self.live.revocations().contain(&self.mesh, id) {
            Ok(false) => Ok(()),
            Ok(true) => Err(refused(format!("token {id} is revoked; issue another one"))),
            Err(reason) => Err(IdentifyError::Unavailable { method: METHOD, reason }),
        }
    }
}

impl Stands for TokenStanding {
    fn facts(&self) -> Result<Facts, IdentifyError> {
        self.check().map(|()| Facts::default())
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        self.live.changes()
    }
}
