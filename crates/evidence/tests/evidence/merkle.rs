//! RFC 6962 against the vectors of the certificate transparency project, and proofs against each other.

use evidence::{canonical::hex, merkle};

const LEAVES: [&[u8]; 8] = [
    b"",
    b"\x00",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    b"\x50\x51\x52\x53\x54\x55\x56\x57",
    b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
];

const ROOTS: [&str; 9] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn leaves(count: usize) -> Vec<merkle::Hash> {
    (0..count).map(|n| merkle::leaf(LEAVES.get(n).copied().unwrap_or(&n.to_be_bytes()))).collect()
}

#[test]
fn known_roots() {
    for (count, expected) in ROOTS.iter().enumerate() {
        assert_eq!(hex(&merkle::root(&leaves(count))), *expected, "{count} leaves");
    }
}

#[test]
fn a_growing_tree_has_the_same_roots() {
    let mut frontier = merkle::Frontier::default();
    for (size, leaf) in leaves(70).into_iter().enumerate() {
        assert_eq!(frontier.root(), merkle::root(&leaves(size)), "{size} leaves");
        frontier.push(leaf);
    }
}

#[test]
fn inclusion_proofs_hold_and_nothing_else_does() {
    for size in 1..70_usize {
        let all = leaves(size);
        let root = merkle::root(&all);
        for index in 0..size {
            let path = merkle::inclusion(&all, index).unwrap();
            let holds = |leaf, index: usize, size: usize, path: &[merkle::Hash]| {
                merkle::verify_inclusion(leaf, index as u64, size as u64, path, &root)
            };
            assert!(holds(&all[index], index, size, &path));
            assert!(!holds(&all[(index + 1) % size], index, size, &path) || size == 1);
            assert!(!holds(&all[index], index + 1, size, &path));
            if let Some((_, shorter)) = path.split_first() {
                assert!(!holds(&all[index], index, size, shorter));
            }
            let mut longer = path.clone();
            longer.push(root);
            assert!(!holds(&all[index], index, size, &longer));
        }
    }
}

#[test]
fn consistency_proofs_hold_and_nothing_else_does() {
    for new in 0..70_usize {
        let all = leaves(new);
        let new_root = merkle::root(&all);
        for old in 0..=new {
            let old_root = merkle::root(&all[..old]);
            let proof = merkle::consistency(&all, old).unwrap();
            let holds = |old_root: &merkle::Hash, proof: &[merkle::Hash]| {
                merkle::verify_consistency((old as u64, old_root), (new as u64, &new_root), proof)
            };
            assert!(holds(&old_root, &proof), "{old} of {new}");
            assert!(!holds(&[7; 32], &proof), "{old} of {new}");
            let mut longer = proof.clone();
            longer.push([7; 32]);
            assert!(!holds(&old_root, &longer), "{old} of {new}");
            for at in 0..proof.len() {
                let mut changed = proof.clone();
                changed[at][0] ^= 1;
                assert!(!holds(&old_root, &changed), "{old} of {new}");
            }
        }
    }
}

#[test]
fn a_tree_gives_the_roots_and_paths_of_every_earlier_size() {
    for size in 1..70_usize {
        let leaves = leaves(size);
        let tree = merkle::Tree::new(&leaves);
        for earlier in 0..=size {
            let root = merkle::root(&leaves[..earlier]);
            assert_eq!(tree.root(earlier), Some(root), "{earlier} of {size}");
            for index in 0..earlier {
                assert_eq!(tree.inclusion(index, earlier), merkle::inclusion(&leaves[..earlier], index));
            }
            if let Some(last) = earlier.checked_sub(1) {
                let path = tree.inclusion(last, size).unwrap();
                assert_eq!(merkle::root_before(&leaves[last], last as u64, size as u64, &path), Some(root));
            }
        }
        assert_eq!((tree.root(size + 1), tree.inclusion(size, size)), (None, None));
    }
}
