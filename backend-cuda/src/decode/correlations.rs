//! The numbers that tie calls to what they caused.

/// CUPTI numbers launches with 32 bits; long captures wrap.
#[derive(Default)]
pub(super) struct Correlations {
    newest: u64,
}

impl Correlations {
    /// The number as it would be with 64 bits: the one nearest to the newest seen.
    pub(super) fn widen(&mut self, id: u32) -> u64 {
        if id == 0 {
            return 0;
        }
        let behind = (self.newest as u32).wrapping_sub(id);
        let wide = if behind <= u32::MAX / 2 {
            self.newest.wrapping_sub(u64::from(behind))
        } else {
            self.newest + u64::from(behind.wrapping_neg())
        };
        // Before the first wrap nothing can lie behind zero.
        let wide = if wide > self.newest.saturating_add(1 << 32) { u64::from(id) } else { wide };
        self.newest = self.newest.max(wide);
        wide
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_go_on_past_32_bits() {
        let mut correlations = Correlations::default();
        assert_eq!(correlations.widen(5), 5);
        assert_eq!(correlations.widen(0), 0);
        assert_eq!(correlations.widen(3), 3, "late, before the first wrap");
        for id in [1 << 30, 1 << 31, 3 << 30, u32::MAX] {
            assert_eq!(correlations.widen(id), u64::from(id));
        }
        assert_eq!(correlations.widen(2), (1 << 32) + 2);
        assert_eq!(correlations.widen(u32::MAX - 1), u64::from(u32::MAX - 1), "late");
        assert_eq!(correlations.widen(3), (1 << 32) + 3);
    }
}
