//! How much of a bundle is read. Work and memory of a verification grow with these numbers, and with nothing else that a
//! file can say of itself.

/// Declared bounds of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the file.
    pub file: u64,
    /// Memory that the values of its JSON may need, by the count of [`crate::canonical::json`].
    pub values: usize,
    /// Samples, writes (each counts twice), readbacks (twice) and sequences found, together.
    pub rows: usize,
    /// Bytes that its compressed parts may inflate to, together.
    pub inflated: usize,
    /// Samples multiplied by probes: each probe is judged at each sample of every probe.
    pub judgements: usize,
    /// Entries in its proofs.
    pub proofs: usize,
    /// Memory that the values of one of these entries may need.
    pub entry: usize,
}

impl Limits {
    /// For bundles of others: verified in seconds, with a few hundred megabytes, whatever they hold.
    pub const STRICT: Self = Self {
        file: 64 << 20,
        values: 40 << 20,
        rows: 1_500_000,
        inflated: 96 << 20,
        judgements: 16_000_000,
        proofs: 40_000,
        entry: 32 << 20,
    };

    /// For one's own: as large as a bundle can be sealed.
    pub const LARGE: Self = Self {
        file: 1 << 30,
        values: 4 << 30,
        rows: 40_000_000,
        inflated: 1 << 30,
        judgements: 2_000_000_000,
        proofs: 1_000_000,
        entry: 1 << 30,
    };
}
