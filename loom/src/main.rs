//! Runs each model in every order with as many interruptions of a thread as it allows: `bash ci/loom [name]`.

#[cfg(not(loom))]
compile_error!("build this with RUSTFLAGS=\"--cfg loom\"");

#[cfg(loom)]
fn main() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    let wanted = std::env::args().nth(1).unwrap_or_default();
    // More interruptions of one thread by another take much longer and find little; `LOOM_MAX_PREEMPTIONS` raises it.
    let asked: Option<usize> = std::env::var("LOOM_MAX_PREEMPTIONS")
        .ok()
        .and_then(|text| text.parse().ok());
    let mut ran = 0;
    for &(name, interruptions, model) in ringwatch::models::MODELS {
        if !name.contains(&wanted) {
            continue;
        }
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(asked.unwrap_or(interruptions));
        builder.max_branches = 10_000;
        let orders = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&orders);
        let begun = Instant::now();
        builder.check(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            model();
        });
        let orders = orders.load(Ordering::Relaxed);
        println!("{name}: {orders} orders in {:.1} s", begun.elapsed().as_secs_f32());
        ran += 1;
    }
    assert!(ran > 0, "no model is called {wanted:?}");
}
