//! Where the bytes are that a resource names: Kuma's data sources, in the form of `Mesh` (`secret`, `inline`,
//! `inlineString`, `file`; S1-1) and in that of `MeshIdentity` (`type: Secret|File|EnvVar|InsecureInline`; S4-6).

use std::path::Path;

use super::secret::from_base64;
use super::{Context, names};
use crate::document::Field;
use crate::model::policy::DataSource;
use crate::model::secrets::SecretBytes;

/// `secret`, `inline` (base64), `inlineString` or `file`: exactly one of them. What is inline comes with the field that it
/// is in, to report what is wrong with it where it is.
pub(super) fn classic<'t>(field: &Field<'t>) -> Option<(DataSource, Field<'t>)> {
    const KINDS: [&str; 4] = ["inlineString", "inline", "file", "secret"];
    let sources = field.strict_map(|fields| KINDS.map(|kind| fields.optional(kind)))?;
    match sources.iter().flatten().count() {
        1 => {}
        0 => {
            field.problem_with_hint("names no source", "one of inlineString, inline (base64), file, secret");
            return None;
        }
        _ => {
            let given: Vec<_> = KINDS.iter().zip(&sources).filter(|(_, field)| field.is_some()).collect();
            let given = given.iter().map(|(kind, _)| **kind).collect::<Vec<_>>().join(" and ");
            field.problem(format!("names more than one source: {given}; exactly one is meant"));
            return None;
        }
    }
    let [text, base64, file, secret] = sources;
    if let Some(field) = text {
        return Some((DataSource::Inline(SecretBytes::new(field.text()?.as_bytes().to_vec())), field));
    }
    if let Some(field) = base64 {
        let content = field.check(from_base64(field.text()?))?;
        return Some((DataSource::Inline(SecretBytes::new(content)), field));
    }
    if let Some(field) = file {
        return Some((DataSource::File(names::path(&field)?), field));
    }
    let field = secret?;
    Some((DataSource::Secret(names::secret(&field)?.into()), field))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Secure {
    Secret,
    File,
    EnvVar,
    Inline,
}

/// Type, the word for it, its block, and the field in there that says the most.
const SECURE: [(Secure, &str, &str, &str); 4] = [
    (Secure::Secret, "Secret", "secretRef", "name"),
    (Secure::File, "File", "file", "path"),
    (Secure::EnvVar, "EnvVar", "envVar", "name"),
    (Secure::Inline, "InsecureInline", "insecureInline", "value"),
];

/// `type: Secret|File|EnvVar|InsecureInline` with the block of that name; see [`classic`].
pub(super) fn secure<'t>(field: &Field<'t>) -> Option<(DataSource, Field<'t>)> {
    let fields = field.map()?;
    let types = SECURE.map(|(kind, word, ..)| (word, kind));
    let chosen = fields.required("type").and_then(|field| field.one_of(&types));
    let blocks = SECURE.map(|(kind, _, block, value)| (kind, block, value, fields.optional(block)));
    fields.refuse_others();
    let chosen = chosen?;
    for (_, _, _, block) in blocks.iter().filter(|(kind, ..)| *kind != chosen) {
        if let Some(block) = block {
            block.problem("is not what the type says; one of them has to go");
        }
    }
    let (kind, name, value, block) = blocks.into_iter().find(|(kind, ..)| *kind == chosen)?;
    let Some(block) = block else {
        field.problem(format!("{name} is missing, which the type asks for"));
        return None;
    };
    let value = block.strict_map(|fields| {
        if kind == Secure::Secret {
            let _ = fields.optional("kind").and_then(|field| field.one_of(&[("Secret", ())]));
        }
        fields.required(value)
    })??;
    let source = match kind {
        Secure::Secret => DataSource::Secret(names::secret(&value)?.into()),
        Secure::File => DataSource::File(names::path(&value)?),
        Secure::EnvVar => DataSource::EnvVar(names::variable(&value)?.into()),
        Secure::Inline => DataSource::Inline(SecretBytes::new(value.name()?.as_bytes().to_vec())),
    };
    Some((source, value))
}

/// What is in a file that a resource names, where files are looked into; see [`Context::read_file`].
pub(super) fn look_into(path: &Path, at: &Field<'_>, context: &Context) -> Option<SecretBytes> {
    match (context.read_file?)(path) {
        Ok(content) => Some(SecretBytes::new(content)),
        Err(error) => {
            at.problem_with_hint(
                format!("{}: cannot be read: {error}", path.display()),
                "the path is the server's; a relative one begins where the server is started",
            );
            None
        }
    }
}
