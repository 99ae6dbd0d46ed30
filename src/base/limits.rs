//! Every bound in one place, with a tiny profile under which tests reach them all.

use std::time::Duration;

/// Plaintext bytes of one encryption frame. Part of the sealed format.
pub const FRAME_BYTES: usize = 64 << 10;
/// Most plaintext bytes of one chunk. Part of the sealed format.
pub const CHUNK_MAX_BYTES: usize = 4 << 20;
/// Candidates of a placement group.
pub const CANDIDATES: usize = 40;
/// Largest canonical stripe header: 64 shard hashes and change.
pub const STRIPE_HEADER_MAX_BYTES: usize = 4 << 10;
/// Largest control part (everything but the payload) of one message.
pub const MESSAGE_META_MAX_BYTES: usize = 1 << 20;
/// Largest payload of one message: one shard of a 1+m stripe with its seal.
pub const MESSAGE_PAYLOAD_MAX_BYTES: usize = CHUNK_MAX_BYTES + (64 << 10);
/// Longest proof of a part of a shard: two hashes for each level of the largest shard.
pub const RANGE_PROOF_MAX_BYTES: usize = 1 << 10;
/// Most blocks named in one batched message.
pub const BATCH_BLOCKS_MAX: usize = 1024;
/// Most peer records in one message.
pub const RECORDS_PER_MESSAGE: usize = 256;
/// Longest chain of invitations from the founder to a device.
pub const MEMBERSHIP_CHAIN_MAX: usize = 16;
/// Most epochs of which a member of a volume has the keys.
pub const VOLUME_KEYS_MAX: usize = 64;
/// Longest name of a volume.
pub const VOLUME_NAME_MAX_BYTES: usize = 64;
/// Smallest quota a peer accepts.
pub const QUOTA_MIN_BYTES: u64 = 32 << 20;
/// Directory of the logs within the data directory.
pub const LOG_DIR: &str = "log";
/// A log that would become larger is put aside.
pub const LOG_MAX_BYTES: u64 = 1 << 20;
/// Logs put aside that are kept.
pub const LOGS_KEPT: u32 = 2;
/// What all logs together may occupy, with their directory and begun blocks.
pub const LOGS_MAX_BYTES: u64 = (1 + LOGS_KEPT as u64) * (LOG_MAX_BYTES + (16 << 10));
/// Deepest directory nesting that a tree may have.
pub const TREE_DEPTH_MAX: usize = 1024;
/// Longest name of a directory entry.
pub const NAME_MAX_BYTES: usize = 255;
/// Longest key of a row of a volume.
pub const ROW_KEY_MAX_BYTES: usize = 1024;
/// Longest value of a row of a volume.
pub const ROW_VALUE_MAX_BYTES: usize = 16 << 10;
/// Largest atomic group of changes of a volume, as it is stored, its dirty data not counted.
pub const ROW_GROUP_MAX_BYTES: usize = 1 << 20;
/// Most rows in one page of a scan.
pub const ROW_PAGE_MAX: usize = 4096;
/// Largest piece of dirty data in a volume's journal.
pub const DIRTY_MAX_BYTES: usize = CHUNK_MAX_BYTES;
/// Most pieces of dirty data that one group adds.
pub const DIRTY_PER_GROUP_MAX: usize = 64;

/// Content of a file that travels inside a change of the namespace; more than that lies in blocks.
pub const INLINE_MAX_BYTES: usize = 16 << 10;
/// Largest value of one extended attribute (Linux's XATTR_SIZE_MAX).
pub const XATTR_MAX_BYTES: usize = 64 << 10;
/// Longest proof that a device is a member of a volume.
pub const MEMBER_MAX_BYTES: usize = 8 << 10;
/// Longest record of a snapshot in the map of its volume.
pub const SNAPSHOT_MAX_BYTES: usize = 1 << 10;
/// Most snapshots of one volume.
pub const SNAPSHOTS_MAX: usize = 4096;
/// Longest label of a snapshot.
pub const SNAPSHOT_LABEL_MAX_BYTES: usize = 64;
/// Most bytes of pages of snapshots that are kept in memory to be looked into again, for each volume.
pub const SNAPSHOT_PAGES_MAX_BYTES: usize = 48 << 20;
/// Largest document about members and keys of a volume: a cut of a device with many lives.
pub const RULING_MAX_BYTES: usize = 17 << 10;
/// Most devices or invitations that one such document names.
pub const RULING_NAMES_MAX: usize = 256;
/// Most recipients of keys in one document; more take several.
pub const ROTATION_WRAPS_MAX: usize = 48;
/// Most documents about members in one message.
pub const GOSSIP_WORDS_MAX: usize = 64;
/// Largest page of documents beside a checkpoint, by which who was away finds newer keys.
pub const RULINGS_PAGE_MAX_BYTES: usize = 1 << 20;
/// Most conflicts of a volume that are told of or counted.
pub const CONFLICTS_MAX: usize = 10_000;
/// Most names that are looked at to find them.
pub const CONFLICT_LOOKS_MAX: usize = 100_000;
/// Longest glob of a rule about conflicts.
pub const GLOB_MAX_BYTES: usize = 1024;
/// Largest encoded delta, and largest row of a namespace.
pub const DELTA_MAX_BYTES: usize = 4 << 20;
/// How far ahead of a replica's clock a delta may be before it is held back.
pub const DELTA_AHEAD_MAX_MS: u64 = 10 * 60 * 1000;
/// Largest sealed delta: the delta, what sealing adds, and its signed link.
pub const SEALED_DELTA_MAX_BYTES: usize = DELTA_MAX_BYTES + (1 << 10);
/// Last links of each feed that are kept to tell forks from repetitions.
pub const FEED_LINKS_KEPT: usize = 64;
/// Most signed heads that peers announced and are held to.
pub const FEED_PROMISES_MAX: usize = 16 << 10;
/// Most feeds named in one message.
pub const GOSSIP_FEEDS_MAX: usize = 1024;
/// Most deltas in one message.
pub const GOSSIP_DELTAS_MAX: usize = 4096;
/// Most bytes of deltas of one writer that wait for others: the largest delta, opened and sealed.
pub const INBOX_WRITER_MAX_BYTES: usize = 2 * SEALED_DELTA_MAX_BYTES;
/// Most deltas of one writer that wait for others.
pub const INBOX_WRITER_MAX_COUNT: usize = 4096;
/// Most bytes of all deltas that wait for others.
pub const INBOX_MAX_BYTES: usize = 32 << 20;
/// Most deltas that wait for others.
pub const INBOX_MAX_COUNT: usize = 16 << 10;
/// Most feeds of which a waiting room remembers that they must be asked for again.
pub const INBOX_AGAIN_MAX: usize = 1024;
/// Bytes of a page of a checkpoint on average. A page ends after a row with a chance in proportion to its
/// length.
pub const PAGE_TARGET_BYTES: usize = 64 << 10;
/// Bytes after which a page of a checkpoint ends in any case; a longer row has a page for itself.
pub const PAGE_MAX_BYTES: usize = 256 << 10;
/// Most bytes that a layer above needs to find a page again.
pub const PAGE_PLACE_MAX_BYTES: usize = 256;
/// Most writers that a checkpoint can name.
pub const CHECKPOINT_WRITERS_MAX: usize = 2048;
/// Most messages about feeds in one answer.
pub const GOSSIP_MESSAGES_MAX: usize = 2 * GOSSIP_FEEDS_MAX;
/// Most voters on the locks of a volume.
pub const VOTERS_MAX: usize = 31;
/// Most locks in one message about locks.
pub const ACCORD_LOCKS_MAX: usize = 1024;
/// Most writers in a version vector of a message about locks.
pub const ACCORD_WRITERS_MAX: usize = 65_536;
/// Most blocks that one question about what members of a volume name is about.
pub const CLEARING_BLOCKS_MAX: usize = 8192;
/// Most locks that the members of a volume hold or wait for, as one voter keeps them.
pub const LOCKS_KEPT_MAX: usize = 65_536;
/// Most locks that one machine holds in one volume.
pub const LOCKS_HELD_MAX: usize = 4096;
/// Messages about feeds that may wait for whoever serves them.
pub const FEED_QUEUE: usize = 64;
/// Peers that keep the checkpoint records of a volume.
pub const POINTER_HOLDERS: usize = CANDIDATES / 2;
/// Largest signed checkpoint record.
pub const POINTER_MAX_BYTES: usize = 1 << 10;
/// Most checkpoint records of one volume that a peer keeps: one for each writer.
pub const POINTERS_PER_VOLUME_MAX: usize = 64;
/// Of the checkpoint records that a peer keeps for others, one in so many may have been brought by the same peer.
pub const POINTERS_PEER_SHARE: usize = 4;
/// Most ends of claims that a peer remembers with their proofs, for those who were away.
pub const RELEASES_MAX: usize = 64 << 10;
/// Bytes of quota for each end of a claim that a peer remembers: a small quota remembers fewer.
pub const RELEASE_QUOTA_BYTES: u64 = 8 << 10;
/// Most checkpoint records that a peer keeps for others.
pub const POINTERS_MAX: usize = 16 << 10;
/// Bytes of quota for each checkpoint record that a peer keeps for others: a small quota keeps fewer.
pub const POINTER_QUOTA_BYTES: u64 = 64 << 10;
/// Most bytes that a peer keeps of the end of one feed.
pub const TAIL_MAX_BYTES: u64 = 8 << 20;
/// Most bytes that it keeps of all feeds of one volume.
pub const TAIL_VOLUME_MAX_BYTES: u64 = 64 << 20;
/// Most bytes that it keeps of the ends of all feeds.
pub const TAILS_MAX_BYTES: u64 = 512 << 20;
/// Of its quota a peer gives one byte in so many to the ends of feeds.
pub const TAILS_QUOTA_SHARE: u64 = 16;
/// Most feeds of one volume of which a peer keeps the ends.
pub const TAILS_PER_VOLUME_MAX: usize = 64;
/// Most feeds of which a peer keeps the ends.
pub const TAILS_MAX: usize = 4096;
/// Bytes of quota for each feed of which a peer keeps the end: a small quota keeps fewer.
pub const TAIL_QUOTA_BYTES: u64 = 256 << 10;
/// Of the ends of feeds that a peer keeps, one part in so many may have been brought by the same peer.
pub const TAILS_PEER_SHARE: u64 = 4;

/// Bounds that a configuration or a test may tighten.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Smallest chunk the cutter makes, except at the end of a file.
    pub chunk_min_bytes: usize,
    /// Size the cutter aims at.
    pub chunk_target_bytes: usize,
    /// Largest chunk the cutter makes; at most [`CHUNK_MAX_BYTES`].
    pub chunk_max_bytes: usize,
    /// Chunks of one upload that are sealed, coded or on their way at once.
    pub upload_window_chunks: usize,
    /// Blocks of one download that are fetched ahead of the reader.
    pub download_window_blocks: usize,
    /// How long one request to a peer may take.
    pub request_timeout: Duration,
    /// How long a connection attempt may take.
    pub dial_timeout: Duration,
    /// How long a new connection has to prove membership.
    pub admission_timeout: Duration,
    /// Requests in flight to one peer.
    pub requests_per_peer: usize,
    /// Inbound requests of one peer that may wait.
    pub inbound_per_peer: usize,
    /// Commands and events that may wait between two components.
    pub queue: usize,
    /// How long an upload's claim lives without being closed.
    pub claim_ttl: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            chunk_min_bytes: 2 << 20,
            chunk_target_bytes: 3 << 20,
            chunk_max_bytes: CHUNK_MAX_BYTES,
            upload_window_chunks: 8,
            download_window_blocks: 8,
            request_timeout: Duration::from_secs(20),
            dial_timeout: Duration::from_secs(8),
            admission_timeout: Duration::from_secs(5),
            requests_per_peer: 64,
            inbound_per_peer: 64,
            queue: 1024,
            claim_ttl: Duration::from_secs(24 * 3600),
        }
    }
}

impl Limits {
    /// Bounds so small that a few KiB reach them.
    pub fn tiny() -> Self {
        Limits {
            chunk_min_bytes: 1 << 10,
            chunk_target_bytes: 4 << 10,
            chunk_max_bytes: 16 << 10,
            upload_window_chunks: 3,
            download_window_blocks: 3,
            request_timeout: Duration::from_secs(5),
            dial_timeout: Duration::from_secs(2),
            requests_per_peer: 4,
            inbound_per_peer: 4,
            queue: 16,
            claim_ttl: Duration::from_secs(3600),
            ..Limits::default()
        }
    }
}
