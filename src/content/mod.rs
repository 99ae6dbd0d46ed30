//! Files and trees as streams: what `put` takes in and `get` gives out.
