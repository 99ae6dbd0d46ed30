//! The only disk I/O of a peer's own data: shards, claims and small records in one log.
