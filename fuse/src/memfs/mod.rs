//! A complete filesystem in memory.
