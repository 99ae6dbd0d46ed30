use criterion::Criterion;

pub fn benches(_criterion: &mut Criterion) {}
