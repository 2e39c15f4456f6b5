//! CAs that are read and checked in the shapes that Kong's documents have, but that this program cannot use (S4-3, S4-5).

use super::backend::{Reference, Use};
use super::{Context, ca_cert, data_source};
use crate::document::{Field, Fields};
use crate::model::policy::{BackendKind, DataSource};

/// Says that a type of CA is understood, and of no use yet.
pub(super) fn notice(type_field: &Field<'_>, name: &'static str) -> BackendKind {
    type_field.notice(format!("{name} is not in the program yet: it is read and checked, but signs nothing here"));
    BackendKind::NotInProgram(name)
}

/// Vault is to be told a lifetime with each request (S4-3).
pub(super) fn vault_lifetime(backend: &Fields<'_>) {
    let node = backend.as_field().node();
    let rotation = node.get("dpCert").and_then(|dp_cert| dp_cert.get("rotation"));
    if rotation.and_then(|rotation| rotation.get("expiration")).is_none_or(|expiration| expiration.is_null()) {
        backend.as_field().problem_with_hint(
            "dpCert.rotation.expiration is missing, which Vault needs",
            "the lifetime of leaves, such as 24h",
        );
    }
}

/// `conf.fromCp` of a Vault backend.
pub(super) fn vault(
    type_field: &Field<'_>,
    fields: &Fields<'_>,
    context: &Context,
    references: &mut Vec<Reference>,
) -> Option<BackendKind> {
    let conf = fields.required("conf")?;
    let from_cp = conf.strict_map(|fields| fields.required("fromCp"))??;
    from_cp.strict_map(|fields| {
        if let Some(field) = fields.required("address")
            && let Some(address) = field.name()
            && !is_url(address)
        {
            field.problem_with_hint("is not an HTTP address", "such as https://vault.example.com:8200");
        }
        let _ = fields.required("role").and_then(|field| field.name());
        for key in ["pki", "namespace", "commonName"] {
            let _ = fields.optional(key).and_then(|field| field.name());
        }
        if let Some(auth) = fields.required("auth") {
            vault_auth(&auth, references);
        }
        let _ = fields.optional("tls").and_then(|tls| {
            tls.strict_map(|fields| {
                let _ = fields.optional("caCert").and_then(|field| ca_cert::decode(&field, context, references));
                let _ = fields.optional("skipVerify").and_then(|field| field.boolean());
                let _ = fields.optional("serverName").and_then(|field| field.name());
                for key in ["clientCert", "clientKey"] {
                    source(fields.optional(key), references);
                }
            })
        });
    })?;
    Some(notice(type_field, "vault"))
}

/// Exactly one of the ways to log in.
fn vault_auth(auth: &Field<'_>, references: &mut Vec<Reference>) {
    let ways = auth.strict_map(|fields| {
        let (token, tls, aws) = (fields.optional("token"), fields.optional("tls"), fields.optional("aws"));
        let count = [&token, &tls, &aws].into_iter().flatten().count();
        source(token, references);
        let _ = tls.and_then(|tls| {
            tls.strict_map(|fields| {
                for key in ["clientCert", "clientKey"] {
                    source(fields.required(key), references);
                }
            })
        });
        let _ = aws.and_then(|aws| aws.map());
        count
    });
    match ways {
        Some(0) => auth.problem_with_hint("names no way to log in", "one of token, tls, aws"),
        Some(1) | None => {}
        Some(_) => auth.problem("names more than one way to log in; exactly one is meant"),
    }
}

/// `conf` or `acm` of an AWS Private CA backend, whichever is there.
pub(super) fn acm(
    type_field: &Field<'_>,
    fields: &Fields<'_>,
    context: &Context,
    references: &mut Vec<Reference>,
) -> Option<BackendKind> {
    let (conf, block) = (fields.optional("conf"), fields.optional("acm"));
    if let (Some(_), Some(block)) = (&conf, &block) {
        block.problem("there is a conf as well; one of them has to go");
    }
    let Some(settings) = conf.or(block) else {
        fields.as_field().problem_with_hint("says nothing of the CA", "conf.arn, or acm.arn");
        return None;
    };
    settings.strict_map(|fields| {
        if let Some(field) = fields.required("arn")
            && let Some(arn) = field.name()
            && !is_private_ca(arn)
        {
            let hint = "such as arn:aws:acm-pca:REGION:ACCOUNT:certificate-authority/ID";
            field.problem_with_hint("is not the ARN of a private CA", hint);
        }
        let _ = fields.optional("commonName").and_then(|field| field.name());
        let _ = fields.optional("caCert").and_then(|field| ca_cert::decode(&field, context, references));
        let _ = fields.optional("auth").and_then(|auth| {
            auth.strict_map(|fields| {
                let credentials = fields.optional("awsCredentials")?;
                credentials.strict_map(|fields| {
                    for key in ["accessKey", "accessKeySecret"] {
                        source(fields.required(key), references);
                    }
                })
            })
        });
    })?;
    Some(notice(type_field, "acmpca"))
}

/// A data source that is only looked at.
fn source(field: Option<Field<'_>>, references: &mut Vec<Reference>) {
    if let Some((DataSource::Secret(name), at)) = field.and_then(|field| data_source::classic(&field)) {
        references.push(Reference { name, at: at.location(), meant: Use::Other });
    }
}

fn is_url(text: &str) -> bool {
    let Ok(uri) = text.parse::<http::Uri>() else { return false };
    matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
}

fn is_private_ca(arn: &str) -> bool {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", partition, "acm-pca", region, account, ca] = parts.as_slice() else { return false };
    let id = ca.strip_prefix("certificate-authority/").unwrap_or_default();
    ![partition, region, account, &id].iter().any(|part| part.is_empty())
}
