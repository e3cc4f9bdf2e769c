//! What the operating system says of this process, as far as it does (Linux).

use crate::Metrics;

/// Sets the process gauges; they stay away where `/proc` is not there.
pub(crate) fn collect(metrics: &Metrics) {
    if let Ok(status) = std::fs::read_to_string("/proc/self/status")
        && let Some(kib) = field(&status, "VmRSS:")
    {
        metrics.gauge("process_resident_memory_bytes", "Memory in use.", &[]).set(kib.saturating_mul(1024));
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        let count = i64::try_from(files.count()).unwrap_or(i64::MAX);
        metrics.gauge("process_open_fds", "Open files and connections.", &[]).set(count);
    }
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
        // The second field is a name in parentheses that may hold anything.
        && let Some((_, rest)) = stat.rsplit_once(')')
    {
        let ticks: i64 = rest.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<i64>().ok()).sum();
        // Ticks are hundredths of a second on every Linux that this runs on.
        metrics.gauge("samtal_process_cpu_milliseconds", "Processor time used.", &[]).set(ticks.saturating_mul(10));
    }
}

fn field(status: &str, name: &str) -> Option<i64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}
