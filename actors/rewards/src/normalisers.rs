//! What one normalisation remembers of all reward columns: that in force, or a candidate's.

use std::collections::BTreeMap;

use openvalidators_messages::Column;
use serde::{Deserialize, Serialize};

use crate::{
    normaliser::{Normalisation, Normaliser, SingleScore},
    robust::Robust,
};

/// The memory of a normalisation, by column. A step's own ([`Normalisation::Step`], [`Normalisation::Rank`]) has none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Normalisers {
    /// Of [`Normalisation::Running`].
    pub running: BTreeMap<String, Normaliser>,
    /// Of [`Normalisation::Robust`].
    pub robust: BTreeMap<String, Robust>,
}

// === impl Normalisers ===

impl Normalisers {
    /// Takes the scores of a step in, of which the robust one honours those that `counts`, and gives their shares.
    pub fn normalise(
        &mut self,
        normalisation: Normalisation,
        column: &Column,
        counts: &[bool],
        single: SingleScore,
    ) -> Column {
        let name = column.name.clone();
        let values = match normalisation {
            Normalisation::Robust => self.robust.entry(name.clone()).or_default().normalise(&column.values, counts),
            Normalisation::Running { .. } => {
                normalisation.apply(self.running.entry(name.clone()).or_default(), &column.values, single)
            }
            Normalisation::Step | Normalisation::Rank | Normalisation::Raw => {
                normalisation.apply(&mut Normaliser::default(), &column.values, single)
            }
        };
        Column { name, values }
    }

    /// Begins a column anew.
    pub fn forget(&mut self, column: &str) {
        self.running.remove(column);
        self.robust.remove(column);
    }

    /// Takes over what a candidate remembers that was promoted: it does not begin anew.
    pub fn adopt(&mut self, promoted: Self) {
        self.running.extend(promoted.running);
        self.robust.extend(promoted.robust);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promoted, one that remembers nothing must leave what the one before it knows.
    #[test]
    fn what_looks_at_a_step_alone_leaves_nothing_behind() {
        let column = Column { name: "dpo_reward_model".into(), values: vec![Some(1.0), Some(2.0)] };
        for normalisation in [Normalisation::Step, Normalisation::Rank, Normalisation::Raw] {
            let mut memory = Normalisers::default();
            memory.normalise(normalisation, &column, &[true; 2], SingleScore::VariesNot);
            assert_eq!(memory, Normalisers::default());
        }
    }
}
