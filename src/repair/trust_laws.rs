//! What holds of trust, whatever comes.

use proptest::prelude::*;

use super::*;

const NOW_MS: u64 = 1_767_225_600_000;
const HOUR_MS: u64 = 3_600_000;

fn shard(tag: u8) -> ShardId {
    ShardId {
        block: BlockId([tag; 32]),
        index: 0,
    }
}

/// After these, one each hour.
fn hourly(findings: &[Finding]) -> (Trust, u64) {
    let mut trust = Trust::default();
    let mut now_ms = NOW_MS;
    for finding in findings {
        now_ms += HOUR_MS;
        trust.note(*finding, None, now_ms);
    }
    (trust, now_ms)
}

/// Days until nothing is held against it any more.
fn days_until_regained(mut trust: Trust, mut now_ms: u64, each: Option<Finding>) -> u64 {
    let begun_ms = now_ms;
    while trust.is_displaced(now_ms) || trust.is_disbelieved(now_ms) {
        now_ms += HOUR_MS;
        if let Some(finding) = each {
            trust.note(finding, None, now_ms);
        }
        assert!(now_ms < begun_ms + 1000 * HOUR_MS, "it never comes back");
    }
    (now_ms - begun_ms) / (24 * HOUR_MS)
}

#[test]
fn a_few_lies_cost_trust_and_days_of_good_answers_bring_it_back() {
    let (trust, now_ms) = hourly(&[Finding::False; 2]);
    assert!(!trust.is_displaced(now_ms) && !trust.is_disbelieved(now_ms));
    let (trust, now_ms) = hourly(&[Finding::False; 3]);
    assert!(trust.is_displaced(now_ms) && trust.is_disbelieved(now_ms));
    let days = days_until_regained(trust, now_ms, Some(Finding::Good));
    assert!((1..4).contains(&days), "{days}");
    // However long it lied, and though nobody asks it anything.
    let (trust, now_ms) = hourly(&[Finding::False; 500]);
    assert_eq!(trust.shown(now_ms).percent, 0);
    let days = days_until_regained(trust.clone(), now_ms, Some(Finding::Good));
    assert!((2..5).contains(&days), "{days}");
    let days = days_until_regained(trust, now_ms, None);
    assert!((14..30).contains(&days), "{days}");
}

#[test]
fn who_lacks_what_it_says_it_has_is_believed_a_little_longer() {
    let (trust, now_ms) = hourly(&[Finding::Lacking; 3]);
    assert!(!trust.is_displaced(now_ms));
    let (trust, now_ms) = hourly(&[Finding::Lacking; 4]);
    assert!(trust.is_displaced(now_ms) && trust.is_disbelieved(now_ms));
}

#[test]
fn who_is_late_all_day_is_displaced_and_believed() {
    for finding in [Finding::Late, Finding::Damaged] {
        let (trust, now_ms) = hourly(&[finding; 10]);
        assert!(!trust.is_displaced(now_ms));
        let (trust, now_ms) = hourly(&[finding; 24]);
        assert!(trust.is_displaced(now_ms));
        let (trust, now_ms) = hourly(&[finding; 500]);
        assert!(!trust.is_disbelieved(now_ms), "it says what is so");
    }
    // One in five is bad luck.
    let mostly: Vec<Finding> = (0..500)
        .map(|at| match at % 5 {
            0 => Finding::Late,
            _ => Finding::Good,
        })
        .collect();
    let (trust, now_ms) = hourly(&mostly);
    assert!(!trust.is_displaced(now_ms), "{:?}", trust.shown(now_ms));
}

#[test]
fn what_is_refuted_is_remembered_until_it_is_shown_or_forgiven() {
    let mut trust = Trust::default();
    trust.note(Finding::Lacking, Some(shard(1)), NOW_MS);
    trust.note(Finding::Good, Some(shard(2)), NOW_MS);
    assert_eq!(trust.refuted().len(), 1);
    // The same again is no news.
    let before = trust.falsity(NOW_MS);
    (0..9).for_each(|_| trust.note(Finding::Lacking, Some(shard(1)), NOW_MS));
    assert!(trust.falsity(NOW_MS) <= before);
    trust.note(Finding::Good, Some(shard(1)), NOW_MS);
    assert!(trust.refuted().is_empty());
    trust.note(Finding::False, Some(shard(3)), NOW_MS);
    trust.note(Finding::Good, None, NOW_MS + 60 * 24 * HOUR_MS);
    assert!(trust.refuted().is_empty());
    for tag in 0..255 {
        trust.note(Finding::False, Some(shard(tag)), NOW_MS);
    }
    assert_eq!(trust.refuted().len(), REFUTED_MAX);
    assert!(trust.encode().len() < ROW_MAX_BYTES);
    assert_eq!(Trust::decode(&trust.encode()), Some(trust));
}

#[test]
fn it_is_written_down_as_described() {
    let mut trust = Trust::default();
    trust.note(Finding::Good, None, NOW_MS);
    trust.note(Finding::Late, None, NOW_MS);
    trust.note(Finding::False, Some(shard(7)), NOW_MS);
    let golden = crate::base::golden::row("trust");
    assert_eq!(trust.encode(), golden);
    assert_eq!(Trust::decode(&golden), Some(trust));
    assert_eq!(Trust::decode(&[]), None);
}

#[test]
fn it_says_why() {
    let (trust, now_ms) = hourly(&[Finding::Good; 40]);
    assert_eq!(trust.shown(now_ms).why, None);
    let mut findings = [Finding::Good; 40];
    findings[..3].fill(Finding::False);
    let (trust, now_ms) = hourly(&findings);
    let why = trust.shown(now_ms + HOUR_MS).why.unwrap();
    assert_eq!(why, "answered 3 of 40 checks wrongly, last 38 h ago");
    findings[38] = Finding::Lacking;
    findings[39] = Finding::Late;
    let (trust, now_ms) = hourly(&findings);
    let why = trust.shown(now_ms + 90_000).why.unwrap();
    assert_eq!(
        why,
        "answered 3 of 40 checks wrongly, lacked what it says it has in 1 of 40 checks, answered 1 of 40 checks late, last 90 s ago"
    );
}

fn any_finding() -> impl Strategy<Value = Finding> {
    prop_oneof![
        Just(Finding::Good),
        Just(Finding::Late),
        Just(Finding::Damaged),
        Just(Finding::Lacking),
        Just(Finding::False),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn doubt_is_bounded_and_only_bad_answers_add_to_it(
        steps in prop::collection::vec((any_finding(), 0..90 * 24 * HOUR_MS, 0..9u8), 1..80),
    ) {
        let mut trust = Trust::default();
        let mut now_ms = NOW_MS;
        for (finding, pause_ms, tag) in steps {
            let before = trust.shown(now_ms);
            let later = trust.shown(now_ms + pause_ms);
            prop_assert!(later.percent >= before.percent, "time takes doubt away");
            prop_assert!(!later.is_displaced || before.is_displaced);
            now_ms += pause_ms;
            trust.note(finding, Some(shard(tag)), now_ms);
            let after = trust.shown(now_ms);
            prop_assert!(after.percent <= 100);
            match finding {
                Finding::Good => {
                    prop_assert!(after.percent >= later.percent);
                    prop_assert!(!after.is_displaced || later.is_displaced);
                }
                _ => prop_assert!(after.percent <= later.percent + 1),
            }
            prop_assert!(!after.is_disbelieved || after.is_displaced);
            prop_assert!(trust.answers.all() <= COUNTED_MAX);
            let read = Trust::decode(&trust.encode()).unwrap();
            let mut again = read.shown(now_ms);
            // Written down in millionths, which may round to another hundredth.
            prop_assert!(again.percent.abs_diff(after.percent) <= 1);
            again.percent = after.percent;
            prop_assert_eq!(again, after);
            prop_assert_eq!(read.refuted(), trust.refuted());
        }
    }

    #[test]
    fn how_often_a_good_peer_is_asked_does_not_matter(lies in 1..9usize, minutes in 1..360u64) {
        let mend = |each_ms: u64| {
            let (mut trust, begun_ms) = hourly(&vec![Finding::False; lies]);
            let end_ms = begun_ms + 24 * HOUR_MS;
            let mut now_ms = begun_ms;
            while now_ms < end_ms {
                now_ms = end_ms.min(now_ms + each_ms);
                trust.note(Finding::Good, None, now_ms);
            }
            trust.falsity(end_ms)
        };
        prop_assert!((mend(minutes * 60_000) - mend(6 * HOUR_MS)).abs() < 1e-6);
    }

    #[test]
    fn one_late_answer_costs_nobody_its_place(
        before in prop::collection::vec(prop_oneof![Just(Finding::Good), Just(Finding::Late)], 0..9),
    ) {
        let (mut trust, now_ms) = hourly(&before);
        trust.note(Finding::Late, None, now_ms);
        prop_assert!(!trust.is_displaced(now_ms));
    }
}
