//! With the file system's own events.

use std::os::unix::fs::symlink;

use super::*;

struct Scene {
    folder: tempfile::TempDir,
    watch: FileWatch,
    changes: Changes,
}

impl Scene {
    /// Watches `path` in a folder that is empty but for what `prepare` puts there.
    fn of(path: &str, prepare: impl Fn(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let watch = FileWatch::new();
        watch.add(&folder.path().join(path));
        let changes = watch.changes();
        Self { folder, watch, changes }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Waits, with less patience than the safety net has, until it was told of a change after which the file has this content.
    async fn reads(&mut self, path: &str, content: &str) {
        let path = self.at(path);
        let told = async {
            loop {
                self.changes.next().await;
                if std::fs::read_to_string(&path).is_ok_and(|found| found == content) {
                    return;
                }
            }
        };
        let within = Duration::from_secs(20);
        assert!(within < SAFETY_NET);
        tokio::time::timeout(within, told).await.unwrap_or_else(|_elapsed| panic!("{content:?} is told"));
    }

    /// Waits until these folders, as seen from the scene's, are watched, and no others.
    async fn watches(&mut self, expected: &[&str]) {
        let root = self.folder.path().canonicalize().unwrap();
        let watching = self.watch.0.clone();
        let watched = || {
            let armed = lock(&watching.armed);
            let folders = armed.folders.watched().map(|path| path.strip_prefix(&root).unwrap().display().to_string());
            folders.collect::<Vec<_>>()
        };
        let told = async {
            while watched() != expected {
                self.changes.next().await;
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(20), told).await;
        assert!(ended.is_ok(), "{:?} are watched", watched());
    }
}

fn write(path: PathBuf, content: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

#[tokio::test]
async fn a_watch_that_has_ended_without_a_word_is_renewed_when_all_paths_are_followed() {
    let mut scene = Scene::of("mesh.yaml", |folder| write(folder.join("mesh.yaml"), "one"));
    {
        let mut armed = lock(&scene.watch.0.armed);
        armed.folders.end_watches();
        armed.followed_all = Instant::now().checked_sub(FOLLOW_ALL).unwrap();
    }
    drop(scene.watch.changes());
    write(scene.at("mesh.yaml"), "two");
    scene.reads("mesh.yaml", "two").await;
}

#[tokio::test]
async fn a_replaced_file_is_noticed() {
    let mut scene = Scene::of("mesh.yaml", |folder| write(folder.join("mesh.yaml"), "one"));
    write(scene.at("next"), "two");
    std::fs::rename(scene.at("next"), scene.at("mesh.yaml")).unwrap();
    scene.reads("mesh.yaml", "two").await;
}

#[tokio::test]
async fn a_file_in_a_folder_that_is_made_later_is_noticed() {
    let mut scene = Scene::of("a/b/ca.pem", |_| {});
    scene.watches(&[""]).await;
    std::fs::create_dir(scene.at("a")).unwrap();
    scene.watches(&["a"]).await;
    write(scene.at("a/b/ca.pem"), "one");
    scene.reads("a/b/ca.pem", "one").await;
    write(scene.at("a/b/ca.pem"), "two");
    scene.reads("a/b/ca.pem", "two").await;
    scene.watches(&["a/b"]).await;
}

#[tokio::test]
async fn a_folder_that_is_made_anew_or_exchanged_is_watched_again() {
    let mut scene = Scene::of("conf/ca.pem", |folder| write(folder.join("conf/ca.pem"), "one"));
    std::fs::remove_dir_all(scene.at("conf")).unwrap();
    write(scene.at("conf/ca.pem"), "two");
    scene.reads("conf/ca.pem", "two").await;
    write(scene.at("next/ca.pem"), "three");
    std::fs::rename(scene.at("conf"), scene.at("before")).unwrap();
    std::fs::rename(scene.at("next"), scene.at("conf")).unwrap();
    scene.reads("conf/ca.pem", "three").await;
    write(scene.at("conf/ca.pem"), "four");
    scene.reads("conf/ca.pem", "four").await;
}

#[tokio::test]
async fn a_mounted_config_map_is_followed_from_link_to_link() {
    let mut scene = Scene::of("mount/ca.pem", |folder| {
        write(folder.join("mount/..one/ca.pem"), "one");
        symlink("..one", folder.join("mount/..data")).unwrap();
        symlink("..data/ca.pem", folder.join("mount/ca.pem")).unwrap();
    });
    for (before, next) in [("..one", "..two"), ("..two", "..three")] {
        write(scene.at("mount").join(next).join("ca.pem"), next);
        symlink(next, scene.at("mount/..data_tmp")).unwrap();
        std::fs::rename(scene.at("mount/..data_tmp"), scene.at("mount/..data")).unwrap();
        std::fs::remove_dir_all(scene.at("mount").join(before)).unwrap();
        scene.reads("mount/ca.pem", next).await;
    }
    // What is gone is forgotten.
    scene.watches(&["mount", "mount/..three"]).await;
}

#[tokio::test]
async fn a_link_to_a_folder_that_is_made_later_is_followed() {
    let mut scene = Scene::of("ca.pem", |folder| symlink("later/ca.pem", folder.join("ca.pem")).unwrap());
    write(scene.at("later/ca.pem"), "one");
    scene.reads("ca.pem", "one").await;
}

#[tokio::test]
async fn in_a_folder_every_file_counts_and_beside_a_file_none() {
    let mut scene = Scene::of("keys", |folder| std::fs::create_dir(folder.join("keys")).unwrap());
    write(scene.at("keys/any.pem"), "one");
    scene.reads("keys/any.pem", "one").await;

    let scene = Scene::of("ca.pem", |_| {});
    let (neighbour, file) = (scene.at("neighbour"), scene.at("ca.pem"));
    write(neighbour.clone(), "");
    write(file.clone(), "");
    let mut changed = scene.changes.changed.clone();
    // Events come in order: those of the neighbour would be there before that of the file.
    let file = file.canonicalize().unwrap();
    let told = changed.wait_for(|quiet| quiet.is_writing(&file));
    let quiet = tokio::time::timeout(Duration::from_secs(20), told).await.expect("the file is told").unwrap();
    assert!(!quiet.is_writing(&neighbour.canonicalize().unwrap()));
}

#[tokio::test]
async fn what_is_held_is_watched_until_the_last_has_let_go_of_it() {
    let mut scene = Scene::of("kept/ca.pem", |folder| {
        ["held", "kept"].iter().for_each(|name| std::fs::create_dir(folder.join(name)).unwrap());
    });
    let (held, kept) = (scene.at("held/ca.pem"), scene.at("kept/ca.pem"));
    let [first, second] = [(); 2].map(|()| scene.watch.hold([&*held, &*kept]));
    drop(first);
    scene.watches(&["held", "kept"]).await;
    write(held.clone(), "one");
    scene.reads("held/ca.pem", "one").await;
    drop(second);
    scene.watches(&["kept"]).await;
    // And again, by whoever comes then.
    let _held = scene.watch.hold([&*held]);
    scene.watches(&["held", "kept"]).await;
    write(held, "two");
    scene.reads("held/ca.pem", "two").await;
}

#[tokio::test]
async fn a_path_that_is_a_folder_when_it_is_there_at_last_counts_with_all_that_is_in_it() {
    let mut scene = Scene::of("resources", |_| {});
    std::fs::create_dir(scene.at("resources")).unwrap();
    scene.watches(&["", "resources"]).await;
    write(scene.at("resources/any.yaml"), "one");
    scene.reads("resources/any.yaml", "one").await;
}

/// What happens to a folder above the one that a file is in is no event.
#[tokio::test(start_paused = true)]
async fn a_folder_that_was_exchanged_unheard_is_watched_again_within_a_minute() {
    let mut scene = Scene::of("a/b/ca.pem", |folder| write(folder.join("a/b/ca.pem"), "one"));
    std::fs::rename(scene.at("a"), scene.at("before")).unwrap();
    write(scene.at("a/b/ca.pem"), "two");
    scene.changes.next().await;
    tokio::time::resume();
    write(scene.at("a/b/ca.pem"), "three");
    scene.reads("a/b/ca.pem", "three").await;
}

#[tokio::test]
async fn a_folder_that_has_got_another_name_unheard_is_watched_under_that() {
    let mut scene = Scene::of("kept.pem", |folder| write(folder.join("a/b/ca.pem"), "one"));
    let by_old = scene.watch.hold([&*scene.at("a/b/ca.pem")]);
    std::fs::rename(scene.at("a"), scene.at("c")).unwrap();
    let _by_new = scene.watch.hold([&*scene.at("c/b/ca.pem")]);
    drop(by_old);
    scene.watches(&["", "c/b"]).await;
    write(scene.at("c/b/ca.pem"), "two");
    scene.reads("c/b/ca.pem", "two").await;
}

#[tokio::test(start_paused = true)]
async fn it_is_looked_at_when_it_is_quiet_and_in_time_if_it_never_is() {
    let watching = FileWatch::new().0;
    for (every, told_after) in [(None, quiet::QUIET), (Some(Duration::from_millis(20)), AT_MOST)] {
        let (tell, changed) = watch::channel(Quiet::default());
        let mut changes = Changes { watching: watching.clone(), changed };
        let begin = Instant::now();
        let write = || tell.send_modify(|quiet| quiet.hear(quiet::Happened::Begun("file".into()), Instant::now()));
        let writer = async {
            write();
            while let Some(every) = every {
                tokio::time::sleep(every).await;
                write();
            }
            std::future::pending().await
        };
        tokio::select! {
            () = changes.next() => {}
            () = writer => {}
        }
        let after = begin.elapsed();
        assert!((told_after..told_after + Duration::from_millis(2)).contains(&after), "{every:?}: {after:?}");
    }
}
