//! What is chosen on this kernel. Whoever runs the tests on several says what is expected of each.

mod support;

use ringwatch::{Backend, BackendKind, ErrorKind, Features, Inotify};

/// `epoll`, or `io_uring` and the names of the features, in any order; none left out.
const EXPECTED: &str = "RINGWATCH_EXPECT";
/// What the reason for epoll must say.
const REASON: &str = "RINGWATCH_EXPECT_REASON";

fn parse(expected: &str) -> (BackendKind, Features) {
    let mut words = expected.split_whitespace();
    let kind = match words.next() {
        Some("io_uring") => BackendKind::Uring,
        Some("epoll") => BackendKind::Epoll,
        other => panic!("{EXPECTED} begins with {other:?}"),
    };
    let feature = |name| Features::from_name(name).unwrap_or_else(|| panic!("{EXPECTED} names {name}"));
    (kind, words.map(feature).collect())
}

#[test]
fn the_backend_and_the_features_are_those_expected_of_this_kernel() {
    let automatic = Inotify::new().expect("an instance").backend();
    let Ok(expected) = std::env::var(EXPECTED) else {
        return support::skip(
            "what is expected of this kernel",
            "RINGWATCH_REQUIRE_EXPECTED",
            &format!("{automatic} was chosen"),
        );
    };
    let (kind, features) = parse(&expected);
    assert_eq!(
        (automatic.kind(), automatic.features()),
        (kind, features),
        "{automatic}"
    );
    let by_name = Inotify::builder().backend(Backend::Uring).build();
    if kind == BackendKind::Uring {
        assert!(automatic.refusal().is_none());
        assert_eq!(by_name.expect("io_uring").backend().features(), features);
        return;
    }
    let reason = std::env::var(REASON).expect("a reason is expected too");
    for refusal in [automatic.refusal().expect("a reason"), &by_name.unwrap_err()] {
        assert_eq!(refusal.kind(), ErrorKind::BackendUnavailable);
        assert!(refusal.remedy().is_some(), "{refusal}");
        assert!(refusal.to_string().contains(&reason), "{refusal}");
    }
}
