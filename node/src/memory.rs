//! How much memory the process holds, as the system counts it.

/// Bytes in memory; `None` where the system does not say (it does on Linux).
pub(crate) fn resident_bytes() -> Option<u64> {
    resident_in(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_from_what_the_system_says() {
        let status = "Name:\tquoit\nVmHWM:\t   99 kB\nVmRSS:\t  1234 kB\n";
        assert_eq!(resident_in(status), Some(1_234 << 10));
        assert_eq!(resident_in("VmRSS:\tmuch\n"), None);
    }
}
