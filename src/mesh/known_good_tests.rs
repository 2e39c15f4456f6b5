use std::path::Path;

use crate::mesh::{Compiled, LiveResources, Settings};
use crate::runtime::clock::Clock;
use crate::runtime::state_dir::StateDir;

const MESH: &str = "type: Mesh\nname: NAME\nmtls: {enabledBackend: b, backends: [{name: b, type: builtin}]}\n";
const BROKEN: &str = "type: Mesh\nname: NAME\nmtls: {enabledBackend: c, backends: [{name: b, type: builtin}]}\n";

struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("resources")).unwrap();
        Self { folder }
    }

    fn file(&self, file: &str, text: &str) {
        std::fs::write(self.folder.path().join("resources").join(file), text).unwrap();
    }

    fn state(&self) -> StateDir {
        StateDir::new(self.folder.path().join("state"))
    }

    /// What a server starts with that is started now.
    fn start(&self) -> Compiled {
        LiveResources::of_files(self.settings(), Clock::system()).remembering(&self.state()).load()
    }

    fn settings(&self) -> Settings {
        Settings {
            paths: vec![self.folder.path().join("resources")],
            kubernetes_available: false,
            system_namespace: "system".to_owned(),
            zone: String::new(),
            read_file: None,
            state_dir: None,
        }
    }

    fn kept(&self) -> String {
        std::fs::read_to_string(self.state().path().join(Path::new("resources/last-good.json"))).unwrap()
    }
}

fn meshes(compiled: &Compiled) -> String {
    compiled.resources.policies.meshes.keys().map(|name| &**name).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_last_good_outlives_the_server() {
    let scene = Scene::new();
    for name in ["a", "b", "c", "d"] {
        scene.file(&format!("{name}.yaml"), &MESH.replace("NAME", name));
    }
    let before = scene.start();
    assert_eq!(meshes(&before), "a b c d");
    scene.file("a.yaml", &BROKEN.replace("NAME", "a"));
    scene.file("b.yaml", "b: [");
    scene.file("c.yaml", &MESH.replace("NAME", "other"));
    for _ in 0..2 {
        let after = scene.start();
        assert_eq!(meshes(&after), "a b d other");
        assert_eq!(after.problems.len(), 2, "{:?}", after.problems);
        assert_eq!(after.resources.policies.meshes["a"], before.resources.policies.meshes["a"]);
    }
}

#[test]
fn of_two_that_claim_one_id_the_one_that_had_it_has_it_after_a_restart() {
    let scene = Scene::new();
    let provider = "{type: Bundled, bundled: {insecureAllowSelfSigned: true, autogenerate: {enabled: true}}}";
    let identity = |name: &str, path: &str, labels: &str| {
        let selector = format!("{{dataplane: {{matchLabels: {{{labels}}}}}}}");
        let id = format!("{{path: '{path}'}}");
        format!(
            "type: MeshIdentity\nname: {name}\nspec: {{selector: {selector}, spiffeID: {id}, provider: {provider}}}\n"
        )
    };
    let holders = |compiled: &Compiled| {
        let policy = &compiled.resources.policies.meshes["default"];
        policy.identities.iter().map(|identity| identity.name.to_string()).collect::<Vec<_>>()
    };
    scene.file("z.yaml", &identity("z", "/{{ .Workload }}", "app: web"));
    assert_eq!(holders(&scene.start()), ["z"]);
    scene.file("a.yaml", &identity("a", "/{{ .ServiceAccount }}", "app: api"));
    // Whom it selects has nothing to do with that.
    scene.file("z.yaml", &identity("z", "/{{ .Workload }}", "app: db"));
    for _ in 0..2 {
        let compiled = scene.start();
        assert_eq!((holders(&compiled), compiled.problems.len()), (vec!["z".to_owned()], 1));
    }
}

#[test]
fn what_was_broken_from_the_start_holds_its_proxies_back_until_it_is_mended_and_what_came_later_never() {
    let scene = Scene::new();
    let held_back = |compiled: &Compiled| {
        let policy = &compiled.resources.policies.meshes["default"];
        policy.identities.iter().map(|identity| identity.name.to_string()).collect::<Vec<_>>()
    };
    let broken = |name: &str| {
        format!(
            "type: MeshIdentity\nname: {name}\nspec: {{selector: {{dataplane: {{matchLabels: {{app: {name}}}}}}}, provider: {{}}}}\n"
        )
    };
    scene.file("mesh.yaml", &MESH.replace("NAME", "default"));
    scene.file("first.yaml", &broken("first"));
    assert_eq!(held_back(&scene.start()), ["first"]);
    scene.file("later.yaml", &broken("later"));
    for _ in 0..2 {
        assert_eq!(held_back(&scene.start()), ["first"], "a restart changes nothing");
    }
    std::fs::remove_file(scene.folder.path().join("resources/first.yaml")).unwrap();
    assert!(held_back(&scene.start()).is_empty());
}

#[test]
fn no_key_and_no_secret_is_kept() {
    let scene = Scene::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let (certificate, private) = (quoted(&params.self_signed(&key).unwrap().pem()), quoted(&key.serialize_pem()));
    let conf = format!("{{cert: {{inlineString: {certificate}}}, key: {{inlineString: {private}}}}}");
    let mesh = format!(
        "type: Mesh\nname: default\nmtls: {{enabledBackend: b, backends: [{{name: b, type: provided, conf: {conf}}}]}}\n"
    );
    scene.file("mesh.yaml", &format!("{mesh}---\ntype: Secret\nname: s\ndata: c2VjcmV0\n"));
    assert_eq!(scene.start().problems, []);
    let kept = scene.kept();
    assert!(kept.contains("BEGIN CERTIFICATE") && kept.contains("NotKept"), "{kept}");
    let mut folders = vec![scene.state().path().to_owned()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let kept = std::fs::read_to_string(&path).unwrap();
            assert!(!kept.contains("PRIVATE") && !kept.contains("c2VjcmV0") && !kept.contains("secret"), "{kept}");
        }
    }
}
