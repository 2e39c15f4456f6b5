//! Envoy bootstraps: what `envoy-sds bootstrap` prints and `envoy-config/` has. Pure: settings in, text out.
//!
//! A bootstrap is put together from fragments of YAML (`fragments/`), with their comments: these are a part of it, since whoever changes
//! a line has to know what it is there for. Which fragments, is decided in `render.rs`; what a user gives goes in as quoted scalars.

mod command;
mod header;
mod names;
mod render;
mod settings;
mod template;

#[cfg(test)]
mod tests;

pub use names::NameStyle;
pub use settings::{Api, GrpcClient, Identity, SERVER_CA_FILE, ServerTls, Settings};
pub use template::Text;

use self::names::Names;

/// Settings that go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    settings: Settings,
    names: Names,
}

impl Bootstrap {
    /// # Errors
    /// Everything that is wrong with how the settings go together, each in a sentence that names the flags of `envoy-sds bootstrap`.
    pub fn new(settings: Settings) -> Result<Self, Vec<String>> {
        match (settings.problems(), settings.asks_for()) {
            (problems, Ok(names)) if problems.is_empty() => Ok(Self { settings, names }),
            (mut problems, names) => {
                problems.extend(names.err());
                Err(problems)
            }
        }
    }

    /// What should be known before it is used, each in a sentence that names a flag of `envoy-sds bootstrap`.
    pub fn warnings(&self) -> Vec<String> {
        self.settings.warnings()
    }

    /// The bootstrap, as Envoy is given it with `-c`.
    pub fn text(&self) -> String {
        render::bootstrap(&self.settings, &self.names)
    }

    /// The second file, which says where the proof of identity is, for [`Settings::secret_file`]; `None` if none is needed.
    pub fn secret(&self) -> Option<String> {
        render::secret(&self.settings)
    }

    /// The file that says where the CA of the server's certificate is, for [`Settings::server_ca_file`]; `None` if none is needed.
    pub fn server_ca(&self) -> Option<String> {
        render::server_ca(&self.settings)
    }
}
