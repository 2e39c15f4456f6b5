//! What a secret's name means. A request does not say which kind of secret it wants, and Envoy accepts the wrong kind
//! silently (xds-conformance items 65 and 66), so the kind follows from the name and from nothing else: a profile knows
//! what a name stands for (`meaning`) without knowing who asks, and a configuration in which one name stands for two
//! kinds is none.

mod envoy_gateway;
mod istio;
mod kuma;
mod meaning;
mod osm;
mod spire;

use std::collections::HashMap;
use std::sync::Arc;

use self::meaning::{Meaning, Owner};
use crate::identify::NodeClaim;
use crate::model::identity::{Identity, MAX_SPIFFE_ID};

/// The longest name, in bytes.
pub const MAX_NAME: usize = MAX_SPIFFE_ID;

/// A system's convention for naming secrets. To add one: a file next to this, and a line in each place that the compiler
/// then asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// SPIRE's agent.
    Spire,
    /// Istio.
    Istio,
    /// Kuma and Kong Mesh.
    Kuma,
    /// Open Service Mesh.
    Osm,
    /// Envoy Gateway.
    EnvoyGateway,
}

impl Profile {
    /// Its name, as configured.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spire => "spire",
            Self::Istio => "istio",
            Self::Kuma => "kuma",
            Self::Osm => "osm",
            Self::EnvoyGateway => "envoy-gateway",
        }
    }

    fn meaning(self, name: &str) -> Option<Meaning<'_>> {
        match self {
            Self::Spire => spire::meaning(name),
            Self::Istio => istio::meaning(name),
            Self::Kuma => kuma::meaning(name),
            Self::Osm => osm::meaning(name),
            Self::EnvoyGateway => envoy_gateway::meaning(name),
        }
    }
}

/// A secret that the server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// The proxy's own certificate and key.
    Certificate,
    /// The trust bundle of the proxy's mesh.
    TrustBundle,
    /// The trust bundles of every trust domain that is known, once that of the proxy's own is.
    AllTrustDomains,
    /// The trust bundle of a trust domain that is not the proxy's own, by its bare name.
    TrustDomain(Arc<str>),
}

/// The kinds of secret, in the order in which they go out when several are ready: whom to trust before what to show
/// (xds-conformance item 92).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SecretKind {
    /// `validation_context`.
    Bundle,
    /// `tls_certificate`.
    Certificate,
}

impl SecretRef {
    /// Which kind of secret it is on the wire.
    pub fn kind(&self) -> SecretKind {
        match self {
            Self::Certificate => SecretKind::Certificate,
            Self::TrustBundle | Self::AllTrustDomains | Self::TrustDomain(_) => SecretKind::Bundle,
        }
    }
}

/// How the CAs of several trust domains, or of another one, are told to a proxy. Those of its own mesh are `trusted_ca`
/// in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrustStyle {
    /// Envoy's SPIFFE validator: each CA may sign for its own trust domain only.
    SpiffeValidator,
    /// `trusted_ca`: what it gives up is that binding, so that a CA of any trust domain in it can sign for every other.
    TrustedCa,
}

/// What names mean, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameSettings {
    /// The conventions that hold.
    pub profiles: Vec<Profile>,
    /// Further names that mean the proxy's own certificate, to every proxy.
    pub certificates: Vec<String>,
    /// Further names that mean the CAs of the proxy's mesh.
    pub trust_bundles: Vec<String>,
    /// Whether to use Envoy's SPIFFE validator; see [`TrustStyle`].
    pub spiffe_validator: bool,
}

impl Default for NameSettings {
    fn default() -> Self {
        Self {
            profiles: vec![Profile::Spire, Profile::Istio, Profile::Kuma],
            certificates: Vec::new(),
            trust_bundles: Vec::new(),
            spiffe_validator: true,
        }
    }
}

/// A listed name that cannot mean what its list says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Which list it is in: that of certificates or that of trust bundles.
    pub list: SecretKind,
    /// Where in the list, from 0.
    pub index: usize,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// What every name means: the one answer that all calls ask.
#[derive(Debug, Clone)]
pub struct Names {
    profiles: Vec<Profile>,
    listed: HashMap<String, SecretKind>,
    spiffe_validator: bool,
}

impl Names {
    /// What `settings` say.
    ///
    /// # Errors
    /// Every listed name that means two things (xds-conformance item 66). Profiles never disagree with each other; a test
    /// holds them to that.
    pub fn new(settings: NameSettings) -> Result<Self, Vec<Conflict>> {
        let NameSettings { profiles, certificates, trust_bundles, spiffe_validator } = settings;
        let mut names = Self { profiles, listed: HashMap::new(), spiffe_validator };
        let mut conflicts = Vec::new();
        for (list, listed) in [(SecretKind::Certificate, certificates), (SecretKind::Bundle, trust_bundles)] {
            for (index, name) in listed.into_iter().enumerate() {
                match names.conflict(&name, list) {
                    Some((what, hint)) => conflicts.push(Conflict { list, index, what, hint }),
                    None => drop(names.listed.insert(name, list)),
                }
            }
        }
        if conflicts.is_empty() { Ok(names) } else { Err(conflicts) }
    }

    /// Why `name` cannot be put onto this list, and what to do.
    fn conflict(&self, name: &str, list: SecretKind) -> Option<(String, String)> {
        let free = "one name means one secret; give one of the two another name".to_owned();
        if name.is_empty() || name.len() > MAX_NAME {
            return Some((format!("a name has 1 to {MAX_NAME} bytes"), "no proxy can ask for another".to_owned()));
        }
        if self.listed.get(name).is_some_and(|kind| *kind != list) {
            return Some(("is listed as a certificate too".to_owned(), free));
        }
        let meaning = self.profiles.iter().find_map(|profile| profile.meaning(name))?;
        let knowing: Vec<_> = self.profiles.iter().filter(|p| p.meaning(name).is_some()).map(|p| p.name()).collect();
        let profile = knowing.join(" and ");
        let hint = format!("{free}, or leave {profile} out of naming.profiles");
        match meaning {
            Meaning::Certificate(Owner::Nobody) | Meaning::TrustBundle(Owner::Nobody) => {
                Some((format!("names something in the profile {profile} that this server does not have"), hint))
            }
            Meaning::Certificate(_) if list == SecretKind::Bundle => {
                Some((format!("means a certificate in the profile {profile}"), hint))
            }
            Meaning::TrustBundle(_) | Meaning::AllTrustDomains | Meaning::TrustDomain(_)
                if list == SecretKind::Certificate =>
            {
                Some((format!("means CA certificates in the profile {profile}"), hint))
            }
            Meaning::AllTrustDomains | Meaning::TrustDomain(_) => {
                Some((format!("means the CAs of other trust domains in the profile {profile}"), hint))
            }
            Meaning::Certificate(_) | Meaning::TrustBundle(_) => None,
        }
    }

    /// Listed names come first: what is listed has no other meaning that would be more than a restriction of this one.
    fn meaning<'n>(&self, name: &'n str) -> Option<Meaning<'n>> {
        if name.len() > MAX_NAME {
            return None;
        }
        match self.listed.get(name) {
            Some(SecretKind::Certificate) => Some(Meaning::Certificate(Owner::Asker)),
            Some(SecretKind::Bundle) => Some(Meaning::TrustBundle(Owner::Asker)),
            None => self.profiles.iter().find_map(|profile| profile.meaning(name)),
        }
    }

    /// The kind of a name, the same for every proxy; `None` if it means nothing.
    pub fn kind(&self, name: &str) -> Option<SecretKind> {
        self.meaning(name).map(Meaning::kind)
    }

    /// What `name` means for the proxy; `None` if it is to be withheld: nobody has such a name, or not this proxy.
    ///
    /// [`SecretRef::TrustDomain`] is given for any well-formed name, since trust domains come and go. Whether there is
    /// one now is the source's to say (`SecretSource::has_trust_domain`); see `Feed::is_unknown` for what follows.
    pub fn resolve(&self, name: &str, identity: &Identity) -> Option<SecretRef> {
        self.meaning(name)?.secret_for(identity)
    }

    /// How a proxy is to be told of other trust domains' CAs: with the SPIFFE validator, unless the configuration or
    /// the proxy itself says otherwise.
    pub fn style(&self, claim: &NodeClaim) -> TrustStyle {
        if self.spiffe_validator && !claim.plain_trust { TrustStyle::SpiffeValidator } else { TrustStyle::TrustedCa }
    }
}

impl Default for Names {
    /// The profiles `spire`, `istio` and `kuma`, and no further names.
    fn default() -> Self {
        let NameSettings { profiles, spiffe_validator, .. } = NameSettings::default();
        Self { profiles, listed: HashMap::new(), spiffe_validator }
    }
}

#[cfg(test)]
mod stream_tests;
#[cfg(test)]
#[path = "naming_tests.rs"]
mod tests;
