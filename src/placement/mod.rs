//! Which peers hold which shards: computed from the member list, recorded nowhere.
//!
//! Pure functions over values.
