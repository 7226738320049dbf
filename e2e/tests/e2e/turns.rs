//! How tests share the machine.

use e2e::turn::{
    Queue,
    Share::{self, Busy, Judged, Little, Machine, Mesh},
};

#[test]
fn the_largest_that_fits_is_next() {
    let mut queue = Queue::new(1);
    let [mesh, all, busy, little] = [Mesh, Machine, Busy, Little].map(|share| queue.arrive(share));
    assert!(!queue.admit(busy) && queue.admit(all));
    assert!([mesh, busy, little].iter().all(|ticket| !queue.admit(*ticket)), "there is no room");
    queue.leave(Machine);
    assert!(!queue.admit(mesh) && queue.admit(busy) && !queue.admit(little) && queue.admit(mesh));
    let [late, all] = [Mesh, Machine].map(|share| queue.arrive(share));
    assert!(!queue.admit(little) && !queue.admit(late) && !queue.admit(all), "it is full");
    queue.leave(Busy);
    assert!(!queue.admit(all) && queue.admit(late) && queue.admit(little), "what is too large keeps nobody waiting");
    queue.leave(Mesh);
    queue.leave(Mesh);
    assert!(!queue.admit(all));
    queue.leave(Little);
    assert!(queue.admit(all));
}

/// Whether the last one has its turn while the others run.
fn fits(processors: u32, shares: &[Share]) -> bool {
    let mut queue = Queue::new(processors);
    let admitted: Vec<bool> = shares
        .iter()
        .map(|share| {
            let ticket = queue.arrive(*share);
            queue.admit(ticket)
        })
        .collect();
    let (last, others) = admitted.split_last().expect("somebody");
    assert!(others.iter().all(|admitted| *admitted), "{shares:?}");
    *last
}

#[test]
fn what_is_judged_never_runs_beside_what_is_busy() {
    for processors in [1, 2, 64] {
        for share in [Little, Mesh, Judged, Busy, Machine] {
            assert!(fits(processors, &[share]), "{share:?} on {processors}");
            assert!(!fits(processors, &[share, Machine]) && !fits(processors, &[Machine, share]));
        }
        assert!(!fits(processors, &[Judged, Busy]) && !fits(processors, &[Mesh, Busy, Judged]));
        assert!(fits(processors, &[Judged, Mesh, Mesh]) && fits(processors, &[Busy, Mesh]));
    }
    assert!(fits(2, &[Busy, Busy, Mesh, Mesh]) && !fits(2, &[Busy, Busy, Busy]));
    assert!(fits(2, &[Judged, Judged, Judged, Judged]) && !fits(1, &[Judged, Judged, Little]));
}
