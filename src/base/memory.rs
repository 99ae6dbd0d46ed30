//! Memory that the process holds without using it.

/// Bytes that are resident now; none where the system does not say.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// With the C library's allocator an operation on names took twice as long: what one thread allocates another
/// frees here, and its arenas are locked for that. `docs/ARCHITECTURE.md` has the figures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long freed memory waits to be used again before the system gets it back, in milliseconds: with the usual
/// 10 a put of 1 GiB, which goes on using the same buffers, costs a tenth more.
const PURGE_DELAY_MS: libc::c_long = 1000;
/// The number of that option in `mimalloc.h` (`mi_option_purge_delay`), which the crate does not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Sets the allocator up; to be called before it has done much.
pub fn set_up() {
    #[expect(unsafe_code, reason = "there is no safe door to the allocator")]
    // SAFETY: takes two numbers.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MS);
    }
}

/// Gives the system back what the allocator keeps of freed memory. Walks all that it has: for idle moments,
/// and not for the reactor.
pub fn give_back() {
    #[expect(unsafe_code, reason = "there is no safe door to the allocator")]
    // SAFETY: takes no pointers, and may be called by any thread at any time.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_memory_goes_back() {
        // In pieces that the allocator does not map one by one, the last of which holds the others.
        let pieces: Vec<Vec<u8>> = (0..4096).map(|_| vec![1u8; 16 << 10]).collect();
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
}
