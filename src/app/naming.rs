//! From `naming` in the configuration to what names mean, or to every name that means two things.

use crate::config::{Naming, NamingProfile, SecretName};
use crate::model::diagnostic::Problem;
use crate::serve::naming::{Conflict, NameSettings, Names, Profile, SecretKind};

/// What names mean.
///
/// # Errors
/// Every conflict, where it was written.
pub fn names(naming: &Naming) -> Result<Names, Vec<Problem>> {
    let listed = |names: &[SecretName]| names.iter().map(|listed| listed.name.clone()).collect();
    let settings = NameSettings {
        profiles: naming.profiles.iter().copied().map(profile).collect(),
        certificates: listed(&naming.certificates),
        trust_bundles: listed(&naming.trust_bundles),
        spiffe_validator: naming.spiffe_validator,
    };
    Names::new(settings).map_err(|conflicts| conflicts.into_iter().map(|conflict| problem(naming, conflict)).collect())
}

fn profile(profile: NamingProfile) -> Profile {
    match profile {
        NamingProfile::Spire => Profile::Spire,
        NamingProfile::Istio => Profile::Istio,
        NamingProfile::Kuma => Profile::Kuma,
        NamingProfile::Osm => Profile::Osm,
        NamingProfile::EnvoyGateway => Profile::EnvoyGateway,
    }
}

fn problem(naming: &Naming, Conflict { list, index, what, hint }: Conflict) -> Problem {
    let names = match list {
        SecretKind::Certificate => &naming.certificates,
        SecretKind::Bundle => &naming.trust_bundles,
    };
    let listed = names.get(index);
    Problem {
        at: listed.map(|listed| listed.at.clone()).unwrap_or_default(),
        what: format!("{:?} {what}", listed.map_or("", |listed| listed.name.as_str())),
        hint: Some(hint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides, Surroundings};

    fn problems(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("server.yaml");
        std::fs::write(&file, text).unwrap();
        let surroundings = Surroundings { home: Some("/home/me".into()), ..Surroundings::default() };
        let config = Config::load(Some(&file), Overrides::default(), &surroundings).unwrap();
        let folder = format!("{}/", folder.path().display());
        let problems = names(&config.naming).err().unwrap_or_default();
        problems.iter().map(|problem| problem.to_string().replace(&folder, "")).collect()
    }

    #[test]
    fn item_66_a_name_that_means_two_kinds_is_refused_with_every_conflict() {
        let found = problems(
            "naming:\n  profiles: [spire, kuma]\n  certificates:\n  - web-cert\n  - ROOTCA\n  - both\n  trustBundles:\n  \
             - default\n  - both\n  - ALL\n  - web-ca\n",
        );
        let [rootca, default, both, all] = found.as_slice() else { panic!("{found:#?}") };
        assert!(rootca.starts_with("server.yaml:5: naming.certificates[1]: \"ROOTCA\" means CA certif"), "{rootca}");
        assert!(rootca.contains("leave spire out of naming.profiles"), "{rootca}");
        assert!(default.starts_with("server.yaml:8: naming.trustBundles[0]: \"default\" means a cert"), "{default}");
        assert!(both.starts_with("server.yaml:9: naming.trustBundles[1]: \"both\" is listed as a cert"), "{both}");
        assert!(all.starts_with("server.yaml:10: naming.trustBundles[2]: \"ALL\" means the CAs of other"), "{all}");
    }

    #[test]
    fn what_an_enabled_profile_does_not_know_is_free() {
        let lists = "certificates: [web-cert, ROOTCA, default/web]\n  trustBundles: [web-ca]\n";
        assert_eq!(problems(&format!("naming:\n  profiles: []\n  {lists}")), Vec::<String>::new());
        assert_eq!(problems(""), Vec::<String>::new());
    }
}
