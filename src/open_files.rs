//! The limit of open files: every connection to a miner is one.

use rlimit::Resource;

/// Places of the largest subnet.
const MINERS: u64 = 1_024;
/// Files and sockets besides those to miners: ledger, logs, models, chain, exporter, event loops.
const OTHERS: u64 = 256;

/// Raises the soft limit of open files to the hard one, and says so in the log when that is too little for a subnet of 1,024
/// miners at so many connections each.
pub fn raise_limit(connections_per_miner: usize) {
    let needed = needed(connections_per_miner);
    let limit = rlimit::increase_nofile_limit(u64::MAX).or_else(|error| {
        tracing::warn!(%error, "could not raise the limit of open files");
        Resource::NOFILE.get_soft()
    });
    match limit {
        Ok(limit) => {
            if let Some(warning) = too_low(limit, needed) {
                tracing::warn!("{warning}");
            }
        }
        Err(error) => tracing::warn!(%error, "could not read the limit of open files"),
    }
}

/// What [`raise_limit`] would say, without raising anything.
///
/// # Errors
/// When the limit cannot be read.
pub fn shortage(connections_per_miner: usize) -> std::io::Result<Option<String>> {
    Resource::NOFILE.get_hard().map(|limit| too_low(limit, needed(connections_per_miner)))
}

fn needed(connections_per_miner: usize) -> u64 {
    OTHERS + MINERS * connections_per_miner.max(1) as u64
}

fn too_low(limit: u64, needed: u64) -> Option<String> {
    (limit < needed).then(|| {
        format!(
            "this process may open {limit} files; for {MINERS} miners it needs {needed}, and miners beyond the limit will \
             count as unreachable: raise the hard limit (LimitNOFILE= of systemd, --ulimit nofile= of a container, \
             `ulimit -Hn` of a shell)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_limit_that_is_too_low_is_told() {
        assert_eq!(too_low(2_304, 2_304), None);
        let told = too_low(1_024, 2_304).unwrap();
        assert!(told.contains("1024 files") && told.contains("needs 2304") && told.contains("LimitNOFILE"), "{told}");
    }
}
