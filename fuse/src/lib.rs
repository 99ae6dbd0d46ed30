//! An inode-level filesystem interface over FUSE. Knows the kernel and nothing of Cairn.
