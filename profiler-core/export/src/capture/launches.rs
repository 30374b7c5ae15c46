//! Launches by correlation id: whether each lay in the window, and when the last ones began.
//!
//! A device row belongs to the window if its launch does, and its launch may have been read long
//! before. Membership takes two bits a launch, in pages that are given up oldest first, so that
//! memory is bounded whatever the ids are; instants are kept for the newest launches only.

use std::collections::{HashMap, VecDeque};

use super::window::Belongs;

const PAGE_IDS: u64 = 4096;
/// 8 MiB of membership: 32 M launches with dense ids.
const MAX_PAGES: usize = 8192;
/// 2 MiB of instants: the newest 128 Ki launches.
const RECENT: usize = 1 << 17;

/// Where launches lay, by correlation id.
#[derive(Debug, Default)]
pub(super) struct Launches {
    pages: HashMap<u64, usize>,
    order: VecDeque<u64>,
    bits: Vec<[u64; (PAGE_IDS / 32) as usize]>,
    free: Vec<usize>,
    /// The page looked up last: number and place.
    last: Option<(u64, usize)>,
    recent: Vec<Recent>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    correlation: u64,
    start: u64,
}

impl Launches {
    /// Notes a launch.
    #[inline]
    pub(super) fn note(&mut self, correlation: u64, start: u64, belongs: Belongs) {
        if correlation == 0 {
            return;
        }
        if self.recent.is_empty() {
            self.recent = vec![Recent::default(); RECENT];
        }
        let recent = &mut self.recent[correlation as usize % RECENT];
        // A driver call inside a runtime call has its number; the outer one is the launch.
        if recent.correlation != correlation || start < recent.start {
            *recent = Recent { correlation, start };
        }
        let number = correlation / PAGE_IDS;
        let place = match self.last {
            Some((last, place)) if last == number => place,
            _ => self.page(number),
        };
        let bit = (correlation % PAGE_IDS) as usize * 2;
        let code = match belongs {
            Belongs::Outside => 1,
            Belongs::Inside => 2,
            Belongs::Warmup => 3,
        };
        let word = &mut self.bits[place][bit / 64];
        *word = *word & !(3 << (bit % 64)) | code << (bit % 64);
    }

    /// Where the launch of that number lay, `None` where none was noted.
    #[inline]
    pub(super) fn belongs(&mut self, correlation: u64) -> Option<Belongs> {
        let number = correlation / PAGE_IDS;
        let place = match self.last {
            Some((last, place)) if last == number => place,
            _ => {
                let place = *self.pages.get(&number)?;
                self.last = Some((number, place));
                place
            }
        };
        let bit = (correlation % PAGE_IDS) as usize * 2;
        match self.bits[place][bit / 64] >> (bit % 64) & 3 {
            1 => Some(Belongs::Outside),
            2 => Some(Belongs::Inside),
            3 => Some(Belongs::Warmup),
            _ => None,
        }
    }

    /// When the launch of that number began, if it is among the newest.
    #[inline]
    pub(super) fn start(&self, correlation: u64) -> Option<u64> {
        let recent = self.recent.get(correlation as usize % RECENT)?;
        (recent.correlation == correlation && correlation != 0).then_some(recent.start)
    }

    #[cold]
    fn page(&mut self, number: u64) -> usize {
        if let Some(&place) = self.pages.get(&number) {
            self.last = Some((number, place));
            return place;
        }
        if self.order.len() >= MAX_PAGES
            && let Some(oldest) = self.order.pop_front()
            && let Some(place) = self.pages.remove(&oldest)
        {
            self.free.push(place);
        }
        let empty = [0; (PAGE_IDS / 32) as usize];
        let place = match self.free.pop() {
            Some(place) => {
                self.bits[place] = empty;
                place
            }
            None => {
                self.bits.push(empty);
                self.bits.len() - 1
            }
        };
        self.pages.insert(number, place);
        self.order.push_back(number);
        self.last = Some((number, place));
        place
    }
}
