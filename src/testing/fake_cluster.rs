//! An API server in memory, for unit tests: list, watch, create, merge patch and delete of any resource, with faults on
//! order. It is a service behind a real [`kube::Client`], so requests and answers are the real JSON.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Method, Request, Response};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// What goes wrong with a call.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It is answered with this code and nothing is done.
    Refuse(u16, &'static str),
    /// It is carried out, and then the connection breaks.
    BreakAfter,
    /// The connection breaks and nothing is done.
    BreakBefore,
    /// It is carried out, and answered so much later.
    AnswerLate(Duration),
}

/// The server. Clones are the same server.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<(String, String), Value>,
    history: Vec<(u64, String, &'static str, Value)>,
    watches: Vec<Watch>,
    faults: VecDeque<(Method, String, Fault)>,
    calls: Vec<String>,
    down: bool,
    definitions: BTreeMap<String, Definition>,
}

/// What is unusual about a kind's definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Definition {
    /// There is none.
    Missing,
    /// Lists say so, and discovery has it all the same.
    Away,
    /// The status is a field like any other.
    WithoutSubresource,
    /// The same, and it is dropped.
    WithoutStatus,
}

struct Watch {
    plural: String,
    query: BTreeMap<String, String>,
    events: mpsc::UnboundedSender<Result<Bytes, std::io::Error>>,
}

type Answer = Result<Response<Body>, std::io::Error>;

impl FakeApi {
    pub(crate) fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let fake = fake.clone();
            async move { fake.handle(request).await }
        });
        Client::new(service, "default")
    }

    /// The next call of `method` on `plural` goes wrong; several faults are used up in order.
    pub(crate) fn fault(&self, method: Method, plural: &str, fault: Fault) {
        self.lock().faults.push_back((method, plural.to_owned(), fault));
    }

    /// Makes a kind an unusual one, or (`None`) a usual one again.
    pub(crate) fn define(&self, plural: &str, definition: Option<Definition>) {
        let definitions = &mut self.lock().definitions;
        match definition {
            Some(definition) => drop(definitions.insert(plural.to_owned(), definition)),
            None => drop(definitions.remove(plural)),
        }
    }

    /// No call gets through, and watches break, until it is up again.
    pub(crate) fn set_down(&self, down: bool) {
        let mut state = self.lock();
        state.down = down;
        state.watches.clear();
    }

    /// Watches end as they do after their timeout.
    pub(crate) fn end_watches(&self) {
        self.lock().watches.clear();
    }

    /// Sends an ERROR event on every watch; the streams stay open, and silent for ever.
    pub(crate) fn watch_error(&self, code: u16) {
        let mut state = self.lock();
        let event = json!({"type": "ERROR", "object": status(code, "too old")});
        for watch in std::mem::take(&mut state.watches) {
            watch.send(&event);
            // Neither ended nor fed: what the trap in real-parts.md looks like.
            std::mem::forget(watch);
        }
        state.history.clear();
    }

    /// `POST plural`, `DELETE plural`, `WATCH plural`, …, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    /// How often `call` was made.
    pub(crate) fn count(&self, call: &str) -> usize {
        self.lock().calls.iter().filter(|made| *made == call).count()
    }

    pub(crate) fn objects(&self, plural: &str) -> Vec<Value> {
        self.lock().objects.iter().filter(|((of, _), _)| of == plural).map(|(_, object)| object.clone()).collect()
    }

    /// Creates or replaces an object, as somebody else would.
    pub(crate) fn put(&self, plural: &str, object: Value) {
        self.lock().store(plural, object);
    }

    /// Sets fields of an object.
    pub(crate) fn merge(&self, plural: &str, name: &str, patch: &Value) {
        let mut state = self.lock();
        if let Some(mut object) = state.objects.get(&(plural.to_owned(), name.to_owned())).cloned() {
            merge(&mut object, patch);
            state.store(plural, object);
        }
    }

    /// Deletes an object, as somebody else would. Watches are told, unless `silently`.
    pub(crate) fn remove(&self, plural: &str, name: &str) {
        self.lock().remove(plural, name);
    }

    /// Waits until there are `count` objects, and returns them. With paused time, this takes none.
    pub(crate) async fn until_count(&self, plural: &str, count: usize) -> Vec<Value> {
        loop {
            let objects = self.objects(plural);
            if objects.len() == count {
                return objects;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    async fn handle(&self, request: Request<kube::client::Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.map_err(std::io::Error::other)?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (plural, name, subresource) = parts_of(parts.uri.path());
        let query: BTreeMap<String, String> = parts.uri.query().map(parse_query).unwrap_or_default();
        let fault = {
            let mut state = self.lock();
            let watch = query.get("watch").is_some_and(|watch| watch == "true");
            let verb = if watch { "WATCH" } else { parts.method.as_str() };
            state.calls.push(format!("{verb} {plural}"));
            if state.down {
                return Err(std::io::Error::other("connection refused"));
            }
            if parts.uri.path() == "/apis/kuma.io/v1alpha1" {
                return Ok(state.discovery());
            }
            let missing = match state.definitions.get(&plural) {
                Some(Definition::Missing | Definition::Away) => true,
                Some(Definition::WithoutSubresource | Definition::WithoutStatus) => subresource,
                None => false,
            };
            let fault = state.faults.iter().position(|(method, of, _)| *method == parts.method && *of == plural);
            let fault = fault.and_then(|at| state.faults.remove(at)).map(|(_, _, fault)| fault);
            // Whoever may not is not told what there is.
            if missing && !matches!(fault, Some(Fault::Refuse(..))) {
                return Ok(answer(404, &status(404, "the server could not find the requested resource")));
            }
            fault
        };
        match fault {
            Some(Fault::Refuse(code, message)) => Ok(answer(code, &status(code, message))),
            Some(Fault::BreakBefore) => Err(std::io::Error::other("connection reset by peer")),
            fault => {
                let answer = self.lock().carry_out(&parts.method, &plural, &name, &query, body);
                match fault {
                    Some(Fault::BreakAfter) => return Err(std::io::Error::other("connection reset by peer")),
                    Some(Fault::AnswerLate(delay)) => tokio::time::sleep(delay).await,
                    _ => {}
                }
                Ok(answer)
            }
        }
    }
}

impl State {
    fn discovery(&self) -> Response<Body> {
        let installed: Vec<Value> = [("meshes", "Mesh"), ("meshidentities", "MeshIdentity"), ("meshtrusts", "MeshTrust")]
            .iter()
            .filter(|(plural, _)| self.definitions.get(*plural) != Some(&Definition::Missing))
            .map(|(plural, kind)| json!({"name": plural, "singularName": "", "namespaced": false, "kind": kind, "verbs": []}))
            .collect();
        if installed.is_empty() {
            return answer(404, &status(404, "the server could not find the requested resource"));
        }
        answer(200, &json!({"groupVersion": "kuma.io/v1alpha1", "resources": installed}))
    }

    fn carry_out(
        &mut self,
        method: &Method,
        plural: &str,
        name: &str,
        query: &BTreeMap<String, String>,
        mut body: Value,
    ) -> Response<Body> {
        let key = (plural.to_owned(), name.to_owned());
        if *method == Method::POST {
            if let Some(prefix) = body["metadata"]["generateName"].as_str() {
                body["metadata"]["name"] = json!(format!("{prefix}{:05}", self.version));
            }
            return answer(201, &self.store(plural, body));
        }
        if *method == Method::GET && name.is_empty() {
            if query.get("watch").is_some_and(|watch| watch == "true") {
                return self.watch(plural, query);
            }
            let items: Vec<&Value> = self
                .objects
                .iter()
                .filter(|((of, _), object)| of == plural && selected(object, query))
                .map(|(_, object)| object)
                .collect();
            let version = self.version.to_string();
            return answer(200, &json!({"metadata": {"resourceVersion": version}, "items": items}));
        }
        let Some(mut object) = self.objects.get(&key).cloned() else {
            return answer(404, &status(404, "not found"));
        };
        if *method == Method::GET {
            return answer(200, &object);
        }
        if *method == Method::DELETE {
            let wanted = &body["preconditions"];
            let differs = |field: &str| !wanted[field].is_null() && wanted[field] != object["metadata"][field];
            if differs("uid") || differs("resourceVersion") {
                return answer(409, &status(409, "the precondition failed"));
            }
            self.remove(plural, name);
            return answer(200, &json!({"kind": "Status", "status": "Success"}));
        }
        let read = &body["metadata"]["resourceVersion"];
        if !read.is_null() && *read != object["metadata"]["resourceVersion"] {
            return answer(409, &status(409, "the object has been modified"));
        }
        merge(&mut object, &body);
        if self.definitions.get(plural) == Some(&Definition::WithoutStatus) {
            object["status"] = Value::Null;
        }
        answer(200, &self.store(plural, object))
    }

    fn store(&mut self, plural: &str, mut object: Value) -> Value {
        self.version += 1;
        let key = (plural.to_owned(), object["metadata"]["name"].as_str().unwrap_or_default().to_owned());
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        }
        let kind = if self.objects.insert(key, object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        self.emit(plural, kind, &object);
        object
    }

    fn remove(&mut self, plural: &str, name: &str) {
        if let Some(mut object) = self.objects.remove(&(plural.to_owned(), name.to_owned())) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.emit(plural, "DELETED", &object);
        }
    }

    fn emit(&mut self, plural: &str, kind: &'static str, object: &Value) {
        self.history.push((self.version, plural.to_owned(), kind, object.clone()));
        self.watches.retain(|watch| !watch.events.is_closed());
        for watch in self.watches.iter().filter(|watch| watch.plural == plural && selected(object, &watch.query)) {
            watch.send(&json!({"type": kind, "object": object}));
        }
    }

    fn watch(&mut self, plural: &str, query: &BTreeMap<String, String>) -> Response<Body> {
        let (events, stream) = mpsc::unbounded_channel();
        let watch = Watch { plural: plural.to_owned(), query: query.clone(), events };
        let since: u64 = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
        for (version, of, kind, object) in &self.history {
            if *version > since && of == plural && selected(object, query) {
                watch.send(&json!({"type": kind, "object": object}));
            }
        }
        self.watches.push(watch);
        Response::new(Body::from_stream(UnboundedReceiverStream::new(stream)))
    }
}

impl Watch {
    fn send(&self, event: &Value) {
        let _ = self.events.send(Ok(format!("{event}\n").into()));
    }
}

/// Of `/api/v1/…` and `/apis/<group>/<version>/…`, in a namespace or not. Any other path is an object whose name is the path.
fn parts_of(path: &str) -> (String, String, bool) {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let rest = match parts.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => return (path.to_owned(), path.to_owned(), false),
    };
    let rest = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    let part = |at: usize| rest.get(at).copied().unwrap_or_default().to_owned();
    (part(0), part(1), part(2) == "status")
}

fn answer(code: u16, body: &Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(body.to_string())).unwrap()
}

fn status(code: u16, message: &str) -> Value {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        _ => "Unknown",
    };
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

fn selected(object: &Value, query: &BTreeMap<String, String>) -> bool {
    let clauses = |name: &str| -> Vec<String> {
        query.get(name).into_iter().flat_map(|text| text.split(',')).map(str::to_owned).collect()
    };
    let holds = |clause: &str, value: &dyn Fn(&str) -> Option<String>| match clause.split_once("!=") {
        Some((key, other)) => value(key).as_deref() != Some(other),
        None => clause.split_once('=').is_some_and(|(key, wanted)| value(key).as_deref() == Some(wanted)),
    };
    let label = |key: &str| object["metadata"]["labels"][key].as_str().map(str::to_owned);
    let field = |key: &str| object.pointer(&format!("/{}", key.replace('.', "/")))?.as_str().map(str::to_owned);
    clauses("labelSelector").iter().all(|clause| holds(clause, &label))
        && clauses("fieldSelector").iter().all(|clause| holds(clause, &field))
}

fn merge(target: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            for (key, value) in fields {
                merge(&mut target[key.as_str()], value);
            }
        }
        other => *target = other.clone(),
    }
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    query.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (decode(key), decode(value))).collect()
}

fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next(), rest.next()].map(Option::unwrap);
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            }
            b'+' => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).unwrap()
}
