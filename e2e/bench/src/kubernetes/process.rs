//! What the kernel says of a process: its memory and its processor time.

use anyhow::Context;
use std::time::Duration;

/// Length of the kernel's unit of processor time (USER_HZ), the same on every architecture that matters here.
const TICK: Duration = Duration::from_millis(10);

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// What it has now.
    pub(super) resident: u64,
    /// The most that it had.
    pub(super) peak: u64,
}

/// Processor time of a process so far, its own and the kernel's for it.
pub(super) fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    parse_time(&text).with_context(|| format!("{path} is not as proc(5) has it"))
}

/// Memory of a process.
pub(super) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    parse_memory(&text).with_context(|| format!("{path} is not as proc(5) has it"))
}

/// Fields 14 and 15 of proc(5)'s stat. The second field is a name in parentheses, which may hold anything.
fn parse_time(stat: &str) -> Option<Duration> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * (user + system))
}

fn parse_memory(status: &str) -> Option<Memory> {
    let of = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let number = line.strip_prefix(':')?.trim().strip_suffix(" kB")?;
        Some(number.trim().parse::<u64>().ok()? * 1024)
    };
    Some(Memory {
        resident: of("VmRSS")?,
        peak: of("VmHWM")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_that_of_both_modes() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 900 0 0 0 31 12 7 8 20 0 5 0 100 0 0";
        assert_eq!(parse_time(stat), Some(Duration::from_millis(430)));
        assert_eq!(parse_time("42 (felix) S 1"), None);
        assert!(processor_time(std::process::id()).is_ok());
    }

    #[test]
    fn memory_is_in_bytes() {
        let status = "Name:\tfelix\nVmPeak:\t  9 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let memory = Memory {
            resident: 1 << 20,
            peak: 2 << 20,
        };
        assert_eq!(parse_memory(status), Some(memory));
        assert_eq!(parse_memory("VmHWM: 1 kB\n"), None);
    }
}
