//! Entry points for fuzzing: one for every decoder that meets bytes of a peer, a disk or a user.
//!
//! An entry point takes any bytes, must not panic on them, and checks by itself that what was
//! accepted is written back as it was read. Where a checksum, a tag or a signature stands before
//! a decoder, the entry point also makes it fit, since somebody who means harm can.

mod checkpoint;
mod feeds;
mod format;
mod mounted;
mod names;
mod seeds;
mod store;
mod stored;
mod tails;
mod text;
mod upkeep;
mod volume;
mod wire;

pub use seeds::seeds;

/// One decoder.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name: that of its function, and of the directory of its corpus.
    pub name: &'static str,
    /// Feeds it.
    pub run: fn(&[u8]),
}

macro_rules! targets {
    ($($module:ident::$name:ident),* $(,)?) => {
        /// All of them.
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($name),
            run: $module::$name,
        }),*];
    };
}

targets! {
    wire::frame_head,
    wire::request,
    wire::response,
    wire::admission_listener,
    wire::admission_dialer,
    wire::peer_record,
    wire::membership_chain,
    wire::volume_chain,
    wire::content_frames,
    format::sealed_chunk,
    format::stripe_header,
    format::stripe_shards,
    format::shard_proof,
    format::extent_node,
    format::directory_node,
    format::tree_root,
    format::identity,
    format::key_container,
    format::volume_record,
    names::namespace_delta,
    names::namespace_row,
    feeds::sealed_delta,
    feeds::feed_record,
    feeds::feed_message,
    feeds::feed_answer,
    feeds::accord_message,
    feeds::clearing_message,
    feeds::pointer_row,
    tails::keeping_message,
    tails::tail_row,
    feeds::checkpoint_root,
    feeds::checkpoint_page,
    checkpoint::page_place,
    checkpoint::kept_checkpoint,
    checkpoint::snapshot_record,
    checkpoint::snapshot_root,
    upkeep::upkeep_ask,
    upkeep::upkeep_say,
    store::segment,
    store::version_file,
    volume::journal,
    volume::volume_tables,
    mounted::vfs_operations,
    text::link,
    text::ticket,
    text::volume_ticket,
    text::config,
    text::units,
    text::control_request,
}

/// Splits off the front: two bytes of length (the highest first), then so many bytes, as far as
/// they go.
fn split(data: &[u8]) -> (&[u8], &[u8]) {
    let Some((len, rest)) = data.split_first_chunk::<2>() else {
        return (&[], data);
    };
    let len = usize::from(u16::from_be_bytes(*len));
    rest.split_at(len.min(rest.len()))
}

/// The inverse of [`split`].
fn joined(front: &[u8], rest: &[u8]) -> Vec<u8> {
    let len = (front.len() as u16).to_be_bytes();
    [&len, front, rest].concat()
}
