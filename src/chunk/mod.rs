//! Where to cut: streams into content-defined chunks, small files into packs.
//!
//! Pure functions over bytes and lengths; knows nothing of ciphers, codes, disk or network.
