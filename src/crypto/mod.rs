//! Sealing chunks, keys, signatures, invitations.
//!
//! Pure functions over bytes; knows nothing of chunk borders, codes, disk or network.
