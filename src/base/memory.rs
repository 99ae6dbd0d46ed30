//! Memory that the process holds without using it.

use std::alloc::{GlobalAlloc, Layout, System};

use mimalloc::MiMalloc;

/// Bytes that are resident now; none where the system does not say.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// From so many bytes on memory is the C library's.
const LARGE_BYTES: usize = 64 << 10;

/// Small things, of which there are many, from mimalloc: what one thread allocates another frees here, and the
/// C library locks its arenas for that. Buffers from the C library, which gives the same ones out again: mimalloc takes fresh
/// memory for each thread's, and fresh memory is what costs. `docs/ARCHITECTURE.md` has the figures.
struct Allocator;

const fn is_large(bytes: usize) -> bool {
    bytes >= LARGE_BYTES
}

#[expect(unsafe_code, reason = "an allocator is one")]
// SAFETY: each call is handed on, as it came, to one of two allocators that keep the contract. Which one, the size
// alone decides, and callers give the size with the memory again; where a new size is the other one's, memory is
// taken from that and what both sizes have is copied.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match is_large(layout.size()) {
            true => unsafe { System.alloc(layout) },
            false => unsafe { MiMalloc.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match is_large(layout.size()) {
            true => unsafe { System.alloc_zeroed(layout) },
            false => unsafe { MiMalloc.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        match is_large(layout.size()) {
            true => unsafe { System.dealloc(at, layout) },
            false => unsafe { MiMalloc.dealloc(at, layout) },
        }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match (is_large(layout.size()), is_large(size)) {
            (true, true) => unsafe { System.realloc(at, layout, size) },
            (false, false) => unsafe { MiMalloc.realloc(at, layout, size) },
            _ => unsafe {
                let new = Layout::from_size_align_unchecked(size, layout.align());
                let to = self.alloc(new);
                if !to.is_null() {
                    at.copy_to_nonoverlapping(to, layout.size().min(size));
                    self.dealloc(at, layout);
                }
                to
            },
        }
    }
}

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Lets all threads share one arena of the C library's allocator; to be called before there are any
/// others. It can give back the memory of its first arena only, and each further one keeps what its
/// threads once needed: a peer that has put a file stayed at three times the memory of one that has
/// not. The threads here get few and large buffers from it, so sharing costs nothing that can be measured.
pub fn share_arena() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(
            unsafe_code,
            reason = "there is no safe door to the C library's allocator"
        )]
        // SAFETY: takes two numbers; called before other threads are started (mallopt(3)).
        let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
}

/// Gives the system back what the allocators keep of freed memory. Walks all that they have: for idle moments,
/// and not for the reactor.
pub fn give_back() {
    #[expect(unsafe_code, reason = "there is no safe door to the allocators")]
    // SAFETY: takes no pointers, and may be called by any thread at any time.
    unsafe {
        libmimalloc_sys::mi_collect(true);
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_memory_goes_back() {
        // In pieces that the allocator does not map one by one, the last of which holds the others.
        let mut pieces: Vec<Vec<u8>> = (0..4096).map(|_| vec![1u8; 16 << 10]).collect();
        pieces.extend((0..64).map(|_| vec![1u8; 100 << 10]));
        let last = vec![1u8; 1 << 10];
        let Some(before) = resident_bytes() else {
            return;
        };
        drop(pieces);
        give_back();
        let after = resident_bytes().unwrap();
        assert!(after + (32 << 20) < before, "{before} bytes, then {after}");
        drop(last);
    }

    #[test]
    fn memory_that_grows_or_shrinks_keeps_what_it_has() {
        let mut bytes: Vec<u8> = Vec::new();
        for number in 0..3 * LARGE_BYTES {
            bytes.push(number as u8);
            if number.is_power_of_two() {
                bytes.shrink_to_fit();
            }
        }
        for len in [2 * LARGE_BYTES, LARGE_BYTES, LARGE_BYTES - 1, 7] {
            bytes.truncate(len);
            bytes.shrink_to_fit();
            assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == at as u8));
        }
        assert!(vec![0u8; LARGE_BYTES].iter().all(|byte| *byte == 0));
    }
}
