//! Launches by correlation id: whether each lay in the window, and when the last ones began.
//!
//! A device row belongs to the window if its launch does, and its launch may have been read long
//! before. Membership takes two bits a launch, in pages that are given up oldest first, so that
//! memory is bounded whatever the ids are; of a page whose launches all lay alike, as nearly all do,
//! only that is kept. It holds for the ids between them too, which belong to calls that were not
//! recorded: ids are given in the order of the calls. Instants are kept for the newest launches only.

use std::collections::{HashMap, VecDeque};

use super::window::Belongs;

const PAGE_IDS: u64 = 4096;
/// 8 MiB of membership: 32 M launches with dense ids.
const MAX_PAGES: usize = 8192;
/// So many pages behind the newest one, a page gets no launches any more, save stragglers.
const SETTLED_PAGES: usize = 64;
/// 2 MiB of instants: the newest 128 Ki launches.
const RECENT: usize = 1 << 17;

type Bits = [u64; (PAGE_IDS / 32) as usize];
/// The lower bit of each launch of a word.
const EACH: u64 = u64::MAX / 3;

/// Where launches lay, by correlation id.
#[derive(Debug, Default)]
pub(super) struct Launches {
    pages: HashMap<u64, Page>,
    order: VecDeque<u64>,
    bits: Vec<Bits>,
    free: Vec<usize>,
    /// The page looked up last: number and place.
    last: Option<(u64, usize)>,
    recent: Vec<Recent>,
}

/// What is known of the launches of a page.
#[derive(Clone, Copy, Debug)]
enum Page {
    /// Each by itself, at that place.
    Each(usize),
    /// All of them lay alike: each has this code.
    Alike(u64),
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
            _ => match *self.pages.get(&number)? {
                Page::Each(place) => {
                    self.last = Some((number, place));
                    place
                }
                Page::Alike(code) => return belongs(code),
            },
        };
        let bit = (correlation % PAGE_IDS) as usize * 2;
        belongs(self.bits[place][bit / 64] >> (bit % 64) & 3)
    }

    /// When the launch of that number began, if it is among the newest.
    #[inline]
    pub(super) fn start(&self, correlation: u64) -> Option<u64> {
        let recent = self.recent.get(correlation as usize % RECENT)?;
        (recent.correlation == correlation && correlation != 0).then_some(recent.start)
    }

    /// The place of a page's launches, which is made where there is none.
    #[cold]
    fn page(&mut self, number: u64) -> usize {
        let place = match self.pages.get(&number).copied() {
            Some(Page::Each(place)) => place,
            Some(Page::Alike(code)) => self.place(number, code),
            None => {
                self.make_room();
                self.order.push_back(number);
                self.place(number, 0)
            }
        };
        self.last = Some((number, place));
        place
    }

    /// Gives a page a place for its launches, each of which has that code.
    fn place(&mut self, number: u64, code: u64) -> usize {
        let bits = [code * EACH; (PAGE_IDS / 32) as usize];
        let place = match self.free.pop() {
            Some(place) => {
                self.bits[place] = bits;
                place
            }
            None => {
                self.bits.push(bits);
                self.bits.len() - 1
            }
        };
        self.pages.insert(number, Page::Each(place));
        place
    }

    /// Before another page comes, the oldest is given up where there are too many, and one that
    /// gets no more launches takes no more place than it needs.
    fn make_room(&mut self) {
        if self.order.len() >= MAX_PAGES
            && let Some(oldest) = self.order.pop_front()
            && let Some(Page::Each(place)) = self.pages.remove(&oldest)
        {
            self.free.push(place);
        }
        let settled = self.order.len().checked_sub(SETTLED_PAGES).and_then(|at| self.order.get(at));
        if let Some(settled) = settled
            && let Some(page) = self.pages.get_mut(settled)
            && let Page::Each(place) = *page
            && let Some(code) = alike(&self.bits[place])
        {
            *page = Page::Alike(code);
            self.free.push(place);
            // The place may be the next page's.
            self.last = None;
        }
    }
}

fn belongs(code: u64) -> Option<Belongs> {
    match code {
        1 => Some(Belongs::Outside),
        2 => Some(Belongs::Inside),
        3 => Some(Belongs::Warmup),
        _ => None,
    }
}

/// The code that all launches of a page have, where they all lay alike.
fn alike(bits: &Bits) -> Option<u64> {
    let first = bits.iter().find(|word| **word != 0)?;
    let code = first >> (first.trailing_zeros() & !1) & 3;
    let is_alike = |word: &u64| {
        let known = (word | word >> 1) & EACH;
        *word == known * code
    };
    bits.iter().all(is_alike).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Launches of so many pages, all in the window but those of every tenth page, half of whose
    /// launches lay outside.
    fn noted(pages: u64) -> Launches {
        let mut launches = Launches::default();
        for correlation in 1..pages * PAGE_IDS {
            launches.note(correlation, correlation * 10, lies(correlation));
        }
        launches
    }

    fn lies(correlation: u64) -> Belongs {
        match (correlation / PAGE_IDS).is_multiple_of(10) && correlation.is_multiple_of(2) {
            true => Belongs::Outside,
            false => Belongs::Inside,
        }
    }

    #[test]
    fn pages_of_launches_that_lay_alike_take_no_place() {
        let mut launches = noted(1_000);
        let places = launches.bits.len();
        assert!(places < 100 + SETTLED_PAGES + 10, "{places} places of 1000 pages, 100 mixed");
        for correlation in 1..1_000 * PAGE_IDS {
            assert_eq!(launches.belongs(correlation), Some(lies(correlation)), "{correlation}");
        }
        assert_eq!(launches.belongs(0), None);
        assert_eq!(launches.belongs(1_000 * PAGE_IDS), None);
    }

    #[test]
    fn a_straggler_of_a_page_that_lay_alike_changes_itself_alone() {
        let mut launches = noted(200);
        let straggler = 15 * PAGE_IDS + 77;
        launches.note(straggler, 1, Belongs::Warmup);
        for correlation in 1..200 * PAGE_IDS {
            let lay = if correlation == straggler { Belongs::Warmup } else { lies(correlation) };
            assert_eq!(launches.belongs(correlation), Some(lay), "{correlation}");
        }
    }

    /// Calls that are not recorded, such as a wait every few launches, take ids as well.
    #[test]
    fn ids_between_launches_lie_as_these_once_the_page_is_settled() {
        let mut launches = Launches::default();
        let is_launch = |id: &u64| !id.is_multiple_of(3);
        for correlation in (1..200 * PAGE_IDS).filter(is_launch) {
            launches.note(correlation, 1, Belongs::Warmup);
        }
        assert!(launches.bits.len() <= SETTLED_PAGES + 1, "{} places", launches.bits.len());
        for correlation in 1..200 * PAGE_IDS {
            let is_settled = correlation / PAGE_IDS < 200 - SETTLED_PAGES as u64;
            let is_known = is_settled || is_launch(&correlation);
            let known = is_known.then_some(Belongs::Warmup);
            assert_eq!(launches.belongs(correlation), known, "{correlation}");
        }
    }

    #[test]
    fn the_oldest_pages_are_given_up() {
        let mut launches = Launches::default();
        let pages = MAX_PAGES as u64 + 100;
        for page in 0..pages {
            launches.note(page * PAGE_IDS + 5, 1, Belongs::Inside);
        }
        assert_eq!(launches.belongs(99 * PAGE_IDS + 5), None);
        assert_eq!(launches.belongs(100 * PAGE_IDS + 5), Some(Belongs::Inside));
        assert_eq!(launches.pages.len(), MAX_PAGES);
        assert!(launches.bits.len() <= MAX_PAGES);
    }
}
