//! Reading the ledger back, through mailboxes.

use openvalidators_messages::{
    Sequence,
    ledger::{LedgerError, LoadSnapshot, ReadSteps, Snapshot, StoredStep},
    rewards::FoldError,
};
use openvalidators_runtime::{CallError, Mailbox};

/// A read is sent again so often when the ledger dies under it.
pub const READ_ATTEMPTS: usize = 3;

/// The largest gap that is filled while a sender waits.
pub const GAP_LIMIT_STEPS: u64 = 10_000;

/// The ledger could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// It refused.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// It could not be asked.
    #[error("the ledger could not be asked: {0}")]
    Call(#[from] CallError),
}

/// An owner's latest snapshot.
///
/// # Errors
/// When the ledger does not answer, or refuses.
pub async fn load_snapshot(load: &Mailbox<LoadSnapshot>, owner: &'static str) -> Result<Option<Snapshot>, ReadError> {
    Ok(load.call_again(LoadSnapshot { owner }, READ_ATTEMPTS).await??)
}

/// At most `limit` steps after `after`, in order; none when there are no more.
///
/// # Errors
/// When the ledger does not answer, or refuses.
pub async fn read_page(read: &Mailbox<ReadSteps>, after: Sequence, limit: usize) -> Result<Vec<StoredStep>, ReadError> {
    Ok(read.call_again(ReadSteps { after, limit }, READ_ATTEMPTS).await??)
}

/// Every step the ledger holds between `applied` and `asked`, neither included; `page_steps` in each read.
///
/// # Errors
/// When the gap is longer than [`GAP_LIMIT_STEPS`], or the ledger cannot be read.
pub async fn read_between(
    read: &Mailbox<ReadSteps>,
    applied: Sequence,
    asked: Sequence,
    page_steps: usize,
) -> Result<Vec<StoredStep>, FoldError> {
    let gap = |reason: String| FoldError::Gap { asked, applied, reason };
    if asked.0.saturating_sub(applied.0) > GAP_LIMIT_STEPS {
        return Err(gap(format!("it is longer than {GAP_LIMIT_STEPS} steps; restart to fold it")));
    }
    let (mut found, mut after) = (Vec::new(), applied);
    while after.next() < asked {
        let limit = page_steps.min((asked.0 - after.0 - 1) as usize);
        let page = read_page(read, after, limit).await.map_err(|error| gap(error.to_string()))?;
        let Some(last) = page.last() else { break };
        after = last.sequence;
        found.extend(page);
    }
    Ok(found)
}
