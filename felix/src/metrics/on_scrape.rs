//! Figures that the kernel keeps: read when somebody asks, in place of being kept twice.
//!
//! A figure that cannot be read is left out, never shown as zero.

use super::MetricsError;
use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};
use std::collections::HashMap;
use std::fs;

/// One figure: name, help, whether it only grows, and how to read it.
struct Figure {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    read: fn() -> Option<f64>,
}

/// The clock ticks a second in which the kernel tells processor times; 100 on every architecture that Linux still has.
const TICKS_PER_SECOND: f64 = 100.0;

const PROCESS: &[Figure] = &[
    Figure {
        name: "process_cpu_seconds_total",
        help: "Total user and system CPU time spent in seconds.",
        kind: MetricType::COUNTER,
        read: || Some(stat_ticks(14)? + stat_ticks(15)?).map(|ticks| ticks / TICKS_PER_SECOND),
    },
    Figure {
        name: "process_open_fds",
        help: "Number of open file descriptors.",
        kind: MetricType::GAUGE,
        // The folder that is being listed is itself open.
        read: || Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64),
    },
    Figure {
        name: "process_max_fds",
        help: "Maximum number of open file descriptors.",
        kind: MetricType::GAUGE,
        read: || limit(&fs::read_to_string("/proc/self/limits").ok()?, "Max open files"),
    },
    Figure {
        name: "process_virtual_memory_bytes",
        help: "Virtual memory size in bytes.",
        kind: MetricType::GAUGE,
        read: || status("VmSize").map(|kibibytes| kibibytes * 1024.0),
    },
    Figure {
        name: "process_resident_memory_bytes",
        help: "Resident memory size in bytes.",
        kind: MetricType::GAUGE,
        read: || status("VmRSS").map(|kibibytes| kibibytes * 1024.0),
    },
    Figure {
        name: "process_threads",
        help: "Number of OS threads in the process.",
        kind: MetricType::GAUGE,
        read: || status("Threads"),
    },
    Figure {
        name: "process_start_time_seconds",
        help: "Start time of the process since unix epoch in seconds.",
        kind: MetricType::GAUGE,
        read: || {
            let boot = labelled(&fs::read_to_string("/proc/stat").ok()?, "btime")?;
            Some(boot + stat_ticks(22)? / TICKS_PER_SECOND)
        },
    },
];

const CONNTRACK: &[Figure] = &[
    Figure {
        name: "felix_conntrack_entries",
        help: "Number of connections that the kernel tracks on this node.",
        kind: MetricType::GAUGE,
        read: || number_in("/proc/sys/net/netfilter/nf_conntrack_count"),
    },
    Figure {
        name: "felix_conntrack_limit",
        help: "Number of connections that the kernel can track on this node; new ones are dropped beyond it.",
        kind: MetricType::GAUGE,
        read: || number_in("/proc/sys/net/netfilter/nf_conntrack_max"),
    },
];

/// Adds figures of the process.
pub(super) fn register_process(registry: &Registry) -> Result<(), MetricsError> {
    register(registry, PROCESS)
}

/// Adds figures of connection tracking.
pub(super) fn register_conntrack(registry: &Registry) -> Result<(), MetricsError> {
    register(registry, CONNTRACK)
}

fn register(registry: &Registry, figures: &'static [Figure]) -> Result<(), MetricsError> {
    for figure in figures {
        let refused = |source| MetricsError::Register {
            name: figure.name.to_owned(),
            source,
        };
        let description = Desc::new(
            figure.name.to_owned(),
            figure.help.to_owned(),
            Vec::new(),
            HashMap::new(),
        )
        .map_err(refused)?;
        registry
            .register(Box::new(OnScrape { figure, description }))
            .map_err(refused)?;
    }
    Ok(())
}

struct OnScrape {
    figure: &'static Figure,
    description: Desc,
}

impl Collector for OnScrape {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(value) = (self.figure.read)() else {
            return Vec::new();
        };
        let mut metric = Metric::default();
        if self.figure.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        let mut family = MetricFamily::default();
        family.set_name(self.figure.name.to_owned());
        family.set_help(self.figure.help.to_owned());
        family.set_field_type(self.figure.kind);
        family.set_metric(vec![metric]);
        vec![family]
    }
}

fn number_in(path: &str) -> Option<f64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn status(label: &str) -> Option<f64> {
    labelled(&fs::read_to_string("/proc/self/status").ok()?, label)
}

fn stat_ticks(field: usize) -> Option<f64> {
    stat_field(&fs::read_to_string("/proc/self/stat").ok()?, field)
}

/// A field of `/proc/<pid>/stat`, counted from 1 as in proc(5).
fn stat_field(stat: &str, field: usize) -> Option<f64> {
    // The second field is the program's name, which may have spaces and brackets in it; nothing behind it has.
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name
        .split_ascii_whitespace()
        .nth(field.checked_sub(3)?)?
        .parse()
        .ok()
}

/// The first number of the line that begins with a label.
fn labelled(text: &str, label: &str) -> Option<f64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()?.trim_end_matches(':') == label)
            .then(|| words.next())??
            .parse()
            .ok()
    })
}

/// The soft limit of `/proc/<pid>/limits`; infinity where there is none.
fn limit(limits: &str, label: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(label))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let stat = "12 (a) b ) 3) S 1 2 3 4 5 6 7 8 9 10 700 300 13 14 15 16 17 18 4242 20";
        assert_eq!(stat_field(stat, 14), Some(700.0));
        assert_eq!(stat_field(stat, 15), Some(300.0));
        assert_eq!(stat_field(stat, 22), Some(4242.0));
        assert_eq!(stat_field(stat, 99), None);
        assert_eq!(stat_field(stat, 1), None);
        assert_eq!(stat_field("", 14), None);
    }

    #[test]
    fn labels_are_whole_words() {
        let status = "VmRSSx:\t 1 kB\nVmRSS:\t  2048 kB\nThreads:\t7\nEmpty:\n";
        assert_eq!(labelled(status, "VmRSS"), Some(2048.0));
        assert_eq!(labelled(status, "Threads"), Some(7.0));
        assert_eq!(labelled(status, "Empty"), None);
        assert_eq!(labelled(status, "VmSize"), None);
    }

    #[test]
    fn limits_may_be_absent() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  4096  files\nMax cpu time unlimited unlimited seconds\n";
        assert_eq!(limit(limits, "Max open files"), Some(1024.0));
        assert_eq!(limit(limits, "Max cpu time"), Some(f64::INFINITY));
        assert_eq!(limit(limits, "Max nothing"), None);
    }

    #[test]
    fn every_figure_of_this_process_can_be_read() {
        for figure in PROCESS {
            let value = (figure.read)();
            assert!(
                value.is_some_and(|value| value >= 0.0),
                "{} is {value:?}",
                figure.name
            );
        }
    }
}
