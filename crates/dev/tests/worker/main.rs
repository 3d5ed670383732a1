//! Goal: many shards, each on its thread, behave as one instance: questions are answered, knobs reach
//! all or none, failures are told, and connections survive whatever happens to the number of
//! shards and queues, every byte in order.
//! Method: workers over a card in memory whose other end is driven by an instance of one shard.

mod app;
mod control;
mod resize;
mod traffic;

/// Waits until `done` holds; a machine that does nothing for two minutes is broken.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed().as_secs() < 120, "in vain for: {what}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
