//! Ranking of one group in networks of several sizes.

use std::hint::black_box;

use cairnfs::base::{EcProfile, Group, PeerId};
use cairnfs::placement::{Cluster, Offering, assign, promised, survives};
use criterion::Criterion;

fn cluster(count: u64) -> Cluster {
    Cluster::new((0..count).map(|tag| Offering {
        peer: PeerId(*blake3::hash(&tag.to_le_bytes()).as_bytes()),
        capacity_bytes: (1 + tag % 9) << 30,
        zone: format!("zone{}", tag % 20),
        invitation: String::new(),
    }))
}

pub fn benches(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("placement");
    for count in [6, 60, 60_000] {
        let cluster = cluster(count);
        let mut group = 0u16;
        bench.bench_function(format!("rank and assign, {count} peers"), |b| {
            b.iter(|| {
                group = group.wrapping_add(1);
                let ranked = cluster.rank(Group(group));
                black_box(assign(&ranked, |_| true, EcProfile::DEFAULT))
            });
        });
    }
    // What a stripe survives: as it is asked of each block that is looked at.
    for (profile, peers) in [(EcProfile::DEFAULT, 6), (EcProfile::DEFAULT, 4)] {
        let total = profile.total_shards() as u64;
        let held: Vec<(PeerId, usize)> = (0..total)
            .map(|at| (PeerId([(at % peers) as u8; 32]), 1))
            .collect();
        let data = profile.data_shards();
        assert_eq!(
            survives(held.clone(), data),
            Some(promised(profile, peers as usize))
        );
        bench.bench_function(
            format!("happiness of {total} shards on {peers} peers"),
            |b| {
                b.iter(|| survives(black_box(&held).iter().copied(), data));
            },
        );
    }
    bench.finish();
}
