//! What is written with the feature `serde`, and read back.

#![cfg(feature = "serde")]

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use proptest::prelude::*;
use ringwatch::{Limits, Mask, Stats};
use serde_json::{Value, from_value, json, to_value};
use support::{Flood, file, on_every_backend};

proptest! {
    #[test]
    fn a_mask_of_any_bits_comes_back_as_it_was(bits in any::<u32>()) {
        let mask = Mask::from_bits_retain(bits);
        let text = serde_json::to_string(&mask).unwrap();
        prop_assert_eq!(serde_json::from_str::<Mask>(&text).unwrap().bits(), bits, "by {}", text);
    }

    #[test]
    fn stats_come_back_as_they_were(
        counts in prop::array::uniform5(any::<u64>()), sizes in prop::array::uniform4(any::<usize>())
    ) {
        let mut stats = Stats::default();
        [stats.events, stats.batches, stats.reads, stats.wakeups, stats.overflows] = counts;
        [stats.watches, stats.budget_used, stats.budget, stats.kernel_queue] = sizes;
        let text = serde_json::to_string(&stats).unwrap();
        prop_assert_eq!(serde_json::from_str::<Stats>(&text).unwrap(), stats);
    }
}

#[test]
fn every_flag_of_a_mask_comes_back_and_is_written_by_its_name() {
    for (name, flag) in Mask::all().iter_names() {
        assert_eq!(to_value(flag).unwrap(), json!(name));
        assert_eq!(from_value::<Mask>(json!(name)).unwrap(), flag);
    }
    assert_eq!(to_value(Mask::CREATE | Mask::ISDIR).unwrap(), json!("CREATE | ISDIR"));
    assert_eq!(to_value(Mask::empty()).unwrap(), json!(""));
    let unknown = Mask::CREATE | Mask::from_bits_retain(0x0080_0000);
    assert_eq!(to_value(unknown).unwrap(), json!("CREATE | 0x800000"));
}

#[test]
fn the_stats_of_an_instance_and_the_limits_come_back_as_they_were() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::CREATE);
        file(dir.path().join("f"));
        recorder.events();
        let stats = recorder.inotify.stats();
        assert_ne!(stats, Stats::default());
        let value = to_value(stats).unwrap();
        assert_eq!((&value["events"], &value["watches"]), (&json!(2), &json!(1)));
        assert_eq!(from_value::<Stats>(value).unwrap(), stats);
    });
    let limits = Limits::read().unwrap();
    assert_eq!(from_value::<Limits>(to_value(limits).unwrap()).unwrap(), limits);
}

#[test]
fn an_event_is_its_path_its_mask_and_its_cookie() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::CREATE | Mask::MOVE | Mask::DELETE_SELF);
        fs::create_dir(path("süß")).unwrap();
        fs::rename(path("süß"), path("sauer")).unwrap();
        let events = recorder.events();
        let values: Vec<_> = events.iter().map(|event| to_value(event).unwrap()).collect();
        let cookie = events[1].cookie().unwrap();
        assert_eq!(
            values,
            [
                json!({"path": path("süß").to_str(), "mask": "CREATE | ISDIR", "cookie": null}),
                json!({"path": path("süß").to_str(), "mask": "MOVED_FROM | ISDIR", "cookie": cookie}),
                json!({"path": path("sauer").to_str(), "mask": "MOVED_TO | ISDIR", "cookie": cookie}),
            ]
        );
    });
}

#[test]
fn a_path_that_is_not_utf8_is_written_as_its_bytes() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(OsStr::from_bytes(b"\xff-\xc3"));
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::CREATE);
        file(&path);
        let value = to_value(&recorder.events()[0]).unwrap();
        assert_eq!(value["path"], json!(path.as_os_str().as_bytes()));
        assert_eq!(value["mask"], json!("CREATE"));
    });
}

#[test]
fn an_event_without_a_watch_has_a_null_for_its_path() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut flood = Flood::new(dir.path());
        let inotify = setup.inotify();
        inotify.add_watch(dir.path(), Mask::MODIFY).unwrap();
        flood.overflow();
        let barrier = inotify.barrier().unwrap();
        let events = setup.read(inotify).until(barrier);
        let [.., overflow, mark] = events.as_slice() else {
            panic!("{events:?}");
        };
        assert_eq!(
            to_value(overflow).unwrap(),
            json!({"path": Value::Null, "mask": "Q_OVERFLOW", "cookie": null})
        );
        assert_eq!(mark.barrier(), Some(barrier));
        assert_eq!(
            to_value(mark).unwrap(),
            json!({"path": Value::Null, "mask": "IGNORED", "cookie": null})
        );
    });
}
