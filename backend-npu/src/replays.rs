//! Which launches were seen before.

/// Launches whose numbers are remembered one by one: 128 KiB.
const WINDOW: u64 = 1 << 20;

/// Numbers that lie further ahead than this are no launches.
const WILDEST_JUMP: u64 = 1 << 40;

/// Tells numbers that come again from those that come late.
///
/// Numbers grow; what lies far behind the newest was launched long ago and comes again.
#[derive(Debug, Default)]
pub(crate) struct Replays {
    newest: u64,
    bits: Vec<u64>,
}

impl Replays {
    /// Whether `launch` was seen before; it is from now on. 0 is no launch.
    pub(crate) fn is_repeated(&mut self, launch: u64) -> bool {
        if launch == 0 {
            return false;
        }
        if self.bits.is_empty() {
            self.bits = vec![0; (WINDOW / 64) as usize];
            self.newest = launch;
        }
        if launch > self.newest {
            if launch - self.newest > WILDEST_JUMP {
                return false;
            }
            self.forget_up_to(launch);
        } else if self.newest - launch >= WINDOW {
            return true;
        }
        let word = &mut self.bits[(launch % WINDOW / 64) as usize];
        let bit = 1 << (launch % 64);
        let was_seen = *word & bit != 0;
        *word |= bit;
        was_seen
    }

    /// Moves the window so that it ends at `launch`.
    fn forget_up_to(&mut self, launch: u64) {
        if launch - self.newest >= WINDOW {
            self.bits.fill(0);
        } else {
            for number in self.newest + 1..=launch {
                self.bits[(number % WINDOW / 64) as usize] &= !(1 << (number % 64));
            }
        }
        self.newest = launch;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_comes_again_is_told_from_one_that_comes_late() {
        let mut replays = Replays::default();
        let repeated: Vec<bool> =
            [5, 7, 6, 5, 0, 0, 8].into_iter().map(|n| replays.is_repeated(n)).collect();
        assert_eq!(repeated, [false, false, false, true, false, false, false]);
    }

    #[test]
    fn what_lies_far_behind_comes_again_and_the_window_moves() {
        let mut replays = Replays::default();
        assert!(!replays.is_repeated(10));
        assert!(!replays.is_repeated(10 + WINDOW));
        assert!(replays.is_repeated(10));
        assert!(!replays.is_repeated(11), "within the window, and never seen");
        assert!(!replays.is_repeated(10 + 5 * WINDOW));
        assert!(!replays.is_repeated(10 + 5 * WINDOW - 1));
    }

    #[test]
    fn wild_numbers_move_nothing() {
        let mut replays = Replays::default();
        assert!(!replays.is_repeated(10));
        assert!(!replays.is_repeated(u64::MAX));
        assert!(!replays.is_repeated(11));
        assert!(replays.is_repeated(11));
    }
}
