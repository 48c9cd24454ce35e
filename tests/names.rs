//! Names, paths, and what is said of those that can't be watched.

mod support;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use ringwatch::{Error, ErrorKind, Event, Inotify, Mask, OwnedEvent};
use support::child::{as_nobody, in_namespaces};
use support::{Flood, file, on_every_backend, seen, skip};

/// What `add_watch` says of a path, with its own words for the cause checked against those of the standard library.
fn refused(inotify: &Inotify, path: &Path, mask: Mask) -> Error {
    let error = inotify.add_watch(path, mask).unwrap_err();
    assert_eq!(error.operation(), "add watch");
    assert_eq!(error.path(), Some(path));
    assert!(
        error.to_string().starts_with(&format!("add watch {path:?}: ")),
        "{error}"
    );
    if let Some(code) = error.raw_os_error() {
        let cause = io::Error::from_raw_os_error(code);
        assert!(
            error
                .to_string()
                .to_lowercase()
                .contains(&cause.to_string().to_lowercase()),
            "{error}"
        );
        assert_eq!(io::Error::from(error.clone()).kind(), cause.kind());
    }
    if let Some(remedy) = error.remedy() {
        assert!(error.to_string().ends_with(&format!("; {remedy}")), "{error}");
    }
    assert_eq!(io::Error::from(error.clone()).to_string(), error.to_string());
    assert!(inotify.watches().iter().all(|watch| &*watch.path() != path));
    error
}

/// As [`refused`], and checks kind and `errno`.
#[track_caller]
fn assert_refused(inotify: &Inotify, path: impl AsRef<Path>, mask: Mask, kind: ErrorKind, code: Option<i32>) {
    let error = refused(inotify, path.as_ref(), mask);
    assert_eq!((error.kind(), error.raw_os_error()), (kind, code), "{error}");
}

#[test]
fn names_of_every_length_arrive_whole() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::CREATE);
        let names: Vec<_> = (1..=255).map(|length| "n".repeat(length)).collect();
        for name in &names {
            file(dir.path().join(name));
        }
        let events = recorder.events();
        assert!(
            events
                .iter()
                .map(|event| event.name().unwrap())
                .eq(names.iter().map(String::as_str))
        );
        assert!(
            events
                .iter()
                .map(|event| event.path().unwrap())
                .eq(names.iter().map(|name| dir.path().join(name)))
        );
    });
}

#[test]
fn the_longest_name_fits_the_smallest_buffer() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let inotify = setup.builder().buffers(2).buffer_size(272).build().unwrap();
        inotify.add_watch(dir.path(), Mask::CREATE).unwrap();
        let names: Vec<_> = (0..20).map(|number| format!("{number:0>255}")).collect();
        for name in &names {
            file(dir.path().join(name));
        }
        let events = setup.read(inotify).events();
        let expected: Vec<_> = names.iter().map(|name| (Mask::CREATE, name.as_str())).collect();
        assert_eq!(seen(&events), expected);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn names_of_any_bytes_arrive_as_they_are(
        names in prop::collection::hash_set(
            prop::collection::vec((1..=255u8).prop_filter("no /", |&byte| byte != b'/'), 1..=255), 1..20,
        )
    ) {
        let names: Vec<_> = names.into_iter().map(OsString::from_vec).filter(|name| name != "." && name != "..").collect();
        on_every_backend(|setup| {
            let dir = tempfile::tempdir().unwrap();
            let mut recorder = setup.recorder();
            recorder.watch(dir.path(), Mask::CREATE);
            for name in &names {
                file(dir.path().join(name));
            }
            let events = recorder.events();
            assert_eq!(events.iter().map(|event| event.name().unwrap()).collect::<Vec<_>>(), names);
            for (event, name) in events.iter().zip(&names) {
                assert_eq!(event.path(), Some(dir.path().join(name)));
            }
        });
    }
}

#[test]
fn names_that_are_not_utf8_are_kept() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let outer = dir.path().join(OsStr::from_bytes(b"outer-\xff"));
        let inner = OsStr::from_bytes(b"inner-\xfe\n");
        fs::create_dir(&outer).unwrap();
        let mut recorder = setup.recorder();
        let watch = recorder.watch(&outer, Mask::CREATE);
        file(outer.join(inner));
        let events = recorder.events();
        assert_eq!(events[0].name(), Some(inner));
        assert_eq!(events[0].path(), Some(outer.join(inner)));
        assert_eq!(&*watch.path(), outer);
    });
}

#[test]
fn a_path_with_a_nul_is_invalid_and_the_error_names_it() {
    on_every_backend(|setup| {
        let inotify = setup.inotify();
        let path = Path::new("/a\0b");
        let error = refused(&inotify, path, Mask::ALL);
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), r#"add watch "/a\0b": the path contains a NUL byte"#);
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn a_path_that_is_not_there_is_not_found() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let inotify = setup.inotify();
        let missing = dir.path().join("missing");
        symlink(&missing, dir.path().join("dangling")).unwrap();
        for path in [
            Path::new(""),
            &missing,
            &missing.join("f"),
            &dir.path().join("dangling"),
        ] {
            assert_refused(&inotify, path, Mask::ALL, ErrorKind::NotFound, Some(libc::ENOENT));
        }
        assert_eq!(
            inotify.add_watch("/no/such/file", Mask::ALL).unwrap_err().to_string(),
            r#"add watch "/no/such/file": no such file or directory (os error 2)"#
        );
    });
}

#[test]
fn what_is_not_a_directory_is_said_to_be_none() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        file(&path);
        let inotify = setup.inotify();
        let (kind, code) = (ErrorKind::NotADirectory, Some(libc::ENOTDIR));
        assert_refused(&inotify, path.join("g"), Mask::ALL, kind, code);
        assert_refused(&inotify, path.join(""), Mask::ALL, kind, code);
        assert_refused(&inotify, &path, Mask::ALL | Mask::ONLYDIR, kind, code);
        // A link to a directory is none, if it is not followed.
        let link = dir.path().join("link");
        symlink(dir.path(), &link).unwrap();
        let mask = Mask::ALL | Mask::ONLYDIR;
        assert_refused(&inotify, &link, mask | Mask::DONT_FOLLOW, kind, code);
        assert!(inotify.add_watch(&link, mask).is_ok());
    });
}

#[test]
fn what_may_not_be_read_or_reached_is_permission_denied() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        mode(dir.path(), 0o755);
        let [open, closed] = ["open", "closed"].map(|name| dir.path().join(name));
        for path in [&open, &closed] {
            fs::create_dir(path).unwrap();
            drop(file(path.join("f")));
            mode(&path.join("f"), 0o644);
        }
        let unreadable = dir.path().join("unreadable");
        drop(file(&unreadable));
        mode(&open, 0o755);
        mode(&closed, 0o000);
        mode(&unreadable, 0o200);
        let inotify = setup.inotify();
        as_nobody(|| {
            for path in [&closed, &closed.join("f"), &unreadable] {
                let error = refused(&inotify, path, Mask::CHANGES);
                assert_eq!(error.kind(), ErrorKind::PermissionDenied);
                assert_eq!(error.raw_os_error(), Some(libc::EACCES));
                assert!(error.remedy().unwrap().contains("read permission"), "{error}");
                assert_eq!(io::Error::from(error).kind(), io::ErrorKind::PermissionDenied);
            }
            for path in [&open, &open.join("f")] {
                inotify.add_watch(path, Mask::CHANGES).unwrap();
            }
        });
        assert_eq!(inotify.watches().len(), 2);
        mode(&closed, 0o700);
    });
}

#[test]
fn a_loop_of_symlinks_is_invalid_unless_the_link_itself_is_watched() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
        symlink(&one, &other).unwrap();
        symlink(&other, &one).unwrap();
        let inotify = setup.inotify();
        assert_refused(&inotify, &one, Mask::ALL, ErrorKind::InvalidInput, Some(libc::ELOOP));
        assert!(inotify.add_watch(&one, Mask::ALL | Mask::DONT_FOLLOW).is_ok());
    });
}

#[test]
fn paths_and_names_that_are_too_long_are_invalid() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let inotify = setup.inotify();
        let (kind, code) = (ErrorKind::InvalidInput, Some(libc::ENAMETOOLONG));
        assert_refused(&inotify, dir.path().join("n".repeat(256)), Mask::ALL, kind, code);
        // The limit counts the NUL behind the path.
        let mut path = dir.path().as_os_str().to_owned();
        let left = libc::PATH_MAX as usize - 1 - path.len();
        path.push("/".repeat(left));
        assert_eq!(path.len(), libc::PATH_MAX as usize - 1);
        assert!(inotify.add_watch(&path, Mask::ALL).is_ok());
        path.push("/");
        // Equal as a path to the one that is watched, which is not what is asked here.
        let error = inotify.add_watch(&path, Mask::ALL).unwrap_err();
        assert_eq!((error.kind(), error.raw_os_error()), (kind, code));
    });
}

#[test]
fn a_relative_path_is_kept_as_it_is_given() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let here = fs::canonicalize(".").unwrap();
        let target = fs::canonicalize(dir.path()).unwrap();
        let up = here.components().skip(1).map(|_| "..").collect::<PathBuf>();
        let relative = Path::new(".").join(up).join(target.strip_prefix("/").unwrap());
        assert!(relative.is_relative());
        let mut recorder = setup.recorder();
        let watch = recorder.watch(&relative, Mask::CREATE);
        assert_eq!(watch.path().as_os_str(), relative.as_os_str());
        file(dir.path().join("f"));
        let events = recorder.events();
        assert_eq!(seen(&events), [(Mask::CREATE, "f")]);
        assert_eq!(events[0].path().unwrap().as_os_str(), relative.join("f").as_os_str());
    });
}

#[test]
fn a_path_that_ends_in_a_slash_is_joined_with_no_second_one() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut with_slash = dir.path().as_os_str().to_owned();
        with_slash.push("/");
        let mut recorder = setup.recorder();
        let watch = recorder.watch(&with_slash, Mask::CREATE | Mask::DELETE_SELF);
        assert_eq!(watch.path().as_os_str(), with_slash);
        file(dir.path().join("f"));
        let path = dir.path().to_owned();
        let full = path.join("f");
        drop(dir);
        let mut events = recorder.events();
        // A child that another test has just forked may have it open, until it runs its program.
        while events.last().unwrap().mask() != Mask::IGNORED {
            events.extend(recorder.batch().iter().map(|event| event.to_owned()));
        }
        assert_eq!(events[0].path().unwrap().as_os_str(), full.as_os_str());
        // Its own events have its own path.
        assert_eq!(events.last().unwrap().path().unwrap().as_os_str(), with_slash);
    });
}

#[test]
fn an_empty_path_is_joined_as_the_standard_library_joins_it() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        let watch = recorder.watch(dir.path(), Mask::CREATE);
        file(dir.path().join("f"));
        let events = recorder.events();
        // As one does who wants paths relative to what is watched.
        watch.set_path("");
        assert_eq!(
            events[0].path().unwrap().as_os_str(),
            Path::new("").join("f").as_os_str()
        );
    });
}

#[test]
fn the_root_directory_is_joined_with_one_slash() {
    on_every_backend(|setup| {
        let mut recorder = setup.recorder();
        let watch = recorder.watch("/", Mask::OPEN | Mask::ONLYDIR);
        File::open("/proc").unwrap();
        let entries = fs::read_dir("/").unwrap().map(|entry| entry.unwrap());
        let directory = entries
            .filter(|entry| entry.file_type().unwrap().is_dir())
            .find(|entry| File::open(entry.path()).is_ok())
            .expect("a directory that can be read");
        // Others may open things there, too.
        let events = recorder.events();
        let opened = |event: &&OwnedEvent| event.name() == Some(&directory.file_name());
        let event = events.iter().find(opened).expect("an event of the directory");
        assert_eq!(event.path().unwrap().as_os_str(), directory.path().as_os_str());
        assert!(event.path().unwrap().to_str().unwrap().starts_with('/'));
        assert_eq!(event.watch(), Some(&watch));
        assert!(!event.path().unwrap().as_os_str().as_bytes().starts_with(b"//"));
    });
}

#[test]
fn a_symlink_is_followed_and_its_path_is_kept() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::create_dir(&target).unwrap();
        symlink("target", &link).unwrap();
        let mut recorder = setup.recorder();
        recorder.watch(&link, Mask::CREATE);
        file(target.join("f"));
        assert_eq!(recorder.events()[0].path(), Some(link.join("f")));
    });
}

/// Has `check` look at events of every shape there is: with a name and without, with a cookie, the end of a watch, a
/// barrier, an overflow, a barrier that was overtaken.
fn on_events_of_every_shape(check: impl Fn(Event<'_>)) {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut flood = Flood::new(dir.path());
        let written = file(dir.path().join("f"));
        let inotify = setup.inotify();
        let watch = inotify.add_watch(dir.path().join("f"), Mask::MODIFY).unwrap();
        inotify.add_watch(dir.path(), Mask::MODIFY | Mask::MOVE).unwrap();
        written.write_at(b"x", 0).unwrap();
        fs::rename(dir.path().join("f"), dir.path().join("g")).unwrap();
        inotify.rm_watch(&watch).unwrap();
        inotify.barrier().unwrap();
        flood.overflow();
        let last = inotify.barrier().unwrap();
        let mut recorder = setup.read(inotify);
        let mut shapes = Shapes::default();
        loop {
            let batch = recorder.batch();
            for event in &batch {
                shapes.see(event);
                check(event);
            }
            if batch.iter().any(|event| event.barrier() == Some(last)) {
                break;
            }
        }
        let Shapes {
            named,
            unnamed,
            paired,
            ended,
            barriers,
            overflows,
            overtaken,
        } = shapes;
        assert!(
            [named, unnamed, paired, ended, barriers, overflows, overtaken]
                .iter()
                .all(|&seen| seen > 0)
        );
    });
}

#[derive(Default)]
struct Shapes {
    named: usize,
    unnamed: usize,
    paired: usize,
    ended: usize,
    barriers: usize,
    overflows: usize,
    overtaken: usize,
}

impl Shapes {
    fn see(&mut self, event: Event<'_>) {
        let watched = event.watch().is_some();
        self.named += usize::from(event.name().is_some());
        self.unnamed += usize::from(watched && event.name().is_none());
        self.paired += usize::from(event.cookie().is_some());
        self.ended += usize::from(watched && event.mask().contains(Mask::IGNORED));
        self.barriers += usize::from(event.barrier().is_some());
        self.overflows += usize::from(event.mask().contains(Mask::Q_OVERFLOW));
        self.overtaken += usize::from(event.is_overtaken());
    }
}

#[test]
fn write_path_writes_what_path_answers_and_allocates_nothing_if_there_is_room() {
    on_events_of_every_shape(|event| {
        let mut path = PathBuf::with_capacity(libc::PATH_MAX as usize);
        path.push("what was there before");
        let before = (path.capacity(), path.as_os_str().as_bytes().as_ptr());
        let written = event.write_path(&mut path);
        assert_eq!(before, (path.capacity(), path.as_os_str().as_bytes().as_ptr()));
        assert_eq!(written, event.path().is_some());
        assert_eq!(written, event.watch().is_some());
        match event.path() {
            Some(expected) => assert_eq!(path.as_os_str(), expected.as_os_str()),
            None => assert_eq!(path.as_os_str(), "what was there before"),
        }
    });
}

#[test]
fn an_owned_event_answers_as_the_event_it_is_a_copy_of() {
    on_events_of_every_shape(|event| {
        let owned = event.to_owned();
        assert_eq!(owned.mask(), event.mask());
        assert_eq!(owned.cookie(), event.cookie());
        assert_eq!(owned.name(), event.name());
        assert_eq!(owned.watch(), event.watch());
        assert_eq!(owned.path(), event.path());
        assert_eq!(owned.barrier(), event.barrier());
        assert_eq!(owned.is_overtaken(), event.is_overtaken());
        assert_eq!(format!("{owned:?}"), format!("{event:?}"));
        assert_eq!(owned, event.to_owned());
        assert_eq!(owned, owned.clone());
    });
}

#[test]
fn calls_on_a_watch_that_fail_name_its_path() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let (inotify, other) = (setup.inotify(), setup.inotify());
        let watch = inotify.add_watch(dir.path(), Mask::ALL).unwrap();
        let path = dir.path();
        let error = other.rm_watch(&watch).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("remove watch {path:?}: it belongs to another inotify instance")
        );
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
        inotify.rm_watch(&watch).unwrap();
        let error = inotify.rm_watch(&watch).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("remove watch {path:?}: it has ended already")
        );
        assert_eq!(error.operation(), "remove watch");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
    });
}

#[test]
fn calls_on_a_closed_instance_say_so() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let inotify = setup.inotify();
        let watch = inotify.add_watch(dir.path(), Mask::ALL).unwrap();
        inotify.clone().close();
        let path = dir.path();
        for error in [
            inotify.add_watch(path, Mask::ALL).unwrap_err(),
            inotify.rm_watch(&watch).unwrap_err(),
            inotify.barrier().unwrap_err(),
            inotify.stream().unwrap_err(),
            inotify.reader().unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Closed);
            assert!(
                error.to_string().ends_with(": this inotify instance was closed"),
                "{error}"
            );
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::BrokenPipe);
        }
    });
}

/// Lowers a limit of this user namespace. None if that is not allowed.
fn lower(name: &str, limit: usize) -> Option<()> {
    let path = Path::new("/proc/sys/user").join(name);
    match fs::write(&path, limit.to_string()) {
        Ok(()) => Some(()),
        Err(denied) => {
            skip("a limit of its own", "RINGWATCH_REQUIRE_NAMESPACES", &denied);
            None
        }
    }
}

fn assert_names_limit(error: &Error, name: &str, value: usize) {
    let remedy = format!("user.{name} of this user namespace is {value}; raise it with sysctl user.{name}=N");
    assert_eq!(error.remedy(), Some(remedy.as_str()));
    assert!(error.to_string().ends_with(&remedy), "{error}");
}

#[test]
fn a_watch_too_many_is_refused_and_the_error_names_the_limit() {
    in_namespaces("a_watch_too_many_is_refused_and_the_error_names_the_limit", || {
        const MOST: usize = 5;
        on_every_backend(|setup| {
            let dir = tempfile::tempdir().unwrap();
            let paths: Vec<_> = (0..=MOST).map(|number| dir.path().join(number.to_string())).collect();
            paths.iter().for_each(|path| drop(file(path)));
            let mut recorder = setup.recorder();
            if lower("max_inotify_watches", MOST).is_none() {
                return;
            }
            let watches: Vec<_> = paths[..MOST]
                .iter()
                .map(|path| recorder.watch(path, Mask::MODIFY))
                .collect();
            let error = refused(&recorder.inotify, &paths[MOST], Mask::MODIFY);
            assert_eq!(
                (error.kind(), error.raw_os_error()),
                (ErrorKind::WatchLimit, Some(libc::ENOSPC))
            );
            assert_names_limit(&error, "max_inotify_watches", MOST);
            // The first barrier needs one too, which is kept for those behind it.
            let error = recorder.inotify.barrier().unwrap_err();
            assert_eq!(
                (error.kind(), error.operation()),
                (ErrorKind::WatchLimit, "set barrier")
            );
            assert_eq!(error.path(), None);
            assert_names_limit(&error, "max_inotify_watches", MOST);
            // What is watched already needs no room, and what ends makes some.
            recorder.watch(&paths[0], Mask::MODIFY | Mask::ATTRIB);
            for watch in &watches[..2] {
                recorder.inotify.rm_watch(watch).unwrap();
            }
            let events = recorder.events();
            assert_eq!(seen(&events), [(Mask::IGNORED, ""); 2]);
            recorder.watch(&paths[MOST], Mask::MODIFY);
            assert_eq!(recorder.inotify.watches().len(), MOST - 1);
            refused(&recorder.inotify, &paths[0], Mask::MODIFY);
            assert_eq!(recorder.events(), []);
            lower("max_inotify_watches", 1_000);
        });
    });
}

#[test]
fn an_instance_too_many_is_refused_and_the_error_names_the_limit() {
    in_namespaces("an_instance_too_many_is_refused_and_the_error_names_the_limit", || {
        on_every_backend(|setup| {
            let first = setup.inotify();
            if lower("max_inotify_instances", 1).is_none() {
                return;
            }
            let error = setup.builder().build().unwrap_err();
            assert_eq!(
                (error.kind(), error.raw_os_error()),
                (ErrorKind::InstanceLimit, Some(libc::EMFILE))
            );
            assert_eq!((error.operation(), error.path()), ("make inotify instance", None));
            assert_names_limit(&error, "max_inotify_instances", 1);
            drop(first);
            drop(setup.inotify());
            lower("max_inotify_instances", 100);
        });
    });
}
