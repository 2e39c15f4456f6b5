//! What an Envoy calls its secrets, by the system that it was set up for. `serve::naming` has the other end.

use spiffe::SpiffeId;

/// Whose names for secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NameStyle {
    /// `default` and `ROOTCA`, which SPIRE's agent and Istio's sidecars have in common.
    #[default]
    Common,
    /// SPIRE: SPIFFE IDs.
    Spire,
    /// Istio: a gateway's credential from an external SDS server.
    Istio,
    /// Kuma and Kong Mesh.
    Kuma,
    /// Open Service Mesh.
    Osm,
    /// Envoy Gateway.
    EnvoyGateway,
}

impl NameStyle {
    /// All of them, with their words.
    pub const ALL: [(&'static str, Self); 6] = [
        ("common", Self::Common),
        ("spire", Self::Spire),
        ("istio", Self::Istio),
        ("kuma", Self::Kuma),
        ("osm", Self::Osm),
        ("envoy-gateway", Self::EnvoyGateway),
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, style)| *style == self).map_or("", |(word, _)| word)
    }

    /// Whether the server understands it only if told to (`naming.profiles`).
    pub(super) fn is_off_by_default(self) -> bool {
        matches!(self, Self::Osm | Self::EnvoyGateway)
    }
}

/// What the names are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) mesh: &'a str,
    pub(super) namespace: Option<&'a str>,
    /// In Kubernetes, the service account.
    pub(super) workload: &'a str,
    /// If it is not the default one.
    pub(super) spiffe_id: Option<&'a SpiffeId>,
}

/// The names that one Envoy asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) certificate: String,
    /// By which callers are verified.
    pub(super) callers: String,
    /// By which the upstream is verified.
    pub(super) upstream: String,
}

impl Names {
    /// # Errors
    /// What is missing, or cannot be part of a name.
    pub(super) fn new(style: NameStyle, owner: Owner<'_>) -> Result<Self, String> {
        let Owner { mesh, workload, .. } = owner;
        let namespace = || {
            owner.namespace.ok_or_else(|| {
                format!(
                    "--names {} has the namespace of the proxy's service account in it: give --namespace",
                    style.word()
                )
            })
        };
        let (certificate, callers, upstream) = match style {
            NameStyle::Common => ("default".to_owned(), "ROOTCA".to_owned(), None),
            NameStyle::Spire => {
                let id = owner.spiffe_id()?;
                (id.to_string(), format!("spiffe://{}", id.trust_domain_name()), None)
            }
            NameStyle::Istio => (format!("sds://{workload}"), format!("sds://{workload}-cacert"), None),
            NameStyle::Kuma => (format!("identity_cert:secret:{mesh}"), format!("mesh_ca:secret:{mesh}"), None),
            NameStyle::Osm => {
                let own = format!("{}/{workload}", namespace()?);
                let upstream = "root-cert-for-mtls-outbound".to_owned();
                (format!("service-cert:{own}"), format!("root-cert-for-mtls-inbound:{own}"), Some(upstream))
            }
            NameStyle::EnvoyGateway => {
                let own = format!("{}/{workload}", namespace()?);
                (own.clone(), format!("{own}/ca.crt"), None)
            }
        };
        let upstream = upstream.unwrap_or_else(|| callers.clone());
        Ok(Self { certificate, callers, upstream })
    }
}

impl Owner<'_> {
    fn spiffe_id(&self) -> Result<SpiffeId, String> {
        let Self { mesh, workload, .. } = self;
        let text = match (self.spiffe_id, self.namespace) {
            (Some(id), _) => return Ok(id.clone()),
            (None, Some(namespace)) => format!("spiffe://{mesh}/ns/{namespace}/sa/{workload}"),
            (None, None) => format!("spiffe://{mesh}/{workload}"),
        };
        let no_id = |error| {
            format!("{text:?} is no SPIFFE ID ({error}): see --mesh, --namespace and --workload, or give --spiffe-id")
        };
        text.parse().map_err(no_id)
    }
}
