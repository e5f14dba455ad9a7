//! What the rows of a request begin with, computed once.
//!
//! The rows that a causal network is asked about share their prompt. Their longest common prefix runs once, and its keys
//! and values serve every row; it is a prefix of token *ids*, because a merge may cross the boundary between prompt and
//! completion.

use candle_core::{Result, Tensor};

use crate::models::{CausalBody, Packed, Past};

/// A row: its ids, and their types where its tokenizer said any.
pub(crate) type TypedRow<'a> = (&'a [u32], &'a [u32]);

/// The longest common prefix of some rows, run.
pub(crate) struct SharedPrefix {
    tokens: usize,
    /// States from position `kept_from` to the end of the prefix; none where no position is left.
    states: Option<Tensor>,
    kept_from: usize,
    past: Past,
}

/// States of some rows that follow a prefix.
pub(crate) struct RowStates {
    /// The kept states of the prefix, then the states of each row.
    states: Tensor,
    prefix_tokens: usize,
    kept_from: usize,
    /// Where in `states` each row's own begin.
    starts: Vec<usize>,
}

// === impl SharedPrefix ===

impl SharedPrefix {
    /// Runs the first `tokens` of `row`. States from position `kept_from` on are kept for [`RowStates::place`].
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn compute(body: &dyn CausalBody, row: TypedRow<'_>, tokens: usize, kept_from: usize) -> Result<Self> {
        let kept_from = kept_from.min(tokens);
        if tokens == 0 {
            return Ok(Self { tokens, states: None, kept_from, past: body.no_past()? });
        }
        let (ids, types) = row;
        let shared = Packed::typed([(&ids[..tokens], types.get(..tokens).unwrap_or(&[]))]);
        let (states, past) = body.extend(&shared, &body.no_past()?)?;
        let kept = tokens - kept_from;
        let states = if kept == 0 { None } else { Some(states.narrow(0, kept_from, kept)?.contiguous()?) };
        Ok(Self { tokens, states, kept_from, past })
    }

    /// How many tokens the rows share.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Their keys and values.
    pub(crate) fn past(&self) -> &Past {
        &self.past
    }

    /// Runs what `rows`, all of which begin with this prefix, have of their own, in one batch. None where there is no state
    /// at all.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn run(&self, body: &dyn CausalBody, rows: &[TypedRow<'_>]) -> Result<Option<RowStates>> {
        let batch = Packed::typed(
            rows.iter().map(|(ids, types)| (&ids[self.tokens..], types.get(self.tokens..).unwrap_or(&[]))),
        );
        let own = if batch.ids().is_empty() { None } else { Some(body.forward(&batch, &self.past)?) };
        let states: Vec<&Tensor> = self.states.iter().chain(&own).collect();
        if states.is_empty() {
            return Ok(None);
        }
        let mut starts = Vec::with_capacity(rows.len());
        let mut start = self.tokens - self.kept_from;
        for length in batch.lengths() {
            starts.push(start);
            start += length;
        }
        let (prefix_tokens, kept_from) = (self.tokens, self.kept_from);
        Ok(Some(RowStates { states: Tensor::cat(&states, 0)?, prefix_tokens, kept_from, starts }))
    }
}

// === impl RowStates ===

impl RowStates {
    /// Where the state of `position` of `row` is, for [`Self::at`].
    pub(crate) fn place(&self, row: usize, position: usize) -> u32 {
        let place = match position.checked_sub(self.prefix_tokens) {
            None => position - self.kept_from,
            Some(own) => self.starts[row] + own,
        };
        place as u32
    }

    /// Whether they are computed by a GPU.
    pub(crate) fn is_on_gpu(&self) -> bool {
        self.states.device().is_cuda()
    }

    /// The states at these places, `[places, hidden]`.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn at(&self, places: &[u32]) -> Result<Tensor> {
        self.states.index_select(&Tensor::new(places, self.states.device())?, 0)
    }
}

/// How many tokens all of `rows` begin with.
pub(crate) fn longest_common_prefix<'a>(rows: impl IntoIterator<Item = &'a [u32]>) -> usize {
    let mut rows = rows.into_iter();
    let Some(first) = rows.next() else { return 0 };
    rows.fold(first.len(), |shared, row| first[..shared].iter().zip(row).take_while(|(a, b)| a == b).count())
}
