//! What `envoy-sds check` looks into beside configuration and resources: the files that the server would refuse to start with.

use crate::config::Config;
use crate::identify::proxy_token::KeySource;
use crate::model::diagnostic::{Location, Problem};
use crate::runtime::clock::Clock;
use crate::serve::listen;

/// What is wrong with the files of TLS listeners and with the keys that proxy tokens are verified with.
pub fn files(config: &Config, clock: &Clock) -> Vec<Problem> {
    let problem = |field: String, what: String| {
        let at = Location { field: Some(field), ..Location::default() };
        Problem { at, what, hint: None }
    };
    let settings = super::convert::listeners(&config.listeners).into_iter().enumerate();
    let of_listeners = settings.flat_map(|(index, listener)| {
        let wrong = listener.tls.map(|files| listen::check(files, clock)).unwrap_or_default();
        wrong.into_iter().map(move |what| problem(format!("listeners[{index}].tls"), what))
    });
    let keys = config.identify.proxy_token.iter().flat_map(|method| &method.public_keys);
    let keys = KeySource::Files(keys.map(|key| (key.kid.clone(), key.file.clone())).collect());
    of_listeners.chain(keys.problems()).collect()
}
