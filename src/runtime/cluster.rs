//! Access to Kubernetes: one client for the whole server, and watches that recover by themselves.

use std::env;
use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::watch_board::{Entry, WatchBoard};

/// Bound on a question of [`is_installed`].
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Bound on opening a connection to the API server; kube's 30 s would be three times a usual request timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one watch call runs until it is resumed where it was. A connection that died without a word (NAT, a
/// pulled cable) is noticed 5 s after it; with kube's default of 290 s a certificate could lie ready for minutes.
const WATCH_SECONDS: u32 = 60;

/// `kubernetes:` in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Kubernetes if there is a kubeconfig or a pod's service account, else without.
    #[default]
    Auto,
    /// Kubernetes; not finding it is an error.
    On,
    /// Without Kubernetes, even inside a cluster.
    Off,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig that was asked for cannot be used.
    #[error("the kubeconfig {} cannot be used: {source}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<KubeconfigError>,
    },
    /// The kubeconfig that `KUBECONFIG` names cannot be used.
    #[error("the kubeconfig named by the environment variable KUBECONFIG cannot be used: {0}")]
    Environment(#[source] Box<KubeconfigError>),
    /// `kubernetes: on`, and nothing says where it is.
    #[error(
        "Kubernetes is on, but there is neither a kubeconfig (--kubeconfig, KUBECONFIG) nor a pod's service account: {0}"
    )]
    NotFound(#[source] Box<InClusterError>),
    /// In a pod, whose service account cannot be used.
    #[error(
        "this is a pod (KUBERNETES_SERVICE_HOST is set), but its service account cannot be used: {0}; mount its token, \
         or say `kubernetes: off`"
    )]
    InCluster(#[source] Box<InClusterError>),
    /// The configuration was found but no client can be made of it.
    #[error("no Kubernetes client can be made of the configuration: {0}")]
    Client(#[source] Box<kube::Error>),
}

/// Connects to Kubernetes as `mode` says: with `kubeconfig` if it is given, else with the files that `KUBECONFIG` names,
/// else with the service account of the pod. `~/.kube/config` is left alone: a server that finds itself on a developer's
/// machine must not create objects in whatever cluster was used last. No call is made; the API server may be down.
///
/// There is no client-side rate limit (the API server has its own), and no automatic retry: kube would repeat a POST
/// that was answered with 504, which may have been carried out.
///
/// # Errors
/// [`ConnectError`]. With [`Mode::Auto`], something that is there but broken is an error too.
pub async fn connect(mode: Mode, kubeconfig: Option<&Path>) -> Result<Option<Client>, ConnectError> {
    if mode == Mode::Off {
        return Ok(None);
    }
    let in_pod = env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let named = env::var_os("KUBECONFIG").is_some_and(|files| !files.is_empty());
    let mut config = if let Some(path) = kubeconfig {
        from_file(path)
            .await
            .map_err(|source| ConnectError::Kubeconfig { path: path.to_owned(), source: Box::new(source) })?
    } else if named {
        Config::from_kubeconfig(&KubeConfigOptions::default())
            .await
            .map_err(|error| ConnectError::Environment(Box::new(error)))?
    } else {
        match Config::incluster() {
            Ok(config) => config,
            Err(error) if in_pod => return Err(ConnectError::InCluster(Box::new(error))),
            Err(error) if mode == Mode::On => return Err(ConnectError::NotFound(Box::new(error))),
            Err(_) => return Ok(None),
        }
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.default_retry = false;
    let server = config.cluster_url.clone();
    let client = Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))?;
    tracing::info!(%server, "using Kubernetes");
    Ok(Some(client))
}

async fn from_file(path: &Path) -> Result<Config, KubeconfigError> {
    Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await
}

/// What a watch tells. Objects are guarded: one that does not parse is handed over as such and spoils nothing else.
pub type WatchEvent<K> = watcher::Event<DeserializeGuard<K>>;

/// What a watch of metadata tells.
pub type MetadataEvent<K> = watcher::Event<PartialObjectMeta<K>>;

type Events<E> = Pin<Box<dyn Stream<Item = watcher::Result<watcher::Event<E>>> + Send>>;

/// A watch that never ends and needs no care: it waits between attempts, and after *any* error begins anew with a list.
///
/// kube resumes most errors by itself, but not all: after an ERROR event other than 410 it keeps listening to a stream
/// on which nothing may ever come again, and a watch that is refused with 410 at its start is repeated unchanged for
/// ever. A list costs little here, so no stream that misbehaved once is trusted again.
pub struct Watch<K, E = DeserializeGuard<K>> {
    what: &'static str,
    begin: Box<dyn Fn() -> Events<E> + Send>,
    events: Events<E>,
    backoff: watcher::DefaultBackoff,
    not_before: Option<Instant>,
    failing: bool,
    refused: Option<Refused>,
    place: Option<Entry>,
    kind: PhantomData<fn() -> K>,
}

/// Why the API server lists nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It does not know the kind (404): its CustomResourceDefinition is not installed, or not taken in at the moment; see
    /// [`is_installed`].
    NotInstalled,
    /// This server may not (403).
    Forbidden,
}

/// A watch of nothing but the metadata of objects.
pub type MetadataWatch<K> = Watch<K, PartialObjectMeta<K>>;

impl<K> Watch<K>
where
    K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
{
    /// A watch of the objects in `api` that `config` selects; `what` names them in logs. Nothing happens before the
    /// first [`Watch::next`].
    pub fn new(what: &'static str, api: Api<DeserializeGuard<K>>, config: watcher::Config) -> Self {
        Self::of(what, api, config)
    }
}

impl<K> MetadataWatch<K>
where
    K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
{
    /// The same, and only their metadata is asked for.
    pub fn of_metadata(what: &'static str, api: Api<PartialObjectMeta<K>>, config: watcher::Config) -> Self {
        Self::of(what, api, config)
    }
}

impl<K> Watch<K, K>
where
    K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
    K::DynamicType: Default,
{
    /// The same for a `K` that takes any object of its kind, and need not be guarded against one that does not parse.
    pub fn of_lenient(what: &'static str, api: Api<K>, config: watcher::Config) -> Self {
        Self::of(what, api, config)
    }
}

impl<K, E> Watch<K, E>
where
    E: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
{
    fn of(what: &'static str, api: Api<E>, config: watcher::Config) -> Self {
        let config = config.timeout(WATCH_SECONDS);
        let begin: Box<dyn Fn() -> Events<E> + Send> = Box::new(move || watcher(api.clone(), config.clone()).boxed());
        let events = begin();
        let backoff = watcher::DefaultBackoff::default();
        Self {
            what,
            begin,
            events,
            backoff,
            not_before: None,
            failing: false,
            refused: None,
            place: None,
            kind: PhantomData,
        }
    }
}

impl<K, E> Watch<K, E> {
    /// Tells `board` from now on whether the API server lists what is watched.
    #[must_use]
    pub fn reporting(mut self, board: &WatchBoard) -> Self {
        self.place = Some(board.enter(self.what));
        self
    }

    /// That there is no such kind is believed: it is known what there is.
    pub fn is_known_to_be_absent(&self) {
        self.place.iter().for_each(Entry::is_listed);
    }

    /// The next event; waits out API server failures. `Init` is told *before* the list is asked for, so what was known
    /// to exist by then is in the list. Cancel safe.
    pub async fn next(&mut self) -> watcher::Event<E> {
        loop {
            if let Ok(event) = self.attempt().await {
                return event;
            }
        }
    }

    /// The same, for whoever has to say why nothing is known: the next event, or why there is none at the moment. After
    /// an error it is to be called again. Cancel safe.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn attempt(&mut self) -> Result<watcher::Event<E>, String> {
        loop {
            self.pause().await;
            match self.events.next().await {
                Some(Ok(event)) => return Ok(self.delivered(event)),
                Some(Err(error)) => return Err(self.failed(&error)),
                None => self.relist(),
            }
        }
    }

    /// The same for a kind that need not be there: says also each time that the API server refuses to list it, which is
    /// asked again like after any failure. That it is not installed is not warned of, and told once. Cancel safe.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn next_if_any(&mut self) -> Result<watcher::Event<E>, Refused> {
        loop {
            self.pause().await;
            match self.events.next().await {
                Some(Ok(event)) => return Ok(self.delivered(event)),
                Some(Err(error)) => match refusal(&error) {
                    Some(Refused::NotInstalled) => {
                        if self.refused != Some(Refused::NotInstalled) {
                            tracing::info!(
                                what = self.what,
                                "this kind is not installed in the cluster; it is looked for"
                            );
                        }
                        (self.refused, self.failing) = (Some(Refused::NotInstalled), false);
                        self.place.iter().for_each(|place| place.fails("the API server does not know this kind (404)"));
                        self.begin_again();
                        return Err(Refused::NotInstalled);
                    }
                    refused => {
                        self.failed(&error);
                        self.refused = refused.or(self.refused);
                        if let Some(refused) = refused {
                            return Err(refused);
                        }
                    }
                },
                None => self.relist(),
            }
        }
    }

    async fn pause(&mut self) {
        if let Some(not_before) = self.not_before {
            tokio::time::sleep_until(not_before).await;
            self.not_before = None;
        }
    }

    fn delivered(&mut self, event: watcher::Event<E>) -> watcher::Event<E> {
        if matches!(event, watcher::Event::InitDone) {
            if self.failing {
                tracing::info!(what = self.what, "the watch works again");
            } else if self.refused.is_some() {
                tracing::info!(what = self.what, "this kind is installed now");
            }
            (self.failing, self.refused) = (false, None);
            self.place.iter().for_each(Entry::is_listed);
        }
        event
    }

    /// Notes it, and says what it is.
    fn failed(&mut self, error: &watcher::Error) -> String {
        let error = explain(error);
        if self.failing {
            tracing::debug!(what = self.what, error, "the watch still fails");
        } else {
            tracing::warn!(what = self.what, error, "the watch failed; it is tried again until it works");
            self.failing = true;
        }
        self.place.iter().for_each(|place| place.fails(&error));
        self.begin_again();
        error
    }

    fn begin_again(&mut self) {
        self.not_before = self.backoff.next().map(|pause| Instant::now() + pause);
        self.relist();
    }

    /// Begins anew: the next event is `Init`. A pause after an error is still kept.
    pub fn relist(&mut self) {
        self.events = (self.begin)();
    }
}

impl<K, E> fmt::Debug for Watch<K, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("what", &self.what).field("failing", &self.failing).finish_non_exhaustive()
    }
}

fn refusal(error: &watcher::Error) -> Option<Refused> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404 => {
            Some(Refused::NotInstalled)
        }
        watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 403 => Some(Refused::Forbidden),
        _ => None,
    }
}

/// Whether the API server's discovery has the kind `plural` of `group_version`; `None` if it does not say. The answer to a
/// list alone is no proof: while a definition is replaced, or an aggregated API server begins, it may be 404 for a moment.
/// (An API server that has just started itself answers 503 until it has taken in what is installed.) Every service account
/// may ask: `system:discovery`.
pub async fn is_installed(client: &Client, group_version: &str, plural: &str) -> Option<bool> {
    match tokio::time::timeout(DISCOVERY_TIMEOUT, client.list_api_group_resources(group_version)).await.ok()? {
        Ok(list) => Some(list.resources.iter().any(|resource| resource.name == plural)),
        // The answer about a group that is not there is plain text, without a reason.
        Err(kube::Error::Api(status)) if status.code == 404 => Some(false),
        Err(error) => {
            tracing::debug!(error = explain(&error), "discovery does not answer");
            None
        }
    }
}

/// Whether the API server says that there is no such object.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

/// `error` and its causes in one line. kube's own `Display` leaves the cause out (`ServiceError: client error (Connect)`),
/// or shows the API server's answer twice, once as a Rust structure.
pub fn explain(error: &(dyn Error + 'static)) -> String {
    let mut parts = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(kube::Error::Api(status)) = error.downcast_ref() {
            parts.push(format!("{} ({})", status.message, status.code));
            break;
        }
        next = error.source();
        let (text, cause) = (error.to_string(), next.map(ToString::to_string).unwrap_or_default());
        let own = text.strip_suffix(&cause).unwrap_or(&text).trim_end_matches([':', ' ']);
        if !own.is_empty() {
            parts.push(own.to_owned());
        }
    }
    parts.join(": ")
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
