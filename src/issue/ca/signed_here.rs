//! A signature that need not be verified, because it was made here a moment ago.

use std::fmt;

use rustls::pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};

/// That this process has signed `content` with the private key that belongs to `public_key`: `ca/local.rs` alone says so, when
/// it has. Who builds the leaf's path to a CA goes by it in place of the arithmetic, which takes longer than making the key
/// and signing together; all else of the path is checked as it is for every leaf.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedHere {
    /// The issuer's key, as a SubjectPublicKeyInfo's bit string has it.
    pub(super) public_key: Vec<u8>,
    /// The signed part of the leaf, DER.
    pub(super) content: Vec<u8>,
    /// What was made of it.
    pub(super) signature: Vec<u8>,
}

/// Long, and of no use to anybody.
impl fmt::Debug for SignedHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedHere").finish_non_exhaustive()
    }
}

/// `algorithm`, for one who knows of a signature.
#[derive(Debug)]
pub struct Knowing<'k> {
    /// How all others are verified.
    pub algorithm: &'static dyn SignatureVerificationAlgorithm,
    /// The one that is known.
    pub signed_here: &'k SignedHere,
}

impl SignatureVerificationAlgorithm for Knowing<'_> {
    fn verify_signature(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let known = self.signed_here;
        if (&*known.public_key, &*known.content, &*known.signature) == (public_key, message, signature) {
            return Ok(());
        }
        self.algorithm.verify_signature(public_key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }
}
