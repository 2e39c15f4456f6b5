use std::path::Path;

use super::*;
use crate::mesh::Resources;

const GOOD: &str = "type: Mesh\nname: NAME\nmtls: {enabledBackend: b, backends: [{name: b, type: builtin}]}\n";
const BROKEN: &str = "type: Mesh\nname: NAME\nmtls: {enabledBackend: c, backends: [{name: b, type: builtin}]}\n";

fn settings(paths: &[&Path]) -> Settings {
    let paths = paths.iter().map(|path| path.to_path_buf()).collect();
    Settings {
        paths,
        kubernetes_available: false,
        system_namespace: "kong-mesh-system".to_owned(),
        zone: String::new(),
        read_file: None,
        state_dir: None,
    }
}

fn write(folder: &Path, file: &str, text: &str, mesh: &str) {
    let next = folder.join(".next");
    std::fs::write(&next, text.replace("NAME", mesh)).unwrap();
    std::fs::rename(next, folder.join(file)).unwrap();
}

fn meshes(resources: &Resources) -> String {
    resources.policies.meshes.keys().map(|name| &**name).collect::<Vec<_>>().join(" ")
}

#[test]
fn without_paths_it_is_the_embedded_default() {
    let mut files = LiveResources::of_files(settings(&[]), Clock::system());
    let compiled = files.load();
    assert!(compiled.problems.is_empty());
    let policy = &compiled.resources.policies.meshes["default"];
    assert_eq!(policy.enabled().map(|backend| backend.kind.label()), Some("builtin"));
}

#[test]
fn without_paths_nothing_stands_in_for_meshes_of_a_cluster() {
    let mut files = LiveResources::of_files(settings(&[]), Clock::system()).with_meshes_of_the_cluster();
    assert_eq!(meshes(&files.load().resources), "");
}

#[test]
fn folders_are_read_and_everything_else_in_them_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (file, mesh) in [("a.yaml", "a"), ("b.yml", "b"), ("c.json", "c"), ("d.txt", "d"), (".e.yaml", "e")] {
        write(folder.path(), file, GOOD, mesh);
    }
    std::fs::create_dir(folder.path().join("f.yaml")).unwrap();
    let listed_twice = folder.path().join("a.yaml");
    let mut files = LiveResources::of_files(settings(&[folder.path(), &listed_twice]), Clock::system());
    let compiled = files.load();
    assert_eq!((meshes(&compiled.resources).as_str(), compiled.problems), ("a b c", vec![]));
}

#[test]
fn the_last_good_stays_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let listed = tempfile::tempdir().unwrap();
    let listed_file = listed.path().join("listed.yaml");
    write(folder.path(), "a.yaml", GOOD, "a");
    write(folder.path(), "b.yaml", GOOD, "b");
    write(listed.path(), "listed.yaml", GOOD, "listed");
    let mut files = LiveResources::of_files(settings(&[folder.path(), &listed_file]), Clock::system());
    let mut step = |expected: &str, problem: &str| {
        let compiled = files.load();
        assert_eq!(meshes(&compiled.resources), expected);
        let problems = compiled.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(problems.contains(problem) && problem.is_empty() == problems.is_empty(), "{problems}");
    };
    step("a b listed", "");
    write(folder.path(), "a.yaml", BROKEN, "a");
    step("a b listed", "not the name of one of the backends");
    write(folder.path(), "a.yaml", "a: [", "");
    step("a b listed", "not valid YAML");
    write(folder.path(), "a.yaml", GOOD, "other");
    step("b listed other", "");
    std::fs::remove_file(folder.path().join("b.yaml")).unwrap();
    step("listed other", "");
    std::fs::remove_file(&listed_file).unwrap();
    step("listed other", "cannot be read");
    write(listed.path(), "listed.yaml", GOOD, "listed");
    step("listed other", "");
}

#[test]
fn a_document_that_is_not_yaml_leaves_the_others_of_its_file_alone() {
    let folder = tempfile::tempdir().unwrap();
    let good = |mesh: &str| GOOD.replace("NAME", mesh);
    let mut files = LiveResources::of_files(settings(&[folder.path()]), Clock::system());
    write(folder.path(), "a.yaml", &format!("{}---\ntype: [\n---\n{}", good("a"), good("b")), "");
    let compiled = files.load();
    assert_eq!(meshes(&compiled.resources), "a b");
    assert_eq!(compiled.problems.len(), 1);
    assert!(compiled.resources.policies.unserved.unread.is_some(), "it may be a mesh");
    // What was in the document that is broken now stays; what is good changes.
    write(folder.path(), "a.yaml", &format!("{}---\n{}---\n{}", good("a"), good("c"), good("b")), "");
    assert_eq!(meshes(&files.load().resources), "a b c");
    write(folder.path(), "a.yaml", &format!("{}---\ntype: Mesh\nname: [c\n---\n{}", good("a"), good("d")), "");
    let compiled = files.load();
    assert_eq!(meshes(&compiled.resources), "a b c d");
    let told = compiled.problems[0].to_string();
    assert!(told.contains("a.yaml:") && told.contains("not valid YAML"), "{told}");
}

#[tokio::test]
async fn changes_of_files_are_told() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.yaml", GOOD, "a");
    let mut files = LiveResources::of_files(settings(&[folder.path()]), Clock::system());
    assert_eq!(meshes(&files.load().resources), "a");
    for (text, mesh, expected, problems) in [(BROKEN, "a", "a", 1), (GOOD, "b", "b", 0)] {
        write(folder.path(), "a.yaml", text, mesh);
        let changed = async {
            loop {
                files.changed().await;
                let compiled = files.load();
                if compiled.problems.len() == problems && meshes(&compiled.resources) == expected {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), changed).await.unwrap();
    }
}
