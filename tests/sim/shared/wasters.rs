//! A peer that wastes others' time: it says that it has feeds of ten thousands of writers, and gives nothing of them,
//! slowly.

use std::time::Duration;

use cairnfs::blocks::FeedInbound;
use cairnfs::crypto::SigningKey;
use cairnfs::feeds::{Answer, Claim, LinkHash, Message};
use cairnfs::namespace::WriterId;
use cairnfs::net::Response;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::adversaries::settled;
use super::run;
use super::world::{READER, WRITERS};
use crate::common::member::ID;

/// Pages of made-up heads.
const PAGES: u64 = 40;
const PAGE: u64 = 1000;
/// Just below what others wait for one answer.
const SLOW: Duration = Duration::from_secs(14);

fn made_up() -> Answer {
    let mut answer = Answer::default();
    let mut after = None;
    for page in 0..PAGES {
        let claim = |number: u64| Claim {
            writer: WriterId {
                peer: cairnfs::base::PeerId([77; 32]),
                incarnation: page * PAGE + number,
            },
            last: 10,
            hash: LinkHash([5; 32]),
        };
        let claims: Vec<Claim> = (0..PAGE).map(claim).collect();
        let heads = Message::Heads {
            volume: ID,
            after,
            is_last: page + 1 == PAGES,
            claims: claims.clone(),
            signed: Vec::new(),
        };
        after = claims.last().map(|claim| claim.writer);
        if !answer.push(&heads) {
            break;
        }
    }
    answer
}

async fn waste(mut inbound: mpsc::Receiver<FeedInbound>) {
    while let Some(FeedInbound { body, reply, .. }) = inbound.recv().await {
        tokio::spawn(async move {
            let mut answer = Answer::default();
            match Message::decode(&body) {
                Ok(Message::Heads { .. }) => answer = made_up(),
                Ok(Message::Want { writer, .. }) => {
                    tokio::time::sleep(SLOW).await;
                    let nothing = Message::Have {
                        volume: ID,
                        writer,
                        last: 0,
                        deltas: Vec::new(),
                    };
                    assert!(answer.push(&nothing));
                }
                _ => {}
            }
            let body = answer.encode().into();
            let _ = reply.send(Response::Feed { body });
        });
    }
}

#[test]
fn one_that_wastes_time_does_not_stop_the_comparing() {
    run(async {
        let mut world = settled(23).await;
        let key = SigningKey::generate(&world.cluster.entropy);
        let at = world.stranger(&key).await;
        let inbound = world.cluster.feeds(at).unwrap().open();
        let wasting = tokio::spawn(waste(inbound));
        // It was asked before, when it had no part; now it says that it has.
        let hello = Message::Heads {
            volume: ID,
            after: None,
            is_last: true,
            claims: Vec::new(),
            signed: Vec::new(),
        };
        for to in 0..=READER {
            world.say(at, to, hello.encode()).await;
        }
        for _ in 0..3 {
            let begun = Instant::now();
            let compared = world.sharer(1).compare().await;
            let took = begun.elapsed();
            assert!(compared > WRITERS, "{compared}");
            assert!(took < Duration::from_secs(100), "{took:?}");
        }
        super::adversaries::go_on(&world, &[0, 1, 2, 3, 4, READER], "after").await;
        wasting.abort();
    });
}
