//! Claims of blocks that are placed and not yet in the volume's books: noted in the store's small records, so that a
//! crash in between leaves nothing behind that nobody releases.

use bytes::Bytes;

use crate::base::{BlockId, PeerId};
use crate::blocks::Blocks;

/// Space of the store's small records.
pub(super) const CLAIMS: &str = "volume-claims";
/// Most peers that are noted.
const PEERS_MAX: usize = 400;

/// What is noted: the block, and the peers that may know the claim, 32 bytes each.
pub(super) fn encode(block: BlockId, peers: &[PeerId]) -> Bytes {
    let mut row = block.0.to_vec();
    for peer in peers.iter().take(PEERS_MAX) {
        row.extend_from_slice(&peer.0);
    }
    row.into()
}

/// Earlier versions noted the block alone.
pub(super) fn decode(row: &[u8]) -> Option<(BlockId, Vec<PeerId>)> {
    let (block, rest) = row.split_first_chunk::<32>()?;
    let (peers, rest) = rest.as_chunks::<32>();
    let peers = peers.iter().map(|peer| PeerId(*peer));
    rest.is_empty().then(|| (BlockId(*block), peers.collect()))
}

/// Whom a claim is to be released at: those who were noted, and whoever else may have been told by then.
pub(super) fn told(blocks: &Blocks, mut peers: Vec<PeerId>) -> Vec<PeerId> {
    let members = blocks.net().members();
    peers.extend(members.list.iter().map(|member| member.peer));
    peers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_who_was_told_and_an_earlier_one_does_not() {
        let block = BlockId([1; 32]);
        let peers = vec![PeerId([2; 32]), PeerId([3; 32])];
        let row = encode(block, &peers);
        assert_eq!(decode(&row), Some((block, peers)));
        assert_eq!(decode(&[1; 32]), Some((block, Vec::new())));
        assert_eq!(decode(&[1; 33]), None);
        assert_eq!(decode(&[1; 31]), None);
        let many = vec![PeerId([4; 32]); 1000];
        assert!(encode(block, &many).len() <= crate::store::KV_VALUE_MAX);
    }
}
