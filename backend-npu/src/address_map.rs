//! A small table from addresses to what is known of them.

/// Places in the table; a power of two.
const PLACES: usize = 4096;

/// Remembers what was found at the addresses that were asked for last. Two addresses that share a
/// place replace each other, so that it neither grows nor searches.
#[derive(Debug)]
pub(crate) struct AddressMap<T> {
    places: Vec<(u64, T)>,
}

impl<T> Default for AddressMap<T> {
    fn default() -> Self {
        Self { places: Vec::new() }
    }
}

impl<T: Copy + Default> AddressMap<T> {
    /// What is known of an address; nothing is of 0.
    #[inline]
    pub(crate) fn find(&self, address: u64) -> Option<T> {
        let (known, value) = self.places.get(place(address))?;
        (*known == address && address != 0).then_some(*value)
    }

    /// Remembers.
    pub(crate) fn insert(&mut self, address: u64, value: T) {
        if self.places.is_empty() {
            self.places = vec![(0, T::default()); PLACES];
        }
        self.places[place(address)] = (address, value);
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.places.clear();
    }
}

/// Fibonacci hashing: the upper bits of a product depend on all bits of the address.
fn place(address: u64) -> usize {
    (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_until_another_takes_its_place() {
        let mut map = AddressMap::default();
        assert_eq!(map.find(64), None);
        for address in 1..20_000_u64 {
            map.insert(address * 8, address);
            assert_eq!(map.find(address * 8), Some(address));
        }
        assert_eq!(map.find(0), None);
        map.clear();
        assert_eq!(map.find(8), None);
    }
}
