//! Files that are good or no good together, and what was made of them when they last were good.

use std::fmt::Display;
use std::path::Path;

use aws_lc_rs::digest;
use zeroize::Zeroizing;

use super::tls::TlsError;
use crate::runtime::regular_file;

/// What files hold; wiped when dropped, as one may be a key.
pub(super) struct Contents(Vec<Zeroizing<Vec<u8>>>);

impl Contents {
    /// Reads all of them.
    pub(super) fn read<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Result<Self, TlsError> {
        let read = |path: &Path| match regular_file::read(path) {
            Ok(content) => Ok(Zeroizing::new(content)),
            Err(source) => Err(TlsError::Read { path: path.to_owned(), source }),
        };
        paths.into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// The file at this place of the list, if there is one.
    pub(super) fn get(&self, index: usize) -> Option<&[u8]> {
        self.0.get(index).map(|content| content.as_slice())
    }

    fn digest(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        for content in &self.0 {
            context.update(digest::digest(&digest::SHA256, content).as_ref());
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct LastGood<T> {
    made: T,
    /// Of the files that it was made of.
    digest: [u8; 32],
    /// Why the files that there are now are no good.
    error: Option<String>,
}

impl<T> LastGood<T> {
    /// Makes the first.
    pub(super) fn first<E>(
        contents: Result<Contents, E>,
        make: impl FnOnce(&Contents) -> Result<T, E>,
    ) -> Result<Self, E> {
        let contents = contents?;
        Ok(Self { made: make(&contents)?, digest: contents.digest(), error: None })
    }

    /// Of the same files, something else has come in the course of time.
    pub(super) fn replace(&mut self, made: T) {
        self.made = made;
    }

    /// What the last good ones made.
    pub(super) fn made(&self) -> &T {
        &self.made
    }

    /// Why these are not the files that there are now.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Looks at the files again; true if they are good and have changed. What is no good is told once.
    pub(super) fn renew<E: Display>(
        &mut self,
        contents: Result<Contents, E>,
        make: impl FnOnce(&Contents) -> Result<T, E>,
    ) -> bool {
        let made = contents.and_then(|contents| {
            let digest = contents.digest();
            if digest == self.digest { Ok(None) } else { Ok(Some((make(&contents)?, digest))) }
        });
        match made {
            Ok(made) => {
                self.error = None;
                let Some((made, digest)) = made else { return false };
                (self.made, self.digest) = (made, digest);
                true
            }
            Err(error) => {
                let error = error.to_string();
                if self.error.as_ref() != Some(&error) {
                    tracing::error!(error, "TLS files have changed and are no good; the last good ones stay");
                }
                self.error = Some(error);
                false
            }
        }
    }
}
