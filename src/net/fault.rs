//! A proxy before the handler of inbound requests that misbehaves on demand (feature `testkit`).

use std::str::FromStr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};

use super::command::Inbound;
use super::message::{Refusal, Request, Response};
use crate::base::IndexSet;
use crate::base::units::parse_duration;

/// How a peer misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Every shard, and part of a shard, that it sends has one flipped bit.
    Corrupt,
    /// Every shard, and part of a shard, that it sends has one flipped bit, and all else that it says is so.
    Forge,
    /// Every answer comes so much later.
    Delay(Duration),
    /// It refuses everything.
    Refuse,
    /// It takes every request and answers none.
    Silent,
    /// It keeps every shard that it is to store in memory, for ever, and answers nothing to that.
    Hoard,
    /// It stores shards and refuses to promise that it keeps them.
    Renege,
    /// It says what it holds, and gives nothing of it to anybody.
    Boast,
    /// It is of a version that knows neither parts of shards nor volumes.
    Old,
}

impl FromStr for Fault {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "corrupt" => Ok(Fault::Corrupt),
            None if text == "forge" => Ok(Fault::Forge),
            None if text == "refuse" => Ok(Fault::Refuse),
            None if text == "silent" => Ok(Fault::Silent),
            None if text == "hoard" => Ok(Fault::Hoard),
            None if text == "renege" => Ok(Fault::Renege),
            None if text == "boast" => Ok(Fault::Boast),
            None if text == "old" => Ok(Fault::Old),
            Some(("delay", time)) => parse_duration(time)
                .map(Fault::Delay)
                .map_err(|error| error.to_string()),
            _ => Err(format!(
                "unknown fault `{text}`: one of corrupt, forge, refuse, silent, hoard, renege, boast, old, delay:3s"
            )),
        }
    }
}

/// Passes requests on to the returned receiver, and their answers back, through `fault`.
pub fn inject(mut inbound: mpsc::Receiver<Inbound>, fault: Fault) -> mpsc::Receiver<Inbound> {
    let (forward, faulty) = mpsc::channel(inbound.max_capacity());
    tokio::spawn(async move {
        while let Some(request) = inbound.recv().await {
            tokio::spawn(pass(request, fault, forward.clone()));
        }
    });
    faulty
}

async fn pass(original: Inbound, fault: Fault, forward: mpsc::Sender<Inbound>) {
    let is_promise = matches!(original.request, Request::CloseClaim { .. });
    if fault == Fault::Refuse || (fault == Fault::Renege && is_promise) {
        let refusal = Response::Refused {
            reason: Refusal::Denied,
            free_bytes: 0,
        };
        // The asker may be gone.
        let _ = original.reply.send(refusal);
        return;
    }
    if fault == Fault::Old && is_later(&original.request) {
        let _ = original.reply.send(Response::Unsupported);
        return;
    }
    if fault == Fault::Hoard && matches!(original.request, Request::Store { .. }) {
        let _kept = original;
        return std::future::pending().await;
    }
    let (reply, answer) = oneshot::channel();
    let request = Inbound {
        from: original.from,
        request: original.request,
        reply,
    };
    if forward.send(request).await.is_err() {
        return;
    }
    let Ok(mut response) = answer.await else {
        return;
    };
    match fault {
        Fault::Delay(time) => tokio::time::sleep(time).await,
        Fault::Silent => std::future::pending().await,
        Fault::Corrupt => flip(&mut response),
        Fault::Forge => {
            if matches!(response, Response::Shard { .. } | Response::Range { .. }) {
                flip(&mut response);
            }
        }
        Fault::Boast => keep_back(&mut response),
        Fault::Refuse | Fault::Hoard | Fault::Renege | Fault::Old => {}
    }
    let _ = original.reply.send(response);
}

/// Whether a peer of the first version does not know this request.
const fn is_later(request: &Request) -> bool {
    matches!(
        request,
        Request::FetchRange { .. }
            | Request::Feed { .. }
            | Request::Publish { .. }
            | Request::Published { .. }
            | Request::Upkeep { .. }
    )
}

/// Says that it is there, in place of what it is.
fn keep_back(response: &mut Response) {
    let held = match response {
        Response::Shard { held, .. } => *held,
        Response::Range { .. } => IndexSet::EMPTY,
        _ => return,
    };
    *response = Response::Missing { held };
}

fn flip(response: &mut Response) {
    if let Response::Published { records } = response {
        records.iter_mut().for_each(flip_bit);
    }
    if let Response::Shard { data, .. }
    | Response::Range { data, .. }
    | Response::Feed { body: data }
    | Response::Upkeep { body: data } = response
    {
        flip_bit(data);
    }
}

fn flip_bit(data: &mut Bytes) {
    let mut bytes = BytesMut::from(data.as_ref());
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    *data = bytes.freeze();
}
