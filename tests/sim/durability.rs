//! The figures of docs/DURABILITY.md, from models that use the real placement: `tests/long durability`.

mod lookup;
mod model;
mod place;

use cairnfs::base::EcProfile;
use model::{Churn, Figures, Setting, live};

/// Machines in racks: 4 % of their disks are lost in a year.
const SERVERS: Churn = Churn {
    name: "servers",
    life_years: 25.0,
    up_hours: 720.0,
    down_hours: 4.0,
};
/// Desktops: a fifth of them is away at any time, and none stays for a year.
const DESKTOPS: Churn = Churn {
    name: "desktops",
    life_years: 0.8,
    up_hours: 16.0,
    down_hours: 4.0,
};
/// Peers at home that come and go.
const FLAKY: Churn = Churn {
    name: "flaky",
    life_years: 0.25,
    up_hours: 14.0,
    down_hours: 6.0,
};

const TIB: f64 = (1u64 << 40) as f64;

fn profile(text: &str) -> EcProfile {
    text.parse().unwrap()
}

fn setting(churn: Churn, peers: usize, of: &str) -> Setting {
    Setting {
        churn,
        peers,
        profile: profile(of),
        groups: 256,
        years: 1.0,
        dead_hours: 12.0,
        held_bytes: 0.5 * TIB,
        rate: (16u64 << 20) as f64,
        seed: 1,
    }
}

fn row(of: &Setting, figures: &Figures) {
    let loss = match figures.lost {
        0 => format!("none; < {:.0e}", 3.0 / figures.group_years),
        lost => format!("{:.1e} ({lost})", lost as f64 / figures.group_years),
    };
    println!(
        "| {} | {} | {} | {:.0} | {loss} | {:.4} % | {:.2} | {:.0} % | {:.2} |",
        of.churn.name,
        of.peers,
        of.profile,
        figures.group_years,
        100.0 * figures.unreadable as f64 / figures.looks.max(1) as f64,
        // Of what a peer holds on average, what is made anew in a day for each peer.
        figures.made as f64
            / (f64::from(of.groups) * of.profile.total_shards() as f64 / of.peers as f64)
            / figures.peer_years
            / 365.25
            * 100.0,
        100.0 * figures.in_vain as f64 / figures.made.max(1) as f64,
        figures.fullest,
    );
}

#[test]
fn durability_in_figures() {
    let scale = super::scale();
    println!(
        "| peers are | peers | profile | stripe-years | lost per stripe and year | not readable at a moment | made anew, % of a \
         peer's shards per day | of it in vain | fullest |\n|---|---|---|---|---|---|---|---|---|"
    );
    let sizes: &[usize] = if scale > 1.0 {
        &[50, 1000, 10_000]
    } else {
        &[50]
    };
    for churn in [SERVERS, DESKTOPS, FLAKY] {
        for peers in sizes {
            for of in ["4+2", "8+4", "10+20", "3+7"] {
                let mut of = setting(churn, *peers, of);
                of.groups = (256.0 * scale).min(16_384.0) as u16;
                // Many years of few peers cost as much as one of many.
                of.years = (50.0 * scale / *peers as f64).clamp(0.25, 20.0);
                let figures = live(of);
                row(&of, &figures);
                assert!(figures.made > 0 || churn.life_years > 10.0);
            }
        }
    }
}

#[test]
fn the_model_loses_what_must_be_lost_and_nothing_else() {
    let still = Churn {
        name: "still",
        life_years: 1e6,
        up_hours: 1e6,
        down_hours: 1e-3,
    };
    let figures = live(setting(still, 50, "4+2"));
    assert_eq!((figures.lost, figures.made, figures.unreadable), (0, 0, 0));
    // Whoever goes for good within weeks takes more with it than can be made anew in twelve hours each.
    let fleeting = Churn {
        name: "fleeting",
        life_years: 20.0 / 365.25,
        ..still
    };
    let of = |dead_hours: f64, profile: &str| {
        let base = setting(fleeting, 50, profile);
        live(Setting {
            dead_hours,
            years: 0.2,
            ..base
        })
        .lost
    };
    let (slow, quick) = (of(12.0, "4+2"), of(1.0, "4+2"));
    println!("{slow} and {quick}");
    assert!(slow > 5 * quick.max(1), "{slow} and {quick}");
    assert!(10 * of(12.0, "3+7") < slow);
    let one = setting(FLAKY, 50, "4+2");
    assert_eq!(live(one), live(one));
    // Who is away for longer than the timer has its shards made anew although it comes back.
    let figures = live(one);
    assert!(figures.in_vain > 0 && figures.in_vain <= figures.made);
    // A fifth away each: the share of moments at which more than two of six are away.
    let away: f64 = 0.2;
    let figures = live(Setting {
        groups: 512,
        dead_hours: 1e9,
        years: 8.0,
        churn: Churn {
            life_years: 1e6,
            ..DESKTOPS
        },
        ..one
    });
    let few: f64 = (3..=6)
        .map(|n| binomial(6, n) * away.powi(n) * (1.0 - away).powi(6 - n))
        .sum();
    let found = figures.unreadable as f64 / figures.looks as f64;
    assert!((found / few - 1.0).abs() < 0.25, "{found} for {few}");
}

fn binomial(n: i32, k: i32) -> f64 {
    (0..k)
        .map(|i| f64::from(n - i) / f64::from(i + 1))
        .product()
}

#[test]
fn placement_in_figures() {
    let scale = super::scale();
    let sizes: &[usize] = if scale > 1.0 {
        &[50, 1000, 10_000]
    } else {
        &[50, 1000]
    };
    println!(
        "| peers | capacities | fullest | emptiest | changed by a join x peers | by a loss x peers |\n|---|---|---|---|---|---|"
    );
    for peers in sizes {
        for mixed in [false, true] {
            let groups = (2048.0 * scale).min(65_536.0) as u32;
            let found = place::balance(*peers, EcProfile::DEFAULT, groups, mixed, 7);
            println!(
                "| {peers} | {} | {:.2} | {:.2} | {:.2} | {:.2} |",
                if mixed { "1 to 4" } else { "equal" },
                found.fullest,
                found.emptiest,
                found.join,
                found.leave
            );
            assert!(found.emptiest > 0.0 || *peers > 50);
            assert!(found.join < 8.0 && found.leave < 8.0, "{found:?}");
        }
    }
}

#[test]
fn look_ups_in_figures() {
    let scale = super::scale();
    let sizes: &[usize] = if scale > 1.0 {
        &[50, 100, 1000, 10_000, 100_000]
    } else {
        &[50, 1000, 4000]
    };
    let lookups = (20.0 * scale).clamp(20.0, 500.0) as usize;
    println!(
        "| peers | rounds until the closest is known | until all twenty have answered | messages | exact |\n|---|---|---|---|---|"
    );
    let mut before: Option<lookup::Cost> = None;
    for peers in sizes {
        let cost = lookup::cost(*peers, lookups, 5);
        println!(
            "| {peers} | {:.1} | {:.1} | {:.1} | {:.0} % |",
            cost.found_after,
            cost.rounds,
            cost.messages,
            100.0 * cost.exact
        );
        assert!(cost.exact > 0.95);
        // Twenty times the peers, a few rounds more.
        assert!(before.is_none_or(|before| cost.rounds < before.rounds + 4.0));
        before = Some(cost);
    }
}
