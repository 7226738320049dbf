//! Merkle tree hashes and proofs of RFC 6962, section 2.1 (verification: RFC 9162, section 2.1.3 and 2.1.4). Pure.

use sha2::{Digest, Sha256};

/// A node of the tree.
pub type Hash = [u8; 32];

/// Hash of an entry: SHA-256(0x00 ‖ entry).
pub fn leaf(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

/// Hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// Root of the tree over `leaves`; SHA-256 of nothing if there are none.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [only] => *only,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node(&root(left), &root(right))
        }
    }
}

/// Root of a growing tree: the roots of its complete subtrees, from the largest to the smallest.
#[derive(Clone, Debug, Default)]
pub struct Frontier {
    subtrees: Vec<(u64, Hash)>,
}

impl Frontier {
    /// Adds a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let (mut size, mut hash) = (1, leaf);
        while let Some((_, left)) = self.subtrees.pop_if(|(left, _)| *left == size) {
            hash = node(&left, &hash);
            size *= 2;
        }
        self.subtrees.push((size, hash));
    }

    /// The same as [`root`] of all leaves.
    pub fn root(&self) -> Hash {
        let mut subtrees = self.subtrees.iter().rev();
        let Some((_, smallest)) = subtrees.next() else { return root(&[]) };
        subtrees.fold(*smallest, |right, (_, left)| node(left, &right))
    }
}

/// A tree whose complete subtrees are hashed once, so that any root or audit path costs a logarithm of its size.
#[derive(Debug)]
pub struct Tree {
    /// `levels[h][n]` is the root over the leaves from `n << h` to `(n + 1) << h`.
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// Over `leaves`.
    pub fn new(leaves: &[Hash]) -> Self {
        let mut levels = vec![leaves.to_vec()];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let above = below.chunks_exact(2).map(|pair| node(&pair[0], &pair[1])).collect();
            levels.push(above);
        }
        Self { levels }
    }

    /// Number of leaves.
    pub fn size(&self) -> usize {
        self.levels.first().map_or(0, Vec::len)
    }

    /// Root over the first `size` leaves; `None` if there are fewer.
    pub fn root(&self, size: usize) -> Option<Hash> {
        (size <= self.size()).then(|| if size == 0 { root(&[]) } else { self.range(0, size) })
    }

    /// Audit path of leaf `index` in the tree of the first `size` leaves, from the leaf upwards.
    pub fn inclusion(&self, index: usize, size: usize) -> Option<Vec<Hash>> {
        if index >= size || size > self.size() {
            return None;
        }
        let mut path = Vec::new();
        let (mut from, mut to) = (0, size);
        while to - from > 1 {
            let middle = from + split(to - from);
            if index < middle {
                path.push(self.range(middle, to));
                to = middle;
            } else {
                path.push(self.range(from, middle));
                from = middle;
            }
        }
        path.reverse();
        Some(path)
    }

    /// Root over `from..to`, where `from` is a multiple of the smallest power of two that is not less than the length.
    fn range(&self, from: usize, to: usize) -> Hash {
        let length = to.saturating_sub(from);
        if length <= 1 {
            return self.levels.first().and_then(|leaves| leaves.get(from)).copied().unwrap_or_else(|| root(&[]));
        }
        if length.is_power_of_two() {
            let level = length.trailing_zeros();
            if let Some(hash) = self.levels.get(level as usize).and_then(|hashes| hashes.get(from >> level)) {
                return *hash;
            }
        }
        let middle = from + split(length);
        node(&self.range(from, middle), &self.range(middle, to))
    }
}

/// Root of the tree that ended with leaf `index`, from the audit path of that leaf in a later tree of `size` leaves.
pub fn root_before(leaf: &Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    let (mut number, mut last, mut hash) = (index, size.checked_sub(1)?, *leaf);
    for sibling in path {
        if number & 1 == 1 || number == last {
            hash = node(sibling, &hash);
            while number & 1 == 0 && number != 0 {
                number >>= 1;
                last >>= 1;
            }
        }
        number >>= 1;
        last >>= 1;
    }
    Some(hash)
}

/// Largest power of two smaller than `n`, for `n` ≥ 2.
fn split(n: usize) -> usize {
    1 << (usize::BITS - 1 - (n - 1).leading_zeros())
}

/// Audit path of leaf `index`, from the leaf upwards; `None` if there is no such leaf.
pub fn inclusion(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    if index >= leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    let (mut rest, mut index) = (leaves, index);
    while rest.len() > 1 {
        let (left, right) = rest.split_at(split(rest.len()));
        if index < left.len() {
            path.push(root(right));
            rest = left;
        } else {
            path.push(root(left));
            index -= left.len();
            rest = right;
        }
    }
    path.reverse();
    Some(path)
}

/// Whether `path` proves that the leaf is number `index` in the tree of `size` leaves with this root.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut number, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if number & 1 == 1 || number == last {
            hash = node(sibling, &hash);
            while number & 1 == 0 && number != 0 {
                number >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        number >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Proof that the tree of the first `old` leaves is a prefix of the tree of all; `None` if `old` is more than there are.
pub fn consistency(leaves: &[Hash], old: usize) -> Option<Vec<Hash>> {
    if old > leaves.len() {
        return None;
    }
    let mut proof = Vec::new();
    if old > 0 && old < leaves.len() {
        subproof(leaves, old, true, &mut proof);
    }
    Some(proof)
}

fn subproof(leaves: &[Hash], old: usize, whole: bool, proof: &mut Vec<Hash>) {
    if old == leaves.len() {
        if !whole {
            proof.push(root(leaves));
        }
        return;
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    if old <= left.len() {
        subproof(left, old, whole, proof);
        proof.push(root(right));
    } else {
        subproof(right, old - left.len(), false, proof);
        proof.push(root(left));
    }
}

/// Whether `proof` shows that the tree `old` (size, root) is a prefix of the tree `new`.
pub fn verify_consistency(old: (u64, &Hash), new: (u64, &Hash), proof: &[Hash]) -> bool {
    let ((old_size, old_root), (new_size, new_root)) = (old, new);
    if old_size > new_size {
        return false;
    }
    if old_size == new_size {
        return proof.is_empty() && old_root == new_root;
    }
    if old_size == 0 {
        return proof.is_empty() && *old_root == root(&[]);
    }
    let (mut number, mut last) = (old_size - 1, new_size - 1);
    while number & 1 == 1 {
        number >>= 1;
        last >>= 1;
    }
    // A complete old tree is itself the first node of the proof, and left out.
    let (start, rest) = match (number, proof.split_first()) {
        (0, _) => (old_root, proof),
        (_, Some((first, rest))) => (first, rest),
        (_, None) => return false,
    };
    let (mut from_old, mut from_new) = (*start, *start);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if number & 1 == 1 || number == last {
            from_old = node(sibling, &from_old);
            from_new = node(sibling, &from_new);
            while number & 1 == 0 && number != 0 {
                number >>= 1;
                last >>= 1;
            }
        } else {
            from_new = node(&from_new, sibling);
        }
        number >>= 1;
        last >>= 1;
    }
    last == 0 && from_old == *old_root && from_new == *new_root
}
