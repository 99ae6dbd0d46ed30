//! The bulk plane as the rest of this layer uses it.

use std::net::SocketAddr;

use crate::base::PeerId;

#[derive(Debug, Clone)]
pub(super) struct BulkPlane;

impl BulkPlane {
    /// Where a peer's bulk plane listens; answers whether that is news.
    pub(super) fn set_addresses(&self, _peer: PeerId, _sockets: &[SocketAddr]) -> bool {
        true
    }

    pub(super) fn stop_listening(&self) {}
}
