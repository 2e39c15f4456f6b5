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
    /// seconds. `notAfter` is when the first certificate of the chain ends, which is not always the leaf
    /// ([`Svid::usable_until`]): after that nobody accepts it. The issuing CA is the one in the trust bundle that the chain leads to. The content digest is over the
    /// chain, and with it over the public key that belongs to the private one.
    pub fn of_certificate(svid: &Svid) -> Self {
        Self(certificate(&HeldLeaf::from(svid)).into())
    }

    /// What a certificate's version says about its leaf; `None` for any other text, also for one that says the same in
    /// other letters. The other direction of [`Version::of_certificate`].
    pub fn held_leaf(text: &str) -> Option<HeldLeaf> {
        let mut parts = text.split('.');
        if parts.next()? != "certificate" {
            return None;
        }
        let mut time = || parts.next()?.parse().ok().and_then(|second| Timestamp::from_second(second).ok());
        let (not_before, not_after) = (time()?, time()?);
        let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let mut digest = || parts.next().filter(|part| part.len() == 16 && is_hex(part));
        let held = HeldLeaf {
            not_before,
            not_after,
            policy_digest: digest()?.into(),
            anchor: digest()?.into(),
            content: digest()?.into(),
        };
        // `+1` and `01` are numbers, too.
        (not_before < not_after && certificate(&held) == text).then_some(held)
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

fn certificate(leaf: &HeldLeaf) -> String {
    let HeldLeaf { not_before, not_after, policy_digest, anchor, content } = leaf;
    let (from, until) = (not_before.as_second(), not_after.as_second());
    format!("certificate.{from}.{until}.{policy_digest}.{anchor}.{content}")
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
    use proptest::prelude::*;

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
        assert_eq!(parts[2], svid.usable_until().as_second().to_string());
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
            "certificate.+1.2.0123456789abcdef.0123456789abcdef.0123456789abcdef",
            "certificate.1.02.0123456789abcdef.0123456789abcdef.0123456789abcdef",
            "certificate.-0.2.0123456789abcdef.0123456789abcdef.0123456789abcdef",
            "certificate.1.2.0123456789ABCDEF.0123456789abcdef.0123456789abcdef",
        ];
        for text in nonsense {
            assert_eq!(Version::held_leaf(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(text in r"certificate\.[+-]?[0-9]{1,3}\.[+-]?[0-9]{1,11}(\.[0-9a-fA]{16}){3}") {
            if let Some(held) = Version::held_leaf(&text) {
                prop_assert_eq!(certificate(&held), text);
            }
        }

        #[test]
        fn what_is_written_is_read(from in -1_000_i64..4_000_000_000, lasts in 1_i64..4_000_000_000, digest in "[0-9a-f]{16}") {
            let time = |second| Timestamp::from_second(second).unwrap();
            let digest: Arc<str> = digest.into();
            let held = HeldLeaf {
                not_before: time(from),
                not_after: time(from + lasts),
                policy_digest: digest.clone(),
                anchor: digest.clone(),
                content: digest,
            };
            prop_assert_eq!(Version::held_leaf(&certificate(&held)), Some(held));
        }
    }

    #[test]
    fn item_47_a_bundle_version_has_no_times() {
        let bundle = bundle("mesh");
        assert_eq!(Version::of_bundle(&bundle).as_str(), format!("bundle.{}", bundle.digest()));
    }
}
