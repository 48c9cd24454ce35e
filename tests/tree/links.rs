//! Where links to directories are followed: each directory is covered once, and by another way when that one goes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use ringwatch::Mask;
use ringwatch::tree::{OwnedChange, Recovery, Tree};
use tempfile::{TempDir, tempdir};

use crate::model::{Model, Watched, difference, disk_behind_links};
use crate::scenarios::paths;
use crate::support::exchange::exchange;

struct Place {
    _dir: TempDir,
    root: PathBuf,
    outside: PathBuf,
    watched: Watched,
    model: Model,
}

/// A tree whose root has in it what `make` makes there, and a directory outside with a file in it.
fn place(make: impl FnOnce(&Path, &Path)) -> Place {
    let dir = tempdir().expect("a directory");
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    fs::create_dir(&root).expect("a root");
    fs::create_dir_all(outside.join("sub")).expect("an outside");
    fs::write(outside.join("file"), "").expect("a file");
    make(&root, &outside);
    let tree = Tree::builder(&root).follow_symlinks(true).recovery(Recovery::Diff);
    let watched = Watched::open(tree);
    let aliases = aliases(&watched);
    let mut model = Model::new(
        &root,
        disk_behind_links(&root, &|path| !aliases.contains(&path.to_owned())),
    );
    model.follows = true;
    Place {
        _dir: dir,
        root,
        outside,
        watched,
        model,
    }
}

fn aliases(watched: &Watched) -> Vec<PathBuf> {
    let uncovered = watched.tree.uncovered().into_iter();
    uncovered.map(|uncovered| uncovered.path).collect()
}

impl Place {
    /// What has happened, which must add up to what is there.
    fn changes(&mut self) -> Vec<OwnedChange> {
        let changes = self.watched.changes();
        let applied = changes.iter().try_for_each(|change| self.model.apply(change));
        applied.unwrap_or_else(|fault| panic!("{fault}: {changes:?}"));
        let aliases = aliases(&self.watched);
        let disk = disk_behind_links(&self.root, &|path| !aliases.contains(&path.to_owned()));
        let found = difference(&self.model.node, &disk, &self.root);
        assert_eq!(found, None, "{changes:?}, not covered {aliases:?}");
        changes
    }

    /// The path under which a new file in a directory outside is reported.
    fn heard_of(&mut self, name: &str) -> Vec<PathBuf> {
        fs::write(self.outside.join(name), "").expect("a file");
        let paths = paths(&self.changes(), Mask::CREATE);
        paths
            .into_iter()
            .map(|path| path.strip_prefix(&self.root).expect("below").to_owned())
            .collect()
    }
}

/// Two links to one directory, of which one is covered. Answers which, and which is not.
fn two_links() -> (Place, [&'static str; 2]) {
    let mut place = place(|root, outside| {
        for name in ["one", "two"] {
            symlink(outside, root.join(name)).expect("a link");
        }
    });
    place.changes();
    let alias = aliases(&place.watched);
    assert_eq!(alias.len(), 1);
    let names = if alias[0].ends_with("two") {
        ["one", "two"]
    } else {
        ["two", "one"]
    };
    (place, names)
}

#[test]
fn what_is_reached_in_two_ways_is_covered_in_the_other_when_one_goes() {
    type Go = fn(&Path, &Path);
    let ways: [Go; 6] = [
        |link, _| fs::remove_file(link).unwrap(),
        |link, outside| fs::rename(link, outside.with_file_name("away")).unwrap(),
        |link, _| {
            fs::write(link.with_file_name("new"), "").unwrap();
            fs::rename(link.with_file_name("new"), link).unwrap();
        },
        |link, _| {
            fs::create_dir(link.with_file_name("new")).unwrap();
            exchange(&link.with_file_name("new"), link).unwrap();
        },
        |link, outside| {
            fs::create_dir_all(outside.with_file_name("another/inside")).unwrap();
            symlink(outside.with_file_name("another"), link.with_file_name("new")).unwrap();
            fs::rename(link.with_file_name("new"), link).unwrap();
        },
        |link, _| {
            fs::remove_file(link).unwrap();
            fs::create_dir_all(link.join("inside")).unwrap();
        },
    ];
    for (number, go) in ways.into_iter().enumerate() {
        let (mut place, [covered, other]) = two_links();
        go(&place.root.join(covered), &place.outside);
        place.changes();
        let heard = place.heard_of("heard");
        assert_eq!(heard.len(), 1, "way {number}");
        // Exchanged, it is covered where it went, or by the other.
        assert!(
            number == 3 || heard == [Path::new(other).join("heard")],
            "way {number}: {heard:?}"
        );
        assert_eq!(aliases(&place.watched).len(), usize::from(number == 3), "way {number}");
    }
}

#[test]
fn a_directory_of_the_tree_that_is_covered_behind_a_link_is_covered_itself_when_that_goes() {
    let mut place = place(|root, _| fs::create_dir_all(root.join("dir")).unwrap());
    // Both are new, and met in this order.
    let new = place.outside.join("sub");
    fs::create_dir(new.join("real")).unwrap();
    symlink(place.root.join("new/z/real"), place.outside.join("sub/link")).unwrap();
    fs::create_dir(new.join("z")).unwrap();
    fs::rename(new.join("real"), new.join("z/real")).unwrap();
    fs::rename(&new, place.root.join("new")).unwrap();
    place.changes();
    let real = place.root.join("new/z/real");
    if aliases(&place.watched) == [real.clone()] {
        fs::remove_file(place.root.join("new/link")).unwrap();
        place.changes();
        assert!(aliases(&place.watched).is_empty());
    }
    fs::write(real.join("file"), "").unwrap();
    assert_eq!(paths(&place.changes(), Mask::CREATE).len(), 1);
}

#[test]
fn a_link_is_looked_at_again_when_what_it_led_to_is_renamed_or_removed() {
    for removed in [false, true] {
        let mut place = place(|root, outside| symlink(outside, root.join("link")).unwrap());
        let away = place.outside.with_file_name("away");
        match removed {
            true => fs::remove_dir_all(&place.outside).unwrap(),
            false => fs::rename(&place.outside, &away).unwrap(),
        }
        place.changes();
        place.watched.settle();
        assert_eq!(place.watched.tree.stats().directories, 1);
        assert!(aliases(&place.watched).is_empty());
        // Replaced by another in one step, it leads to that.
        fs::create_dir_all(place.outside.join("sub/deep")).unwrap();
        fs::remove_file(place.root.join("link")).unwrap();
        symlink(&place.outside, place.root.join("link")).unwrap();
        place.changes();
        fs::create_dir_all(away.join("other")).unwrap();
        exchange(&place.outside, &away).unwrap();
        place.changes();
        assert_eq!(place.heard_of("heard"), [Path::new("link/heard")]);
    }
}

/// Of a directory that is covered by itself and led to by a link.
#[test]
fn a_link_to_what_is_covered_elsewhere_and_renamed_is_not_said_to_be_an_alias_any_more() {
    let mut place = place(|root, _| {
        fs::create_dir(root.join("a")).unwrap();
        symlink(root.join("a"), root.join("z")).unwrap();
    });
    place.changes();
    assert_eq!(aliases(&place.watched).len(), 1);
    fs::rename(place.root.join("a"), place.root.join("b")).unwrap();
    place.changes();
    assert!(
        aliases(&place.watched).is_empty(),
        "{:?}",
        place.watched.tree.uncovered()
    );
    fs::write(place.root.join("b/file"), "").unwrap();
    assert_eq!(paths(&place.changes(), Mask::CREATE), [place.root.join("b/file")]);
}

#[test]
fn a_renamed_link_takes_with_it_what_is_below_unless_it_may_lead_elsewhere() {
    let mut place = place(|root, outside| {
        symlink(outside, root.join("link")).unwrap();
        fs::create_dir(root.join("dir")).unwrap();
    });
    fs::rename(place.root.join("link"), place.root.join("new")).unwrap();
    let changes = place.changes();
    assert_eq!(changes.len(), 2, "{changes:?}");
    assert_eq!(place.heard_of("heard"), [Path::new("new/heard")]);
    fs::rename(place.root.join("new"), place.root.join("dir/link")).unwrap();
    place.changes();
    assert_eq!(place.heard_of("too"), [Path::new("dir/link/too")]);
    // Seen from another directory, a relative link leads elsewhere.
    symlink("../outside", place.root.join("relative")).unwrap();
    fs::remove_file(place.root.join("dir/link")).unwrap();
    place.changes();
    assert_eq!(place.heard_of("relative"), [Path::new("relative/relative")]);
    fs::rename(place.root.join("relative"), place.root.join("dir/relative")).unwrap();
    place.changes();
    assert!(place.heard_of("unheard").is_empty());
    // So does one in a directory that is moved.
    fs::create_dir(place.root.join("deep")).unwrap();
    symlink("../../outside", place.root.join("deep/relative")).unwrap();
    symlink("inside", place.root.join("deep/still")).unwrap();
    fs::create_dir(place.root.join("deep/inside")).unwrap();
    place.changes();
    assert_eq!(place.heard_of("moved"), [Path::new("deep/relative/moved")]);
    fs::rename(place.root.join("deep"), place.root.join("dir/deep")).unwrap();
    place.changes();
    assert!(place.heard_of("gone").is_empty());
}

#[test]
fn links_that_are_exchanged_lead_where_they_lead() {
    let mut place = place(|root, outside| {
        symlink(outside, root.join("one")).unwrap();
        symlink(outside.join("sub"), root.join("two")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        fs::create_dir_all(root.join("dir/inside")).unwrap();
    });
    place.changes();
    for (a, b) in [
        ("one", "two"),
        ("one", "file"),
        ("file", "one"),
        ("dir", "one"),
        ("dir", "two"),
    ] {
        exchange(&place.root.join(a), &place.root.join(b)).unwrap();
        place.changes();
        assert_eq!(place.heard_of(&format!("{a}-{b}")).len(), 1);
    }
}
