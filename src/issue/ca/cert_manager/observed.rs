//! A `CertificateRequest` as the watch tells of it.
//!
//! Three times for each certificate: so only what is asked for is read, and the rest (`managedFields` is half of it) is
//! skipped where it stands. What a status of an unexpected shape spoils is this one request.

use std::borrow::Cow;
use std::collections::BTreeMap;

use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};

use super::resource::{CertificateRequest, CertificateRequestStatus};

/// As much of the object as decides what becomes of it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Observed {
    /// Name, uid, version and annotations; nothing else is filled in.
    #[serde(deserialize_with = "needed_metadata")]
    pub(super) metadata: ObjectMeta,
    /// Why it cannot be read, if it cannot. The definition's schema makes that all but impossible.
    #[serde(default = "no_status", deserialize_with = "status_or_why_not")]
    pub(super) status: Result<CertificateRequestStatus, String>,
}

fn no_status() -> Result<CertificateRequestStatus, String> {
    Ok(CertificateRequestStatus::default())
}

fn status_or_why_not<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Result<CertificateRequestStatus, String>, D::Error> {
    let status = serde_json::Value::deserialize(deserializer)?;
    let read = serde_json::from_value::<Option<CertificateRequestStatus>>(status);
    Ok(read.map(Option::unwrap_or_default).map_err(|error| format!("status: {error}")))
}

fn needed_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Needed {
        name: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        annotations: Option<BTreeMap<String, String>>,
    }
    let Needed { name, uid, resource_version, annotations } = Needed::deserialize(deserializer)?;
    Ok(ObjectMeta { name, uid, resource_version, annotations, ..ObjectMeta::default() })
}

/// The same resource in the API server's eyes.
impl Resource for Observed {
    type DynamicType = <CertificateRequest as Resource>::DynamicType;
    type Scope = <CertificateRequest as Resource>::Scope;

    fn kind(which: &Self::DynamicType) -> Cow<'_, str> {
        CertificateRequest::kind(which)
    }

    fn group(which: &Self::DynamicType) -> Cow<'_, str> {
        CertificateRequest::group(which)
    }

    fn version(which: &Self::DynamicType) -> Cow<'_, str> {
        CertificateRequest::version(which)
    }

    fn plural(which: &Self::DynamicType) -> Cow<'_, str> {
        CertificateRequest::plural(which)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn observed(status: Option<Value>) -> Observed {
        let mut object = json!({
            "apiVersion": "cert-manager.io/v1",
            "kind": "CertificateRequest",
            "metadata": {
                "name": "web-x", "uid": "u-1", "resourceVersion": "7", "namespace": "kong-mesh-system",
                "annotations": {"envoy-sds.io/attempt": "a1"},
                "managedFields": [{"fieldsV1": {"f:spec": {}}}]
            },
            "spec": {"usages": 3}
        });
        if let Some(status) = status {
            object["status"] = status;
        }
        serde_json::from_str(&object.to_string()).unwrap()
    }

    #[test]
    fn what_is_needed_is_read() {
        let Observed { metadata, status } = observed(Some(json!({"certificate": "Y2VydA==", "failureTime": "then"})));
        assert_eq!((metadata.name.as_deref(), metadata.uid.as_deref()), (Some("web-x"), Some("u-1")));
        assert_eq!(metadata.resource_version.as_deref(), Some("7"), "the watch goes on from there");
        assert_eq!(metadata.annotations.unwrap()["envoy-sds.io/attempt"], "a1");
        assert_eq!(status.unwrap().certificate.as_deref(), Some("Y2VydA=="));
    }

    #[test]
    fn what_has_no_status_yet_has_an_empty_one() {
        for none in [None, Some(Value::Null), Some(json!({}))] {
            assert_eq!(observed(none).status.unwrap(), CertificateRequestStatus::default());
        }
    }

    #[test]
    fn a_status_that_cannot_be_read_spoils_nothing_else() {
        let Observed { metadata, status } = observed(Some(json!({"conditions": "none"})));
        assert_eq!(metadata.name.as_deref(), Some("web-x"));
        let why = status.unwrap_err();
        assert!(why.starts_with("status: invalid type: string \"none\""), "{why}");
    }
}
