//! Fuzzing of everything that reads what others wrote.
//!
//! A [`Target`] reads bytes and must neither panic nor hang nor take memory without a bound. Inputs
//! are made of its corpus (`tests/data/fuzz/<target>`, and files that lie elsewhere) by
//! [`mutate::Mutator`]: no coverage guides it, so that it runs on any compiler. An input that broke
//! a target goes into the corpus, where each test run reads it again.

mod configuration;
mod foreign_traces;
mod frames;
pub mod mutate;
pub mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use mutate::Mutator;

/// No input may take longer.
const HANG: Duration = Duration::from_secs(20);

/// One reader.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Files beside its corpus from which inputs are made, below the repository.
    pub seeds: &'static [&'static str],
    /// Inputs that are written here.
    pub texts: &'static [&'static [u8]],
    /// Words of its language.
    pub words: &'static [&'static str],
    /// Mends what an accident would be found by, so that what lies behind is read.
    pub mend: fn(&mut [u8]),
    /// Reads an input.
    pub read: fn(&[u8], &Path),
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What came of fuzzing a target.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Told {
    /// Inputs that were read.
    pub inputs: u64,
    /// How long that took.
    pub spent: Duration,
    /// The input that took longest.
    pub slowest: Duration,
    /// Inputs that made it panic, each with the message.
    pub broken: Vec<(Vec<u8>, String)>,
}

/// How much is read.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Amount {
    /// So many inputs, beside the corpus.
    Inputs(u64),
    /// As many as fit into this time.
    Time(Duration),
}

/// The repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The inputs that are kept for a target.
///
/// # Errors
///
/// A file cannot be read.
pub fn corpus(target: &Target) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut inputs: Vec<Vec<u8>> = target.texts.iter().map(|text| text.to_vec()).collect();
    let mut files: Vec<PathBuf> = target.seeds.iter().map(|seed| repository().join(seed)).collect();
    let folder = repository().join("tests/data/fuzz").join(target.name);
    if folder.is_dir() {
        for entry in std::fs::read_dir(&folder)? {
            files.push(entry?.path());
        }
    }
    files.sort();
    for file in files {
        inputs.push(std::fs::read(&file).with_context(|| file.display().to_string())?);
    }
    anyhow::ensure!(!inputs.is_empty(), "{} has no corpus", target.name);
    Ok(inputs)
}

/// Reads the corpus and then what is made of it. An input that hangs ends the process, which says
/// where the input was kept.
///
/// # Errors
///
/// The corpus cannot be read, or no temporary folder can be made.
pub fn run(target: &Target, amount: Amount, seed: u64) -> anyhow::Result<Told> {
    let corpus = corpus(target)?;
    let scratch = tempfile::tempdir()?;
    let watch = Watch::start(target.name)?;
    let mut mutator = Mutator::new(seed, target.words);
    let mut told = Told::default();
    let began = Instant::now();
    let mut next = 0_u64;
    loop {
        let input = match corpus.get(next as usize) {
            Some(kept) => kept.clone(),
            None => {
                let done = match amount {
                    Amount::Inputs(count) => next >= count + corpus.len() as u64,
                    Amount::Time(time) => began.elapsed() >= time,
                };
                if done {
                    break;
                }
                let mut input = mutator.make(&corpus);
                // A checksum that does not fit is found at once: most inputs have one that does.
                if !next.is_multiple_of(8) {
                    (target.mend)(&mut input);
                }
                input
            }
        };
        next += 1;
        watch.begin(&input);
        let start = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| (target.read)(&input, scratch.path())));
        told.slowest = told.slowest.max(start.elapsed());
        watch.end();
        if let Err(panic) = ended {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            told.broken.push((input, text.unwrap_or_default()));
            // The first of a kind tells enough.
            if told.broken.len() == 10 {
                break;
            }
        }
        told.inputs += 1;
    }
    told.spent = began.elapsed();
    Ok(told)
}

/// Ends the process where one input takes too long.
struct Watch {
    input: Arc<Mutex<Vec<u8>>>,
    /// When it was begun, in ms since the watch began, plus one; 0 = none is read.
    begun: Arc<AtomicU64>,
    origin: Instant,
}

impl Watch {
    fn start(name: &'static str) -> anyhow::Result<Self> {
        let watch = Self { input: Arc::default(), begun: Arc::default(), origin: Instant::now() };
        let (input, begun) = (Arc::downgrade(&watch.input), Arc::clone(&watch.begun));
        let origin = watch.origin;
        std::thread::Builder::new().name("fuzz-watch".to_owned()).spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(200));
                let Some(input) = input.upgrade() else { return };
                let begun = begun.load(Ordering::Acquire);
                let now = origin.elapsed().as_millis() as u64 + 1;
                if begun != 0 && now.saturating_sub(begun) > HANG.as_millis() as u64 {
                    let input = input.lock().unwrap_or_else(PoisonError::into_inner);
                    hangs(name, &input);
                }
            }
        })?;
        Ok(watch)
    }

    fn begin(&self, input: &[u8]) {
        let mut kept = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clear();
        kept.extend_from_slice(input);
        self.begun.store(self.origin.elapsed().as_millis() as u64 + 1, Ordering::Release);
    }

    fn end(&self) {
        self.begun.store(0, Ordering::Release);
    }
}

#[expect(clippy::print_stderr, clippy::exit, reason = "nothing else ends a reader that hangs")]
fn hangs(name: &str, input: &[u8]) -> ! {
    let path = std::env::temp_dir().join(format!("omniprof-hang-{name}"));
    let kept = std::fs::write(&path, input).is_ok();
    eprintln!("{name} hangs; the input is kept ({kept}) in {}", path.display());
    std::process::exit(3)
}
