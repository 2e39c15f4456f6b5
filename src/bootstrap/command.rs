//! The command that gives a bootstrap: it is the first line of every one, so that it can be had again, and changed.

use super::settings::{Identity, Settings};
pub(super) use crate::model::text::for_shell;

/// The workload that a proxy is of if nobody says which, and what is added to it for its name.
const WORKLOAD: &str = "web";
const FIRST_OF_IT: &str = "-0";

/// The command, on one line, as a shell takes it. Server, identity and paths are always in it, since what holds without them depends on where
/// it runs.
pub(super) fn line(settings: &Settings) -> String {
    let Settings { server, identity, secret_file, name, workload, .. } = settings;
    let default = Settings::new(server.clone(), identity.clone(), secret_file.clone(), name.clone(), workload.clone());
    let mut words = Words(vec!["envoy-sds bootstrap".to_owned()]);
    words.flag("server", server);
    if let Some(tls) = &settings.server_tls {
        words.flag("server-ca", &tls.ca_file);
        words.each("server-name", &tls.name);
    }
    words.flag("identity", identity.word());
    words.unless("grpc-client", settings.grpc_client.word(), default.grpc_client.word());
    words.each("token-file", identity.token_file());
    if let Identity::ClientCertificate { folder } = identity {
        words.flag("certificate-folder", folder);
    }
    words.each("secret-file", settings.needs_files().then_some(secret_file));
    words.each("mesh", &settings.mesh);
    words.unless("workload", workload.as_str(), WORKLOAD);
    words.unless("name", name.as_str(), &format!("{workload}{FIRST_OF_IT}"));
    words.each("namespace", &settings.namespace);
    words.each("spiffe-id", &settings.spiffe_id);
    words.unless("names", settings.names.word(), default.names.word());
    words.unless("api", settings.api.word(), default.api.word());
    words.unless("listen", &settings.listen, &default.listen);
    words.unless("outbound", &settings.outbound, &default.outbound);
    words.unless("upstream", &settings.upstream, &default.upstream);
    words.unless("admin", &settings.admin, &default.admin);
    words.each("application", &settings.application);
    words.each("client-id", &settings.client_ids);
    words.each("upstream-id", &settings.upstream_ids);
    words.0.join(" ")
}

struct Words(Vec<String>);

impl Words {
    fn flag(&mut self, name: &str, value: impl ToString) {
        let value = for_shell(&value.to_string());
        // Else it would be taken for a flag.
        let between = if value.trim_start_matches('\'').starts_with('-') { '=' } else { ' ' };
        self.0.push(format!("--{name}{between}{value}"));
    }

    fn each<T: ToString>(&mut self, name: &str, values: impl IntoIterator<Item = T>) {
        values.into_iter().for_each(|value| self.flag(name, value));
    }

    fn unless<T: ToString + PartialEq + ?Sized>(&mut self, name: &str, value: &T, default: &T) {
        if value != default {
            self.flag(name, value.to_string());
        }
    }
}
