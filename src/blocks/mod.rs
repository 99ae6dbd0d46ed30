//! The conductor: the one place where the order of seal, code, place, send, fetch, verify and open
//! is written.
