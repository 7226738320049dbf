//! Consistent hashing: XXH64, ketama's ring, Maglev's table. The same bytes lead to the same endpoint as in Envoy.
//!
//! Sources: the xxHash specification (XXH64); Envoy's `RingHashLoadBalancer`; "Maglev: A Fast and Reliable Software Network
//! Load Balancer" (Eisenbud et al., NSDI 2016), with weights as in Envoy's `MaglevTable`.

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

/// XXH64 of these bytes.
pub fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    let (stripes, tail) = bytes.as_chunks::<32>();
    let mut hash = if stripes.is_empty() { seed.wrapping_add(P5) } else { long(stripes, seed) };
    hash = hash.wrapping_add(bytes.len() as u64);
    let (lanes, tail) = tail.as_chunks::<8>();
    for lane in lanes {
        hash = (hash ^ round(0, u64::from_le_bytes(*lane))).rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
    }
    let (words, tail) = tail.as_chunks::<4>();
    for word in words {
        let word = u64::from(u32::from_le_bytes(*word)).wrapping_mul(P1);
        hash = (hash ^ word).rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
    }
    for byte in tail {
        hash = (hash ^ u64::from(*byte).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    hash ^ (hash >> 32)
}

fn long(stripes: &[[u8; 32]], seed: u64) -> u64 {
    let mut sums = [seed.wrapping_add(P1).wrapping_add(P2), seed.wrapping_add(P2), seed, seed.wrapping_sub(P1)];
    for stripe in stripes {
        for (sum, lane) in sums.iter_mut().zip(stripe.as_chunks::<8>().0) {
            *sum = round(*sum, u64::from_le_bytes(*lane));
        }
    }
    let turned = sums.iter().zip([1, 7, 12, 18]).map(|(sum, bits)| sum.rotate_left(bits));
    let hash = turned.fold(0, u64::wrapping_add);
    sums.iter().fold(hash, |hash, sum| (hash ^ round(0, *sum)).wrapping_mul(P1).wrapping_add(P4))
}

fn round(sum: u64, lane: u64) -> u64 {
    sum.wrapping_add(lane.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1)
}

/// What is put on a ring or into a table: a name that stays (the address) and a weight above zero.
#[derive(Clone, Debug)]
pub struct Node {
    /// Hashed.
    pub key: String,
    /// Relative to the others.
    pub weight: f64,
}

/// Points in order of their hashes, each with the index of its node.
#[derive(Debug, Default)]
pub struct Ring(Vec<(u64, u16)>);

impl Ring {
    /// As many points as the lightest node needs to have its part of `least`, at most `most`.
    pub fn new(nodes: &[Node], least: u32, most: u32) -> Self {
        let total: f64 = nodes.iter().map(|node| node.weight).sum();
        let lightest = nodes.iter().map(|node| node.weight / total).fold(f64::INFINITY, f64::min);
        if nodes.is_empty() {
            return Self::default();
        }
        let scale = ((lightest * f64::from(least)).ceil() / lightest).min(f64::from(most));
        let mut points = Vec::with_capacity(scale.ceil() as usize);
        let (mut wanted, mut made) = (0.0, 0.0);
        for (node, index) in nodes.iter().zip(0u16..) {
            wanted += scale * node.weight / total;
            let mut number = 0u64;
            while made < wanted {
                points.push((xxh64(format!("{}_{number}", node.key).as_bytes(), 0), index));
                number += 1;
                made += 1.0;
            }
        }
        points.sort_unstable();
        Self(points)
    }

    /// Nodes from this hash on, with repetitions: the first is the choice, the others are for when it may not be taken.
    pub fn walk(&self, hash: u64) -> impl Iterator<Item = usize> {
        let start = self.0.partition_point(|(point, _)| *point < hash);
        let (before, after) = self.0.split_at(start);
        after.iter().chain(before).map(|(_, index)| usize::from(*index))
    }
}

/// Maglev's lookup table.
#[derive(Debug, Default)]
pub struct Table(Vec<u16>);

impl Table {
    /// With a prime number of entries, each node with its part of them.
    pub fn new(nodes: &[Node], size: u32) -> Self {
        struct Filling {
            at: u64,
            skip: u64,
            weight: f64,
            due: f64,
            index: u16,
        }
        if nodes.is_empty() {
            return Self::default();
        }
        let size = u64::from(size);
        // By name, so that the table does not depend on the order in which endpoints were told.
        let mut order: Vec<(&Node, u16)> = nodes.iter().zip(0..).collect();
        order.sort_unstable_by(|a, b| a.0.key.cmp(&b.0.key));
        let filling = |(node, index): (&Node, u16)| {
            let key = node.key.as_bytes();
            let (at, skip) = (xxh64(key, 0) % size, xxh64(key, 1) % (size - 1) + 1);
            Filling { at, skip, weight: node.weight, due: 0.0, index }
        };
        let mut fillings: Vec<Filling> = order.into_iter().map(filling).collect();
        let heaviest = nodes.iter().map(|node| node.weight).fold(0.0, f64::max);
        let mut table = vec![None; size as usize];
        let (mut left, mut turn) = (table.len(), 1.0);
        while left > 0 {
            for filling in &mut fillings {
                // The heaviest takes an entry in every turn, one of a third of its weight in every third.
                if turn * filling.weight < filling.due || left == 0 {
                    continue;
                }
                filling.due += heaviest;
                while let Some(entry) = table.get(filling.at as usize) {
                    let taken = entry.is_some();
                    if !taken {
                        table[filling.at as usize] = Some(filling.index);
                    }
                    filling.at = (filling.at + filling.skip) % size;
                    if !taken {
                        break;
                    }
                }
                left -= 1;
            }
            turn += 1.0;
        }
        Self(table.into_iter().flatten().collect())
    }

    /// Nodes from this hash's entry on, with repetitions.
    pub fn walk(&self, hash: u64) -> impl Iterator<Item = usize> {
        let start = hash.checked_rem(self.0.len() as u64).unwrap_or(0) as usize;
        let (before, after) = self.0.split_at(start);
        after.iter().chain(before).map(|index| usize::from(*index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(weights: &[u32]) -> Vec<Node> {
        let node = |(n, weight): (usize, &u32)| Node { key: format!("10.0.0.{n}:80"), weight: f64::from(*weight) };
        weights.iter().enumerate().map(node).collect()
    }

    #[test]
    fn vectors_of_the_specification() {
        let long: Vec<u8> = b"Nobody inspects the spammish repetition".to_vec();
        for (bytes, seed, expected) in [
            (&b""[..], 0, 0xEF46_DB37_51D8_E999),
            (b"a", 0, 0xD24E_C4F1_A98C_6E5B),
            (b"abc", 0, 0x44BC_2CF5_AD77_0999),
            (&long, 0, 0xFBCE_A83C_8A37_8BF1),
        ] {
            assert_eq!(xxh64(bytes, seed), expected, "{bytes:?}");
        }
        assert_ne!(xxh64(b"abc", 1), xxh64(b"abc", 0));
    }

    fn shares(chosen: impl Fn(u64) -> usize, nodes: usize) -> Vec<f64> {
        let mut counts = vec![0u32; nodes];
        (0..100_000u64).for_each(|n| counts[chosen(xxh64(&n.to_le_bytes(), 0))] += 1);
        counts.into_iter().map(|count| f64::from(count) / 100_000.0).collect()
    }

    #[test]
    fn shares_follow_weights() {
        let nodes = nodes(&[1, 2, 5]);
        let (ring, table) = (Ring::new(&nodes, 65_536, 1 << 23), Table::new(&nodes, 65_537));
        let by_ring = shares(|hash| ring.walk(hash).next().unwrap(), 3);
        let by_table = shares(|hash| table.walk(hash).next().unwrap(), 3);
        for (index, expected) in [0.125, 0.25, 0.625].into_iter().enumerate() {
            assert!((by_ring[index] - expected).abs() < 0.01, "ring: {by_ring:?}");
            assert!((by_table[index] - expected).abs() < 0.005, "table: {by_table:?}");
        }
    }

    #[test]
    fn one_node_less_moves_only_what_it_had() {
        let (before, after) = (nodes(&[1; 8]), nodes(&[1; 7]));
        let (ring, smaller_ring) = (Ring::new(&before, 1024, 1 << 23), Ring::new(&after, 1024, 1 << 23));
        let (table, smaller) = (Table::new(&before, 65_537), Table::new(&after, 65_537));
        let hashes = || (0..10_000u64).map(|n| xxh64(&n.to_le_bytes(), 0));
        let moved = |a: fn(&Ring, u64) -> usize| {
            hashes().filter(|h| a(&ring, *h) != 7 && a(&ring, *h) != a(&smaller_ring, *h)).count()
        };
        let first = |ring: &Ring, hash: u64| ring.walk(hash).next().unwrap();
        // The others get a few points more each, where a new choice for everyone would move seven of eight.
        assert!(moved(first) < 1500, "{}", moved(first));
        let at = |table: &Table, hash: u64| table.walk(hash).next().unwrap();
        let disturbed = hashes().filter(|h| at(&table, *h) != 7 && at(&table, *h) != at(&smaller, *h)).count();
        assert!(disturbed < 600, "Maglev disturbs little: {disturbed}");
    }

    #[test]
    fn every_node_is_on_every_walk() {
        let nodes = nodes(&[1, 100, 7]);
        let (ring, table) = (Ring::new(&nodes, 8, 1 << 23), Table::new(&nodes, 251));
        for hash in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            for index in 0..3 {
                assert!(ring.walk(hash).any(|node| node == index) && table.walk(hash).any(|node| node == index));
            }
        }
        assert_eq!((Ring::new(&[], 8, 9).walk(1).count(), Table::new(&[], 7).walk(1).count()), (0, 0));
    }

    #[test]
    fn the_order_of_telling_does_not_matter() {
        let forward = nodes(&[3, 1, 2]);
        let backward: Vec<Node> = forward.iter().rev().cloned().collect();
        let (a, b) = (Table::new(&forward, 65_537), Table::new(&backward, 65_537));
        for hash in (0..1000u64).map(|n| xxh64(&n.to_le_bytes(), 0)) {
            assert_eq!(a.walk(hash).next(), b.walk(hash).next().map(|index| 2 - index));
        }
    }
}
