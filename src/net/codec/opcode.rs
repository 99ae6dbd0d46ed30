//! Operation codes. A code is never used again for something else.

pub(super) mod request {
    pub(in crate::net::codec) const HAVE: u16 = 1;
    pub(in crate::net::codec) const CLAIM: u16 = 2;
    pub(in crate::net::codec) const STORE: u16 = 3;
    pub(in crate::net::codec) const FETCH: u16 = 4;
    pub(in crate::net::codec) const CLOSE_CLAIM: u16 = 5;
    pub(in crate::net::codec) const RELEASE_CLAIM: u16 = 6;
    pub(in crate::net::codec) const RECORDS: u16 = 7;
    pub(in crate::net::codec) const ANNOUNCE: u16 = 8;
    pub(in crate::net::codec) const FETCH_RANGE: u16 = 9;
    pub(in crate::net::codec) const FEED: u16 = 10;
    pub(in crate::net::codec) const PUBLISH: u16 = 11;
    pub(in crate::net::codec) const PUBLISHED: u16 = 12;
    pub(in crate::net::codec) const UPKEEP: u16 = 16;
    /// The last one.
    pub(in crate::net::codec) const LAST: u16 = UPKEEP;
}

pub(super) mod response {
    pub(in crate::net::codec) const HELD: u16 = 1;
    pub(in crate::net::codec) const STORED: u16 = 2;
    pub(in crate::net::codec) const SHARD: u16 = 3;
    pub(in crate::net::codec) const MISSING: u16 = 4;
    pub(in crate::net::codec) const DONE: u16 = 5;
    pub(in crate::net::codec) const RECORDS: u16 = 6;
    pub(in crate::net::codec) const REFUSED: u16 = 7;
    pub(in crate::net::codec) const BUSY: u16 = 8;
    pub(in crate::net::codec) const UNSUPPORTED: u16 = 9;
    pub(in crate::net::codec) const RANGE: u16 = 10;
    pub(in crate::net::codec) const FEED: u16 = 11;
    pub(in crate::net::codec) const PUBLISHED: u16 = 12;
    pub(in crate::net::codec) const UPKEEP: u16 = 16;
}
