//! How many files the system lets this process have open, and what that leaves for connections.

/// Files that are open besides connections at most, roughly: databases, uploads, connections to others.
const FILES: u64 = 1_024;

/// Raises the limit of open files, as far as the system lets us, to what so many connections need, and tells how many there
/// can be: where it allows too few, a quarter is kept for everything else, so that a crowd of connections costs nobody
/// their uploads.
pub(crate) fn connections(wanted: u32) -> usize {
    let needed = u64::from(wanted).saturating_add(FILES);
    // What cannot be told is taken for enough: then it is as if we had not asked.
    let allowed = match rlimit::Resource::NOFILE.get_soft() {
        Ok(soft) if soft >= needed => soft,
        _ => rlimit::increase_nofile_limit(needed).unwrap_or(u64::MAX),
    };
    let connections = within(allowed, wanted);
    if connections < wanted as usize {
        tracing::warn!(
            open_files = allowed,
            connections,
            "the system lets us open too few files for http.connections_max = {wanted} (ulimit -n, or LimitNOFILE in systemd)"
        );
    }
    connections
}

/// How many connections there can be where so many files may be open.
fn within(allowed: u64, wanted: u32) -> usize {
    let most = if allowed >= u64::from(wanted).saturating_add(FILES) { allowed } else { allowed - allowed / 4 };
    usize::try_from(most.min(u64::from(wanted))).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn connections_leave_files_for_the_rest() {
        for (allowed, wanted, connections) in [
            (1_024, 16_384, 768),
            (1_024, 100, 100),
            (20_000, 16_384, 16_384),
            (17_000, 16_384, 12_750),
            (0, 16, 0),
            (u64::MAX, 16, 16),
        ] {
            assert_eq!(within(allowed, wanted), connections, "{allowed} {wanted}");
        }
    }
}
