use std::sync::atomic::{AtomicU32, Ordering};

/// After so many new leads in a row the next one is taken for new, too.
const IN_A_ROW: u32 = 1_000;

/// Whether leads that arrive are new, as a rule. Then none is asked for first: its document is written as the first one, and
/// where it is not, the write is refused. That is dear, as it refuses a whole batch with it, and so it must be rare.
pub(crate) struct Newcomers {
    in_a_row: AtomicU32,
}

impl Newcomers {
    /// Takes the first for new.
    pub(crate) fn new() -> Self {
        Self { in_a_row: AtomicU32::new(IN_A_ROW) }
    }

    /// Whether the next one will be new, as far as can be told.
    pub(super) fn are_the_rule(&self) -> bool {
        self.in_a_row.load(Ordering::Relaxed) >= IN_A_ROW
    }

    /// One was looked for, or was found out to be known.
    pub(super) fn saw(&self, is_new: bool) {
        if is_new {
            self.in_a_row.fetch_add(1, Ordering::Relaxed);
        } else {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_was_known_makes_the_next_be_looked_for() {
        let newcomers = Newcomers::new();
        assert!(newcomers.are_the_rule());
        newcomers.saw(false);
        for _ in 0..IN_A_ROW {
            assert!(!newcomers.are_the_rule());
            newcomers.saw(true);
        }
        assert!(newcomers.are_the_rule());
    }
}
