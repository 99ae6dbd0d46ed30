//! The network of a peer that has neither invited nor joined anybody: itself, and no socket.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::command::{Command, Lookup, Member, Members, NetActorEnds, NetError, Offer, Reach};
use crate::base::PeerId;

/// A running one. Dropping it ends it; [`Lone::stop`] gives the seam back for a real network.
#[derive(Debug)]
pub struct Lone {
    stop: CancellationToken,
    task: JoinHandle<NetActorEnds>,
}

impl Drop for Lone {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Lone {
    /// Serves the seam behind `ends` as a network of one. Must be called within a tokio runtime.
    pub fn start(own: PeerId, offer: Offer, ends: NetActorEnds) -> Lone {
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(own, offer, ends, stop.clone()));
        Lone { stop, task }
    }

    /// Ends it at once and hands the seam over. `None` after a [`Command::Shutdown`].
    pub async fn stop(mut self) -> Option<NetActorEnds> {
        self.stop.cancel();
        let ends = (&mut self.task).await.ok()?;
        (!ends.commands.is_closed()).then_some(ends)
    }
}

fn alone(own: PeerId, offer: &Offer) -> Member {
    let zone = match offer.zone.as_str() {
        "" => format!("peer:{own}"),
        zone => zone.to_owned(),
    };
    Member {
        peer: own,
        capacity_bytes: offer.capacity_bytes,
        free_bytes: offer.free_bytes,
        stay: offer.stay,
        zone,
        invitation: String::new(),
        storage_only: false,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        addresses: Vec::new(),
        state: Reach::Own,
        rtt: None::<Duration>,
    }
}

async fn serve(
    own: PeerId,
    offer: Offer,
    mut ends: NetActorEnds,
    stop: CancellationToken,
) -> NetActorEnds {
    let mut member = alone(own, &offer);
    let publish = |ends: &NetActorEnds, member: &Member| {
        let members = Members {
            list: vec![member.clone()],
            complete: true,
        };
        ends.members.send_replace(Arc::new(members));
    };
    publish(&ends, &member);
    loop {
        let command = tokio::select! {
            biased;
            () = stop.cancelled() => return ends,
            command = ends.commands.recv() => command,
        };
        // A receiver that is gone no longer wants to know.
        match command {
            Some(Command::Request { to, reply, .. }) => {
                let _ = reply.send(Err(NetError::Unreachable(to)));
            }
            Some(Command::Closest { count, reply, .. }) => {
                let offers = member.capacity_bytes > 0 && count > 0;
                let found = if offers {
                    vec![member.clone()]
                } else {
                    Vec::new()
                };
                let lookup = Lookup {
                    found,
                    ..Lookup::default()
                };
                let _ = reply.send(Ok(lookup));
            }
            Some(Command::Dial { address, reply }) => {
                let _ = reply.send(Err(NetError::NoAnswer(address)));
            }
            Some(Command::Offer { offer }) => {
                member = alone(own, &offer);
                publish(&ends, &member);
            }
            Some(Command::Shutdown { reply }) => {
                ends.commands.close();
                let _ = reply.send(());
                return ends;
            }
            None => return ends,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BlockId;
    use crate::net::command::NetHandle;
    use crate::net::message::Request;

    #[tokio::test]
    async fn a_lone_peer_knows_itself_and_reaches_nobody() {
        let own = PeerId([1; 32]);
        let (handle, ends, _inbound) = NetHandle::new(own, 4);
        let offer = Offer {
            capacity_bytes: 7,
            free_bytes: 5,
            zone: String::new(),
            stay: crate::net::Stay::Stays,
        };
        let lone = Lone::start(own, Offer::default(), ends);
        handle.offer(offer.clone()).await.unwrap();
        let request = Request::Have {
            blocks: vec![BlockId([0; 32])],
        };
        let other = PeerId([2; 32]);
        let answer = handle.request(other, request, Duration::from_secs(1)).await;
        assert_eq!(answer, Err(NetError::Unreachable(other)));
        let members = handle.members();
        assert!(members.complete && members.list.len() == 1);
        assert_eq!(members.list[0].free_bytes, 5);
        let found = handle.closest(b"x".to_vec(), 40).await.unwrap().found;
        assert_eq!(found.len(), 1);
        // The seam can be handed on, and then serves again.
        let ends = lone.stop().await.unwrap();
        let lone = Lone::start(own, offer, ends);
        assert!(
            handle
                .dial("/ip4/127.0.0.1/tcp/1".to_owned())
                .await
                .is_err()
        );
        handle.shutdown().await;
        assert!(lone.stop().await.is_none());
        assert_eq!(handle.closest(Vec::new(), 1).await, Err(NetError::Closed));
    }
}
