//! What the state of a CertificateRequest means. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::resource::{CertificateRequestStatus, Condition};
use crate::issue::ca::{CaError, IssuedChain};
use crate::model::certificate::Certificate;
use crate::model::policy::IssuerRef;

/// Where a request stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RequestState {
    /// Nobody has decided yet; only this state may change.
    Pending {
        /// One word: cert-manager's event reason where its message gives it away, else the condition's reason.
        reason: String,
        /// What the approver or issuer says.
        message: String,
    },
    /// There is a certificate.
    Issued {
        /// As in `status.certificate`: base64 of PEM.
        certificate: String,
        /// As in `status.ca`; empty if there is none.
        ca: String,
    },
    /// There will be none: denied, failed or invalid. cert-manager never tries a request again.
    Refused(CaError),
}

/// cert-manager gives every pending request the reason `Pending` and keeps the real one for events; these beginnings of
/// its messages (cert-manager 1.21, `pkg/controller/certificaterequests`) tell which it is.
const PENDING_MESSAGES: [(&str, &str); 6] = [
    ("Referenced issuer does not have a Ready status condition", "IssuerNotReady"),
    ("Referenced secret", "SecretMissing"),
    ("Required secret resource not found", "SecretMissing"),
    ("Failed to parse signing CA keypair", "SecretInvalidData"),
    ("Failed to initialise vault client", "VaultInitError"),
    ("Missing issuer type", "IssuerTypeMissing"),
];

/// Reads where the request with this `status` stands. Only what is final is called final: with anything unknown it goes
/// on waiting, and the operator sees on what.
pub(super) fn classify(status: CertificateRequestStatus) -> RequestState {
    let conditions = status.conditions.unwrap_or_default();
    let find = |kind: &str, value: &str| conditions.iter().find(|c| c.kind == kind && c.status == value);

    // A denied request may stay without a Ready condition for ever (cert-manager/issuer-lib#507).
    if let Some(denied) = find("Denied", "True") {
        return RequestState::Refused(CaError::Denied(told(denied)));
    }
    if let Some(invalid) = find("InvalidRequest", "True") {
        return RequestState::Refused(CaError::Invalid(told(invalid)));
    }
    if let Some(ready) = find("Ready", "False") {
        match ready.reason.as_str() {
            "Denied" => return RequestState::Refused(CaError::Denied(told(ready))),
            "Failed" => return RequestState::Refused(CaError::Failed(explained(told(ready)))),
            _ => {}
        }
    }
    let certificate = status.certificate.filter(|certificate| !certificate.is_empty());
    match (find("Ready", "True"), certificate) {
        (Some(_), Some(certificate)) => {
            return RequestState::Issued { certificate, ca: status.ca.unwrap_or_default() };
        }
        (Some(ready), None) => return pending("NoCertificate", &told(ready)),
        (None, _) => {}
    }
    if let Some(ready) = conditions.iter().find(|c| c.kind == "Ready") {
        return pending(pending_reason(ready), &ready.message);
    }
    match find("Approved", "True") {
        Some(approved) => pending("WaitingForIssuer", &approved.message),
        None => pending("WaitingForApproval", "no approver has looked at it yet"),
    }
}

fn pending(reason: &str, message: &str) -> RequestState {
    RequestState::Pending { reason: reason.to_owned(), message: message.to_owned() }
}

fn pending_reason(ready: &Condition) -> &str {
    let message = ready.message.as_str();
    // `Referenced "Issuer" not found: …`, with whatever kind of issuer.
    if message.starts_with("Referenced \"") && message.contains("\" not found") {
        return "IssuerNotFound";
    }
    let known = PENDING_MESSAGES.iter().find(|(beginning, _)| message.starts_with(beginning));
    match known {
        Some((_, reason)) => reason,
        None if ready.reason.is_empty() => "Pending",
        None => &ready.reason,
    }
}

fn told(condition: &Condition) -> String {
    match (condition.reason.as_str(), condition.message.as_str()) {
        ("", "") => "no reason was given".to_owned(),
        (reason, "") => reason.to_owned(),
        (_, message) => message.to_owned(),
    }
}

/// The certificates of an issued request.
///
/// # Errors
/// [`CaError::BadAnswer`] if the certificate, or a CA that is given, is not base64 of PEM.
pub(super) fn read_chain(certificate: &str, ca: &str) -> Result<IssuedChain, CaError> {
    let read = |field: &str, text: &str| {
        let bad = |reason: String| CaError::BadAnswer(format!("status.{field}: {reason}"));
        let pem = STANDARD.decode(text).map_err(|error| bad(format!("not base64: {error}")))?;
        Certificate::many_from_pem(&pem).map_err(|error| bad(error.to_string()))
    };
    Ok(IssuedChain {
        certificates: read("certificate", certificate)?,
        authority: if ca.is_empty() { Vec::new() } else { read("ca", ca)? },
        signed_here: None,
    })
}

/// What to do about a request that waits for `reason`, where there is something to do.
pub(super) fn pending_hint(reason: &str, issuer: &IssuerRef, namespace: &str) -> Option<String> {
    let IssuerRef { name, kind, .. } = issuer;
    Some(match reason {
        "IssuerNotFound" if kind == "Issuer" => format!(
            "the Issuer {name} must be in the system namespace {namespace}; a ClusterIssuer is found from everywhere"
        ),
        "IssuerNotFound" => format!("there is no {kind} {name}; create it, or correct issuerRef in the Mesh"),
        "IssuerNotReady" => format!("see `kubectl describe {} {name}`", kind.to_lowercase()),
        "SecretMissing" | "SecretInvalidData" => {
            format!("the Secret that the {kind} {name} signs with is missing or unusable")
        }
        "VaultInitError" => format!("cert-manager cannot log in to the Vault that the {kind} {name} names"),
        "WaitingForApproval" => "is cert-manager running, and is there an approver for this issuer?".to_owned(),
        _ => return None,
    })
}

/// A SelfSigned issuer asks for an annotation that this server will never set; say so.
fn explained(message: String) -> String {
    if !message.contains("cert-manager.io/private-key-secret-name") {
        return message;
    }
    format!(
        "{message} (a SelfSigned issuer needs the private key in a Secret, and a proxy's key never leaves this server's \
         memory; use a CA issuer)"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(status: &Value) -> CertificateRequestStatus {
        serde_json::from_value::<Option<_>>(status.clone()).unwrap().unwrap_or_default()
    }

    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": message})
    }

    #[test]
    fn every_state_is_read_as_cert_manager_means_it() {
        let approved = || condition("Approved", "True", "cert-manager.io", "approved by cert-manager");
        let denied = || condition("Denied", "True", "policy", "not on my watch");
        let ready = |status, reason, message| condition("Ready", status, reason, message);
        let denied_with = |message: &str| RequestState::Refused(CaError::Denied(message.into()));
        let failed = |message: &str| RequestState::Refused(CaError::Failed(message.into()));
        let invalid = |message: &str| RequestState::Refused(CaError::Invalid(message.into()));
        let waits = |reason: &str, message: &str| pending(reason, message);
        let issued =
            |certificate: &str, ca: &str| RequestState::Issued { certificate: certificate.into(), ca: ca.into() };
        let table = [
            (json!(null), waits("WaitingForApproval", "no approver has looked at it yet")),
            (json!({}), waits("WaitingForApproval", "no approver has looked at it yet")),
            (json!({"conditions": null}), waits("WaitingForApproval", "no approver has looked at it yet")),
            (json!({"conditions": [approved()]}), waits("WaitingForIssuer", "approved by cert-manager")),
            (json!({"conditions": [denied()]}), denied_with("not on my watch")),
            (
                json!({"conditions": [denied(), ready("False", "Denied", "it was denied")]}),
                denied_with("not on my watch"),
            ),
            (json!({"conditions": [ready("False", "Denied", "it was denied")]}), denied_with("it was denied")),
            (
                json!({"conditions": [denied(), ready("True", "Issued", "")], "certificate": "x"}),
                denied_with("not on my watch"),
            ),
            (json!({"conditions": [condition("Denied", "True", "", "")]}), { denied_with("no reason was given") }),
            (
                json!({"conditions": [condition("Denied", "False", "", ""), approved()]}),
                waits("WaitingForIssuer", "approved by cert-manager"),
            ),
            (
                json!({"conditions": [approved(), condition("InvalidRequest", "True", "Bad", "no CN"),
                    ready("False", "Failed", "order failed")]}),
                invalid("no CN"),
            ),
            (json!({"conditions": [approved(), ready("False", "Failed", "vault said 403")]}), failed("vault said 403")),
            (json!({"conditions": [ready("False", "Failed", "")]}), failed("Failed")),
            (
                json!({"conditions": [approved(), ready("True", "Issued", "")], "certificate": "x", "ca": "y"}),
                issued("x", "y"),
            ),
            (json!({"conditions": [ready("True", "Issued", "")], "certificate": "x"}), issued("x", "")),
            (json!({"conditions": [ready("True", "Issued", "soon")]}), waits("NoCertificate", "soon")),
            (
                json!({"conditions": [ready("True", "Issued", "soon")], "certificate": ""}),
                waits("NoCertificate", "soon"),
            ),
            (
                json!({"conditions": [approved()], "certificate": "x"}),
                waits("WaitingForIssuer", "approved by cert-manager"),
            ),
            (
                json!({"conditions": [approved(), ready("False", "Pending",
                    "Referenced \"Issuer\" not found: issuer.cert-manager.io \"ca\" not found")]}),
                waits("IssuerNotFound", "Referenced \"Issuer\" not found: issuer.cert-manager.io \"ca\" not found"),
            ),
            (
                json!({"conditions": [ready("False", "Pending",
                    "Referenced issuer does not have a Ready status condition")]}),
                waits("IssuerNotReady", "Referenced issuer does not have a Ready status condition"),
            ),
            (
                json!({"conditions": [ready("False", "Pending", "Referenced secret ns/ca not found: gone")]}),
                waits("SecretMissing", "Referenced secret ns/ca not found: gone"),
            ),
            (
                json!({"conditions": [ready("False", "Pending", "Failed to initialise vault client for signing: x")]}),
                waits("VaultInitError", "Failed to initialise vault client for signing: x"),
            ),
            (json!({"conditions": [ready("False", "Pending", "the weather")]}), waits("Pending", "the weather")),
            (json!({"conditions": [ready("Unknown", "", "")]}), waits("Pending", "")),
            (json!({"conditions": [ready("False", "Novel", "new")]}), waits("Novel", "new")),
            (json!({"conditions": [{}, {"type": "Ready"}]}), waits("Pending", "")),
        ];
        for (status, expected) in table {
            assert_eq!(classify(read(&status)), expected, "{status}");
        }
    }

    #[test]
    fn a_self_signed_issuer_is_explained() {
        let message =
            "Annotation \"cert-manager.io/private-key-secret-name\" missing or reference empty: secret name missing";
        let state = classify(read(&json!({"conditions": [condition("Ready", "False", "Failed", message)]})));
        let RequestState::Refused(CaError::Failed(told)) = state else { panic!("{state:?}") };
        assert!(told.starts_with(message) && told.contains("use a CA issuer"), "{told}");
    }

    #[test]
    fn an_issuer_in_the_wrong_namespace_is_explained() {
        let issuer = |kind: &str| IssuerRef { name: "ca".into(), kind: kind.into(), group: "cert-manager.io".into() };
        let hint = pending_hint("IssuerNotFound", &issuer("Issuer"), "kong-mesh-system").unwrap();
        assert!(hint.contains("must be in the system namespace kong-mesh-system"), "{hint}");
        let hint = pending_hint("IssuerNotFound", &issuer("ClusterIssuer"), "kong-mesh-system").unwrap();
        assert!(!hint.contains("namespace"), "{hint}");
        assert_eq!(pending_hint("Novel", &issuer("Issuer"), "n"), None);
    }

    #[test]
    fn a_bad_chain_is_a_bad_answer() {
        for (certificate, ca) in [("%%%", ""), ("", ""), ("bm9wZQ==", "")] {
            let error = read_chain(certificate, ca).unwrap_err();
            assert_eq!(error.label(), "bad_answer");
            assert!(error.to_string().contains("status.certificate"), "{error}");
        }
    }
}
