//! Mesh resources, as users write them.

use std::fmt::Write;
use std::path::Path;

/// A cert-manager backend of a Mesh.
#[derive(Debug, Clone, Copy)]
pub struct Backend<'a> {
    pub name: &'a str,
    /// `Issuer` or `ClusterIssuer`.
    pub issuer_kind: &'a str,
    pub issuer: &'a str,
    pub ca: Ca<'a>,
}

/// A backend's `conf.caCert`.
#[derive(Debug, Clone, Copy)]
pub enum Ca<'a> {
    /// None: what the issuer says of itself is trusted.
    OfIssuer,
    /// A PEM text in the Mesh itself.
    Inline(&'a str),
    /// A PEM file beside the server.
    File(&'a Path),
    /// A mesh Secret.
    Secret(&'a str),
}

/// The Mesh `default` in its Kubernetes form; leaves live for `lifetime`.
pub fn mesh(enabled: &str, lifetime: &str, backends: &[Backend<'_>]) -> String {
    mesh_named("default", enabled, lifetime, backends)
}

/// That mesh, with a test certificate asked of the backend that is to sign: the tests that count requests do without.
pub fn validated_mesh(enabled: &str, lifetime: &str, backends: &[Backend<'_>]) -> String {
    mesh(enabled, lifetime, backends).replace(SKIP, "")
}

const SKIP: &str = "    skipValidation: true\n";

/// The Mesh of this name, whose signing backend is relied on without a test certificate.
pub fn mesh_named(name: &str, enabled: &str, lifetime: &str, backends: &[Backend<'_>]) -> String {
    let mut text = format!(
        "apiVersion: kuma.io/v1alpha1
kind: Mesh
metadata: {{name: {name}}}
spec:
  mtls:
{SKIP}    enabledBackend: {enabled}
    backends:
"
    );
    for backend in backends {
        let Backend { name, issuer_kind, issuer, ca } = backend;
        let _ = write!(
            text,
            "    - name: {name}
      type: certmanager
      dpCert:
        rotation: {{expiration: {lifetime}}}
        requestTimeout: 5s
      conf:
        issuerRef: {{name: {issuer}, kind: {issuer_kind}, group: cert-manager.io}}
"
        );
        let _ = match ca {
            Ca::OfIssuer => Ok(()),
            Ca::Inline(pem) => {
                write!(text, "        caCert:\n          inlineString: |\n{}", indented(pem, 12))
            }
            Ca::File(path) => writeln!(text, "        caCert: {{file: {}}}", path.display()),
            Ca::Secret(name) => writeln!(text, "        caCert: {{secret: {name}}}"),
        };
    }
    text
}

/// The Mesh `default` with the builtin CA, in its Universal form.
pub fn builtin_mesh(lifetime: &str) -> String {
    format!(
        "type: Mesh
name: default
mtls:
  skipValidation: true
  enabledBackend: ca-1
  backends:
  - name: ca-1
    type: builtin
    dpCert: {{rotation: {{expiration: {lifetime}}}}}
"
    )
}

fn indented(text: &str, spaces: usize) -> String {
    text.lines().map(|line| format!("{:spaces$}{line}\n", "")).collect()
}
