//! Which cores shards are pinned to.

use std::num::NonZeroUsize;

/// Why shards cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// The allowed cores could not be found out.
    #[error("cannot find out which cores this process may use")]
    Unknown,
    /// A configured core is not among the allowed ones.
    #[error("core {core} is not one this process may use ({allowed:?})")]
    NotAllowed {
        /// As configured.
        core: usize,
        /// What the process's affinity mask allows.
        allowed: Vec<usize>,
    },
}

/// A core for each shard: the configured `cores`, or all that this process may use, in turn. With more shards than
/// cores, several share one; that serves tests, not throughput.
///
/// # Errors
/// [`CoreError`].
pub fn choose_cores(shards: Option<NonZeroUsize>, cores: &[usize]) -> Result<Vec<usize>, CoreError> {
    let allowed: Vec<usize> = core_affinity::get_core_ids()
        .ok_or(CoreError::Unknown)?
        .into_iter()
        .map(|core| core.id)
        .collect();
    place(shards, cores, &allowed)
}

fn place(shards: Option<NonZeroUsize>, cores: &[usize], allowed: &[usize]) -> Result<Vec<usize>, CoreError> {
    if let Some(&core) = cores.iter().find(|core| !allowed.contains(core)) {
        return Err(CoreError::NotAllowed {
            core,
            allowed: allowed.to_vec(),
        });
    }
    let usable = if cores.is_empty() { allowed } else { cores };
    let count = shards.map_or(usable.len(), NonZeroUsize::get);
    if usable.is_empty() {
        return Err(CoreError::Unknown);
    }
    Ok(usable.iter().copied().cycle().take(count).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_take_cores_in_turn() {
        let check = |shards: usize, cores: &[usize], expected: &[usize]| {
            let placed = place(NonZeroUsize::new(shards), cores, &[0, 1, 5]);
            assert_eq!(placed.as_deref(), Ok(expected), "{shards} on {cores:?}");
        };
        check(0, &[], &[0, 1, 5]);
        check(0, &[5, 1], &[5, 1]);
        check(2, &[], &[0, 1]);
        check(4, &[1, 5], &[1, 5, 1, 5]);
    }

    #[test]
    fn a_core_that_is_not_ours_is_refused() {
        let refused = place(None, &[1, 3], &[0, 1]);
        assert_eq!(
            refused,
            Err(CoreError::NotAllowed {
                core: 3,
                allowed: vec![0, 1]
            })
        );
        assert_eq!(place(None, &[], &[]), Err(CoreError::Unknown));
    }
}
