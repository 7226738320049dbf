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
