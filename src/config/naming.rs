//! `naming`: which systems' names for secrets are understood, and further ones.

use std::collections::BTreeSet;

use crate::document::Field;
use crate::model::diagnostic::Location;
use crate::model::identity::MAX_SPIFFE_ID;

/// The longest name of a secret, in bytes.
const MAX_NAME: usize = MAX_SPIFFE_ID;

/// The words for profiles.
const PROFILES: [(&str, NamingProfile); 5] = [
    ("spire", NamingProfile::Spire),
    ("istio", NamingProfile::Istio),
    ("kuma", NamingProfile::Kuma),
    ("osm", NamingProfile::Osm),
    ("envoy-gateway", NamingProfile::EnvoyGateway),
];

/// `naming`. Whether a listed name means something else already is not checked here but where the profiles are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    /// The systems whose names are understood.
    pub profiles: Vec<NamingProfile>,
    /// Further names of the proxy's own certificate.
    pub certificates: Vec<SecretName>,
    /// Further names of the CAs of its mesh.
    pub trust_bundles: Vec<SecretName>,
    /// Whether CAs of several trust domains go out with Envoy's SPIFFE validator.
    pub spiffe_validator: bool,
}

/// A system that has names for secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamingProfile {
    /// SPIRE.
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

/// A secret's name, and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretName {
    /// Opaque text that is matched literally; 1 to 2048 bytes.
    pub name: String,
    /// Where.
    pub at: Location,
}

impl Default for Naming {
    fn default() -> Self {
        Self {
            profiles: vec![NamingProfile::Spire, NamingProfile::Istio, NamingProfile::Kuma],
            certificates: Vec::new(),
            trust_bundles: Vec::new(),
            spiffe_validator: true,
        }
    }
}

impl Naming {
    pub(super) fn decode(field: &Field<'_>) -> Option<Self> {
        let default = Self::default();
        field.strict_map(|fields| {
            let naming = Self {
                profiles: fields.optional("profiles").map_or(default.profiles, |f| decode_profiles(&f)),
                certificates: fields.optional("certificates").map(|f| decode_names(&f)).unwrap_or_default(),
                trust_bundles: fields.optional("trustBundles").map(|f| decode_names(&f)).unwrap_or_default(),
                spiffe_validator: fields.optional("spiffeValidator").and_then(|f| f.boolean()).unwrap_or(true),
            };
            if naming.profiles.is_empty() && naming.certificates.is_empty() && naming.trust_bundles.is_empty() {
                field.problem_with_hint("no name would mean anything", "leave profiles out for spire, istio and kuma");
            }
            naming
        })
    }
}

fn decode_profiles(field: &Field<'_>) -> Vec<NamingProfile> {
    let mut profiles = Vec::new();
    for item in field.list().unwrap_or_default() {
        let Some(profile) = item.one_of(&PROFILES) else { continue };
        if profiles.contains(&profile) {
            item.problem_with_hint("the same profile is there twice", "once is enough");
        } else {
            profiles.push(profile);
        }
    }
    profiles
}

fn decode_names(field: &Field<'_>) -> Vec<SecretName> {
    let mut seen = BTreeSet::new();
    let mut names = Vec::new();
    for item in field.list().unwrap_or_default() {
        let Some(name) = item.text() else { continue };
        if name.is_empty() || name.len() > MAX_NAME {
            item.problem(format!("a secret's name has 1 to {MAX_NAME} bytes"));
        } else if !seen.insert(name) {
            item.problem_with_hint("the same name is there twice", "once is enough");
        } else {
            names.push(SecretName { name: name.to_owned(), at: item.location() });
        }
    }
    names
}
