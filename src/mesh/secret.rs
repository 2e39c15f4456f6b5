//! Mesh Secrets, in the Kubernetes and the Universal form (S1-3). Their content is never in a message.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::Context;
use crate::document::{Field, Fields};
use crate::model::secrets::SecretBytes;

/// The type that makes a Kubernetes Secret a mesh Secret.
const MESH_SECRET: &str = "system.kuma.io/secret";

pub(super) fn decode_kubernetes(fields: &Fields<'_>, metadata: &Fields<'_>, context: &Context) -> Option<SecretBytes> {
    if let Some(field) = fields.required("type")
        && field.text().is_some_and(|found| found != MESH_SECRET)
    {
        field.problem_with_hint(
            "is not a mesh Secret, and other Secrets are not read",
            format!("make it a Secret of type {MESH_SECRET}, labelled kuma.io/mesh: <mesh>"),
        );
    }
    if let Some(field) = metadata.optional("namespace")
        && field.text().is_some_and(|found| found != context.system_namespace)
    {
        field.problem(format!("mesh Secrets are in the system namespace, {}", context.system_namespace));
    }
    match (fields.optional("data"), fields.optional("stringData")) {
        (Some(data), None) => content(&value(&data)?),
        (None, Some(data)) => {
            let field = value(&data)?;
            Some(SecretBytes::new(field.name()?.as_bytes().to_vec()))
        }
        (Some(_), Some(text)) => {
            text.problem("there is data as well; one of them has to go");
            None
        }
        (None, None) => {
            fields.as_field().problem_with_hint("has no data", "the content, in base64, goes into data.value");
            None
        }
    }
}

pub(super) fn decode_universal(fields: &Fields<'_>) -> Option<SecretBytes> {
    content(&fields.required("data")?)
}

fn value<'t>(field: &Field<'t>) -> Option<Field<'t>> {
    let fields = field.map()?;
    let value = fields.required("value");
    fields.refuse_others();
    value
}

fn content(field: &Field<'_>) -> Option<SecretBytes> {
    let content = field.check(from_base64(field.name()?))?;
    if content.is_empty() {
        field.problem("must not be empty");
        return None;
    }
    Some(SecretBytes::new(content))
}

/// Decodes base64, which may be broken into lines.
///
/// # Errors
/// That it is none; without saying what it is, as it may be a key in clear.
pub(super) fn from_base64(text: &str) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let joined: Zeroizing<String> = Zeroizing::new(text.split_ascii_whitespace().collect());
    STANDARD.decode(joined.as_bytes()).map(Zeroizing::new).map_err(|_error| "is not base64")
}

#[cfg(test)]
mod tests {
    use super::super::tests::compile_text;

    /// Whoever looks for it must not take it for absent.
    #[test]
    fn one_that_is_broken_is_there_and_one_may_be_in_what_cannot_be_understood() {
        let broken = "type: Secret\nname: ca\nmesh: m\ndata: '%'\n";
        let secrets = compile_text(broken, true).resources.secrets;
        let told = secrets.find("m", "ca").unwrap().problem().unwrap();
        assert!(told.starts_with("it is broken in m.yaml"), "{told}");
        assert_eq!((secrets.get("m", "ca"), secrets.gap()), (None, None));
        // A document without a name may be anything.
        let nameless = compile_text("type: Secret\ndata: YQ==\n", true).resources.secrets;
        assert!(nameless.gap().unwrap().contains("m.yaml"));
        let twice = "type: Secret\nname: ca\nmesh: m\ndata: YQ==\n---\n";
        assert!(compile_text(&twice.repeat(2), true).resources.secrets.find("m", "ca").unwrap().problem().is_some());
    }

    #[test]
    fn who_refers_to_one_that_is_there_and_broken_is_not_told_that_it_is_missing_and_counts() {
        let mesh = "type: Mesh\nname: m\nmtls:\n  enabledBackend: b\n  backends:\n  - {name: b, type: provided, \
                    conf: {cert: {file: ca.pem}, key: {secret: ca}}}\n---\n";
        for (secret, problems, expected, counts) in [
            (
                "type: Secret\nname: ca\nmesh: m\ndata: '%'\n",
                2,
                "the Secret \"ca\" cannot be read: it is broken in m.yaml:9",
                true,
            ),
            ("type: Secret\ndata: YQ==\n", 2, "the Secret \"ca\" has not been found: it may be in m.yaml, which", true),
            ("type: Secret\nname: other\nmesh: m\ndata: YQ==\n", 1, "there is no mesh Secret \"ca\"", false),
            ("type: Secret\nname: ca\nmesh: m\ndata: YQ==\n", 1, "the Secret \"ca\": ", false),
        ] {
            let compiled = compile_text(&format!("{mesh}{secret}"), false);
            let told: Vec<String> = compiled.problems.iter().map(ToString::to_string).collect();
            assert_eq!(told.len(), problems, "{told:?}");
            assert!(
                told.iter().any(|told| told.contains("mtls.backends[0].conf.key.secret: ") && told.contains(expected)),
                "{told:?}"
            );
            assert_eq!(compiled.resources.policies.meshes.contains_key("m"), counts, "{told:?}");
        }
    }
}
