//! Memory that the process holds without using it.

/// Bytes that are resident now; none where the system does not say.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Lets all threads share one arena of the C library's allocator; to be called before there are any
/// others. It can give back the memory of its first arena only, and each further one keeps what its
/// threads once needed: a peer that has put a file stayed at three times the memory of one that has
/// not. The threads here allocate few and large buffers, so sharing costs nothing that can be measured.
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

/// Gives the system back what the allocator keeps of freed memory. Walks all of its lists: for idle
/// moments, and not for the reactor.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(
            unsafe_code,
            reason = "there is no safe door to the C library's allocator"
        )]
        // SAFETY: takes no pointers, and may be called by any thread at any time (malloc_trim(3)).
        let _ = unsafe { libc::malloc_trim(0) };
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
