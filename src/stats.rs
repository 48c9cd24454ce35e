//! Figures of a running instance.

/// Figures of one instance: sums since it was made, and how things stand now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Stats {
    /// Events delivered.
    pub events: u64,
    /// Batches delivered.
    pub batches: u64,
    /// Reads of the descriptor that brought events. Small ones are packed together, so batches may be fewer.
    pub reads: u64,
    /// Times the reading side woke up to at least one read. Events per wake-up decide what an event costs.
    pub wakeups: u64,
    /// [`Q_OVERFLOW`](crate::Mask::Q_OVERFLOW) events delivered: how often events were lost.
    pub overflows: u64,
    /// Watches that have not ended.
    pub watches: usize,
    /// Bytes of the budget that hold events: read and not consumed yet, or held by the consumer.
    pub budget_used: usize,
    /// Bytes of the budget: buffers × buffer size.
    pub budget: usize,
    /// Bytes of events that wait in the kernel's queue. It overflows at
    /// [`max_queued_events`](crate::Limits::max_queued_events) of them; one takes 16 bytes and its padded name.
    pub kernel_queue: usize,
}
