//! Inputs made from inputs: small damage, pieces of others, words of the format.

/// A seeded source of inputs.
pub struct Mutator {
    random: fastrand::Rng,
    words: &'static [&'static str],
}

impl Mutator {
    /// `words` are pieces that the format gives a meaning to.
    pub fn new(seed: u64, words: &'static [&'static str]) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), words }
    }

    /// One of the corpus, changed in one to eight places.
    pub fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.random.choice(corpus).cloned().unwrap_or_default();
        for _ in 0..=self.random.u8(..8) {
            self.change(&mut input, corpus);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.random.usize(..=input.len());
        let span = self.random.usize(..=(input.len() - at).min(64));
        match self.random.u8(..9) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.random.u8(..8);
                }
            }
            1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = self.random.u8(..);
                }
            }
            2 => drop(input.drain(at..at + span)),
            3 => {
                let piece = input[at..at + span].to_vec();
                let to = self.random.usize(..=input.len());
                input.splice(to..to, piece);
            }
            4 => {
                let other = self.random.choice(corpus).map(Vec::as_slice).unwrap_or_default();
                let from = self.random.usize(..=other.len());
                let length = self.random.usize(..=(other.len() - from).min(512));
                input.splice(at..at + span, other[from..from + length].iter().copied());
            }
            5 | 6 => {
                let word = self.random.choice(self.words).copied().unwrap_or_default();
                input.splice(at..at + span, word.bytes());
            }
            7 => input.truncate(at),
            _ => {
                // Numbers at the edges of their types, as text and as bytes.
                let edge = [0, 1, 127, 128, 255, 65_535, u64::from(u32::MAX), u64::MAX, 1 << 53, 1 << 63];
                let value = self.random.choice(edge).unwrap_or_default();
                if self.random.bool() {
                    input.splice(at..at + span, value.to_string().bytes());
                } else {
                    input.splice(at..at + span, value.to_le_bytes());
                }
            }
        }
    }
}
