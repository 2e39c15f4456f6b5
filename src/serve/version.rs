//! Versions: readable, derived from content, the same on every replica and after a restart (xds-conformance 47 and 48).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use jiff::Timestamp;

use crate::model::bundle::Bundle;
use crate::model::bundle_set::BundleSet;
use crate::model::held::HeldLeaf;
use crate::model::svid::Svid;

/// The version of one secret. Nothing in it is secret: it is made of public facts of the certificates.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(Arc<str>);

impl Version {
    /// `certificate.<notBefore>.<notAfter>.<policy digest>.<issuing CA digest>.<content digest>`, times in Unix
    /// seconds. The issuing CA is the one in the trust bundle that the chain leads to. The content digest is over the
    /// chain, and with it over the public key that belongs to the private one.
    pub fn of_certificate(svid: &Svid) -> Self {
        let HeldLeaf { not_before, not_after, policy_digest, anchor, content } = HeldLeaf::from(svid);
        let (from, until) = (not_before.as_second(), not_after.as_second());
        let text = format!("certificate.{from}.{until}.{policy_digest}.{anchor}.{content}");
        Self(text.into())
    }

    /// What a certificate's version says about its leaf; `None` for any other text. The other direction of
    /// [`Version::of_certificate`].
    pub fn held_leaf(text: &str) -> Option<HeldLeaf> {
        let mut parts = text.split('.');
        if parts.next()? != "certificate" {
            return None;
        }
        let mut time = || parts.next()?.parse().ok().and_then(|second| Timestamp::from_second(second).ok());
        let (not_before, not_after) = (time()?, time()?);
        let mut digest = || parts.next().filter(|part| part.len() == 16 && part.bytes().all(|b| b.is_ascii_hexdigit()));
        let held = HeldLeaf {
            not_before,
            not_after,
            policy_digest: digest()?.into(),
            anchor: digest()?.into(),
            content: digest()?.into(),
        };
        (parts.next().is_none() && not_before < not_after).then_some(held)
    }

    /// `bundle.<content digest>`.
    pub fn of_bundle(bundle: &Bundle) -> Self {
        Self(format!("bundle.{}", bundle.digest()).into())
    }

    /// The same for the trust bundles of several trust domains: the digest is over their names too.
    pub fn of_bundle_set(bundles: &BundleSet) -> Self {
        Self(format!("bundle.{}", bundles.digest()).into())
    }

    /// One version for the secrets in one answer (`FetchSecrets` only), however many they are; also for none.
    pub(crate) fn of_several<'a>(versions: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut versions: Vec<&Self> = versions.into_iter().collect();
        versions.sort_by(|a, b| a.0.cmp(&b.0));
        match versions.as_slice() {
            [only] => (*only).clone(),
            several => {
                let mut context = digest::Context::new(&digest::SHA256);
                for version in several {
                    context.update(version.0.as_bytes());
                    context.update(b"\n");
                }
                Self(format!("several.{}", hex::encode(&context.finish().as_ref()[..8])).into())
            }
        }
    }

    /// As it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl From<&str> for Version {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::{bundle, svid};

    #[test]
    fn items_47_and_48_a_certificate_version_says_when_for_what_and_by_whom() {
        let svid = svid("web");
        let version = Version::of_certificate(&svid);
        let parts: Vec<&str> = version.as_str().split('.').collect();
        assert_eq!(parts.len(), 6, "{version}");
        assert_eq!(parts[0], "certificate");
        assert_eq!(parts[1], svid.validity().not_before.as_second().to_string());
        assert_eq!(parts[2], svid.validity().not_after.as_second().to_string());
        assert_eq!(parts[3], &*svid.policy_digest);
        assert_eq!(parts[4], &svid.anchor.fingerprint()[..16]);
        assert_eq!(version, Version::of_certificate(&svid.clone()), "item 47: derived from content alone");
        assert_ne!(version, Version::of_certificate(&super::super::testing::svid("web")), "item 48: new content");
    }

    #[test]
    fn a_certificate_version_is_read_back() {
        let svid = svid("web");
        let text = Version::of_certificate(&svid).to_string();
        assert_eq!(
            Version::held_leaf(&text),
            Some(HeldLeaf::from(&svid)),
            "nothing is lost: a leaf's times are whole seconds"
        );
        let nonsense = [
            "",
            "1",
            "certificate",
            "bundle.0123456789abcdef",
            "certificate.1.2.0123456789abcdef.0123456789abcdef.0123456789abcde",
            "certificate.2.1.0123456789abcdef.0123456789abcdef.0123456789abcdef",
            "certificate.1.2.0123456789abcdef.0123456789abcdef.0123456789abcdef.",
            "certificate.1.99999999999999999999.0123456789abcdef.0123456789abcdef.0123456789abcdef",
            "certificate.1.2.0123456789abcdeg.0123456789abcdef.0123456789abcdef",
        ];
        for text in nonsense {
            assert_eq!(Version::held_leaf(text), None, "{text}");
        }
    }

    #[test]
    fn item_47_a_bundle_version_has_no_times() {
        let bundle = bundle("mesh");
        assert_eq!(Version::of_bundle(&bundle).as_str(), format!("bundle.{}", bundle.digest()));
    }
}
