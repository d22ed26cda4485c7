//! Open files: how many the process may have, and how many of them connections may take.
//!
//! Owns: the limit of the process. Leaves to others: counting connections (`edge`).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files that are kept for logs, snapshots, runs and files that are read again.
const KEPT: u64 = 1_024;

/// Lets the process have as many open files as it may; gives how many connections these are enough for, at most `max`.
pub fn for_connections(max: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Where it may not be raised it stays as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = getrlimit(Resource::Nofile).current.or(current);
    limit.map_or(max, |limit| share(limit, max))
}

/// All but what is kept; half where that leaves less.
fn share(limit: u64, max: usize) -> usize {
    usize::try_from(limit.saturating_sub(KEPT).max(limit / 2)).map_or(max, |share| share.min(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_logs() {
        let shares = [0, 200, 1_024, 2_048, 3_000, 20_000].map(|limit| share(limit, 8_192));
        assert_eq!(shares, [0, 100, 512, 1_024, 1_976, 8_192]);
    }
}
