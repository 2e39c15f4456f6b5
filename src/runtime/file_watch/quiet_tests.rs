//! What is heard, and when the files are looked at, as tables.

use notify::event::{DataChange, MetadataKind};

use super::super::spots::Trail;
use super::*;

const WRITE: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
const MAKE: EventKind = EventKind::Create(CreateKind::File);
const MAKE_FOLDER: EventKind = EventKind::Create(CreateKind::Folder);
const CHANGE_MODE: EventKind = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
const REMOVE: EventKind = EventKind::Remove(RemoveKind::File);
const REMOVE_FOLDER: EventKind = EventKind::Remove(RemoveKind::Folder);
const FROM: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::From));
const TO: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));
const BOTH: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::Both));

/// A millisecond, an event, and its paths.
type Event = (u64, EventKind, &'static [&'static str]);

/// When the files in the folder `w`, of which everything counts, are looked at, in milliseconds.
fn looked_at(events: &[Event]) -> Option<u128> {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    std::fs::create_dir(root.join("w")).unwrap();
    let mut spots = Spots::default();
    for path in [root.join("w"), root.join("later/ca.pem")] {
        spots.change(&path.as_path().into(), &Trail::default(), &Trail::of(&path));
    }
    let (begin, mut quiet) = (Instant::now(), Quiet::default());
    for (at, kind, paths) in events {
        let paths: Vec<PathBuf> = paths.iter().map(|path| root.join(path)).collect();
        if let Some(happened) = meaning(*kind, &paths, &spots) {
            quiet.hear(happened, begin + Duration::from_millis(*at));
        }
    }
    quiet.whole_at().map(|at| at.duration_since(begin).as_millis())
}

#[test]
fn moves_alone_are_told_soon_and_a_file_that_is_being_written_has_its_quiet() {
    let cases: [(&str, &[Event], Option<u128>); 17] = [
        ("nothing", &[], None),
        ("written in place", &[(0, WRITE, &["w/a"]), (20, WRITE, &["w/a"])], Some(70)),
        ("moved into place from elsewhere", &[(0, TO, &["w/a"])], Some(10)),
        (
            "written beside it and moved over it",
            &[
                (0, MAKE, &["w/a.tmp"]),
                (1, WRITE, &["w/a.tmp"]),
                (2, FROM, &["w/a.tmp"]),
                (2, TO, &["w/a"]),
                (2, BOTH, &["w/a.tmp", "w/a"]),
            ],
            Some(12),
        ),
        (
            "a move while another is being written",
            &[(0, WRITE, &["w/b"]), (5, FROM, &["w/a.tmp"]), (5, TO, &["w/a"]), (5, BOTH, &["w/a.tmp", "w/a"])],
            Some(50),
        ),
        ("a move, and another is being written after it", &[(0, TO, &["w/a"]), (5, WRITE, &["w/b"])], Some(55)),
        ("a move when the other has long been written", &[(0, WRITE, &["w/b"]), (45, TO, &["w/a"])], Some(55)),
        ("moved over what was being written", &[(0, WRITE, &["w/a"]), (1, TO, &["w/a"])], Some(11)),
        (
            "a whole folder moved into the place of one in which something was being written",
            &[(0, WRITE, &["w/a"]), (1, TO, &["w"])],
            Some(11),
        ),
        (
            // mkdir, chmod, ..data_tmp, rename, and what was there before is removed.
            "the swap of a ConfigMap",
            &[
                (0, MAKE_FOLDER, &["w/..two"]),
                (1, CHANGE_MODE, &["w/..two"]),
                (8, MAKE, &["w/..data_tmp"]),
                (9, FROM, &["w/..data_tmp"]),
                (9, TO, &["w/..data"]),
                (9, BOTH, &["w/..data_tmp", "w/..data"]),
                (10, REMOVE_FOLDER, &["w/..one"]),
            ],
            Some(20),
        ),
        ("removed: it may be made anew", &[(0, REMOVE, &["w/a"])], Some(50)),
        ("made readable", &[(0, CHANGE_MODE, &["w/a"])], Some(10)),
        ("made readable while it is written", &[(0, WRITE, &["w/a"]), (1, CHANGE_MODE, &["w/a"])], Some(50)),
        ("a folder that is awaited is made", &[(0, MAKE_FOLDER, &["later"])], Some(50)),
        ("and one that is moved into place", &[(0, FROM, &["new"]), (0, TO, &["later"])], Some(10)),
        ("what is awaited has been moved away", &[(0, FROM, &["later"])], Some(50)),
        ("events were lost", &[(0, EventKind::Other, &[])], Some(50)),
    ];
    for (what, events, expected) in cases {
        assert_eq!(looked_at(events), expected, "{what}");
    }
    let of_others: [Event; 4] = [
        (0, WRITE, &["neighbour"]),
        (0, MAKE_FOLDER, &["w2"]),
        (0, TO, &["later2"]),
        (0, EventKind::Access(notify::event::AccessKind::Any), &["w/a"]),
    ];
    assert_eq!(looked_at(&of_others), None, "what happens to others");
}
