//! Building and running what tells about a cell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::programs::build_folder;

use super::output::{self, Ended};
use super::plan::{InjectedBuild, Part};

/// What the tests load besides themselves. Each is built alone, as a user builds it.
const LIBRARIES: [&str; 9] = [
    "fake-cuda",
    "fake-cupti",
    "fake-mspti",
    "fake-ascend",
    "null-plugin",
    "backend-cpu-plugin",
    "backend-cuda-plugin",
    "backend-npu-plugin",
    "profiler-inject",
];

/// The short form builds its programs as `cargo test --workspace` does, so that nothing is built
/// twice beside it; these are their names.
const SHORT_FORM: [&str; 7] = [
    "conformance",
    "conformance_signal_timers",
    "plugin_door",
    "linked",
    "plugin_dir",
    "backends",
    "hardware",
];

/// A program that hangs fails its cell after this time.
const LIMIT: Duration = Duration::from_secs(600);

/// A test program that was built.
#[derive(Clone, Debug)]
struct Program {
    file: PathBuf,
    /// The folder of its crate, in which cargo runs tests.
    folder: PathBuf,
}

/// What the tests of a part said.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Told {
    /// Each test, by the crate, the program and its own name.
    pub tests: BTreeMap<String, Ended>,
    /// A program that ended otherwise than its tests tell.
    pub faults: Vec<String>,
    /// All that was printed.
    pub text: String,
}

/// The test programs, built when they are first needed.
#[derive(Debug)]
pub struct Programs {
    cargo: PathBuf,
    root: PathBuf,
    built: BTreeMap<String, Program>,
    injected: BTreeMap<String, PathBuf>,
    ran: BTreeMap<String, Told>,
    workspace: Option<Vec<(String, String, Program)>>,
    /// What each program of the workspace said, by the name of its file.
    log: Option<BTreeMap<String, String>>,
}

impl Programs {
    /// Builds the stand-ins, the plugins and the injected file.
    ///
    /// # Errors
    ///
    /// One of them cannot be built: the matrix tells nothing then.
    pub fn new(short: bool) -> anyhow::Result<Self> {
        let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
        let mut this = Self {
            cargo,
            root,
            built: BTreeMap::new(),
            injected: BTreeMap::new(),
            ran: BTreeMap::new(),
            workspace: None,
            log: None,
        };
        for package in LIBRARIES {
            let mut command = this.cargo(&["build", "--locked", "--quiet", "--package", package]);
            let status = command.status().context("cargo cannot be started")?;
            ensure!(status.success(), "building {package}: {status}");
        }
        if short {
            let mut arguments = vec!["--workspace".to_owned()];
            for test in SHORT_FORM {
                arguments.extend(["--test".to_owned(), test.to_owned()]);
            }
            this.workspace = Some(this.build(&arguments)?);
        }
        Ok(this)
    }

    /// The programs of `cargo test --workspace`, of which nothing is run: a log tells what they
    /// said.
    ///
    /// # Errors
    ///
    /// As for [`Programs::new`], or the log cannot be read.
    pub fn from_log(log: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(log).with_context(|| log.display().to_string())?;
        let mut this = Self::new(true)?;
        this.log = Some(output::by_program(&String::from_utf8_lossy(&bytes)));
        Ok(this)
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.cargo);
        command.args(arguments).current_dir(&self.root).stdin(Stdio::null());
        command
    }

    /// Builds and runs a part; one that was run already is not run again.
    ///
    /// # Errors
    ///
    /// It cannot be built.
    pub fn run(&mut self, part: &Part) -> anyhow::Result<Told> {
        let injected = part.injected.as_ref().map(|build| self.injected(build)).transpose()?;
        let key = format!("{part:?}");
        if let Some(told) = self.ran.get(&key) {
            return Ok(told.clone());
        }
        let program = self.program(part)?;
        if let Some(log) = &self.log {
            return logged(log, &program, part);
        }
        let mut command = Command::new(&program.file);
        command
            .current_dir(&program.folder)
            .env("CARGO_MANIFEST_DIR", &program.folder)
            .env("CARGO", &self.cargo)
            .arg("--show-output");
        if !part.only.is_empty() {
            command.arg(part.only);
        }
        if let (Some(file), Some(build)) = (injected, &part.injected) {
            command
                .env("OMNIPROF_TEST_INJECT", file)
                .env("OMNIPROF_TEST_INJECT_BACKENDS", build.backends);
        }
        let told = run(&mut command, part)?;
        self.ran.insert(key, told.clone());
        Ok(told)
    }

    fn program(&mut self, part: &Part) -> anyhow::Result<Program> {
        if let Some(all) = &self.workspace {
            let found = all.iter().find(|(package, test, _)| {
                (package.as_str(), test.as_str()) == (part.package, part.test)
            });
            let (_, _, program) = found.with_context(|| {
                format!("the workspace has no test {} of {}", part.test, part.package)
            })?;
            return Ok(program.clone());
        }
        let key = format!("{} {} {:?}", part.package, part.test, part.features);
        if let Some(program) = self.built.get(&key) {
            return Ok(program.clone());
        }
        let mut arguments =
            ["--package", part.package, "--test", part.test].map(str::to_owned).to_vec();
        arguments.extend(part.features.iter().cloned());
        let built = self.build(&arguments)?;
        let (_, _, program) =
            built.into_iter().next().with_context(|| format!("cargo built no test for {key}"))?;
        self.built.insert(key, program.clone());
        Ok(program)
    }

    /// Builds test programs: the crate, the name and the program of each.
    fn build(&self, arguments: &[String]) -> anyhow::Result<Vec<(String, String, Program)>> {
        let mut command = self.cargo(&[
            "test",
            "--locked",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ]);
        let output = command
            .args(arguments)
            .stderr(Stdio::inherit())
            .output()
            .context("cargo cannot be started")?;
        ensure!(output.status.success(), "building {}: {}", arguments.join(" "), output.status);
        let mut programs = Vec::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            let is_test = message["target"]["kind"][0] == "test";
            let (Some(file), Some(manifest), Some(name), true) = (
                message["executable"].as_str(),
                message["manifest_path"].as_str(),
                message["target"]["name"].as_str(),
                is_test,
            ) else {
                continue;
            };
            let folder = Path::new(manifest).parent().context("a manifest lies in a folder")?;
            let program = Program { file: file.into(), folder: folder.to_owned() };
            programs.push((package_name(&message)?, name.to_owned(), program));
        }
        Ok(programs)
    }

    /// A build of the injected file, kept under a name of its own: cargo has one for all builds.
    fn injected(&mut self, build: &InjectedBuild) -> anyhow::Result<PathBuf> {
        let key =
            if build.features.is_empty() { "default".to_owned() } else { build.features.join("") };
        if let Some(file) = self.injected.get(&key) {
            return Ok(file.clone());
        }
        let mut target = target_folder()?;
        if !build.features.is_empty() {
            // The file that lies beside the programs stays the default one. Cargo gives all builds
            // of it one name and would take one set of features for the other.
            target.push("matrix");
            forget_injected(&target)?;
        }
        let mut command = self.cargo(&["build", "--locked", "--quiet", "-p", "profiler-inject"]);
        command.args(&build.features).arg("--target-dir").arg(&target);
        let status = command.status().context("cargo cannot be started")?;
        ensure!(status.success(), "building the injected file with {:?}: {status}", build.features);
        let folder = target.join("matrix-injected").join(key.replace(['-', ' '], "_"));
        std::fs::create_dir_all(&folder)?;
        let kept = folder.join("libomniprof_inject.so");
        let built = target.join("debug/libomniprof_inject.so");
        // Another process may have the old one loaded: it keeps its own file.
        let aside = folder.join("new");
        std::fs::copy(&built, &aside).with_context(|| built.display().to_string())?;
        std::fs::rename(&aside, &kept)?;
        self.injected.insert(key, kept.clone());
        Ok(kept)
    }
}

/// Makes cargo build the file again.
fn forget_injected(target: &Path) -> anyhow::Result<()> {
    let Ok(entries) = std::fs::read_dir(target.join("debug/.fingerprint")) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("profiler-inject-") {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// The target folder of this build.
fn target_folder() -> anyhow::Result<PathBuf> {
    Ok(build_folder()?.parent().context("a build lies in no target folder")?.to_owned())
}

/// `path+file:///…/backend-cuda#0.1.0`, or with a name where it is not the folder's.
fn package_name(message: &serde_json::Value) -> anyhow::Result<String> {
    let id = message["package_id"].as_str().context("an artifact without a crate")?;
    let (path, version) = id.rsplit_once('#').context("a crate without a version")?;
    let named = version.split_once('@').map(|(name, _)| name);
    let folder = path.rsplit('/').next();
    Ok(named.or(folder).context("a crate without a name")?.to_owned())
}

fn run(command: &mut Command, part: &Part) -> anyhow::Result<Told> {
    let what = format!("{} of {}", part.test, part.package);
    let said = tempfile::tempfile().context("a file for what a test says")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said.try_clone()?)
        .spawn()
        .with_context(|| format!("{what} cannot be started"))?;
    let deadline = Instant::now() + LIMIT;
    let mut faults = Vec::new();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            faults.push(format!("{what} hangs: not over within {} s", LIMIT.as_secs()));
            break child.wait()?;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = read_all(said)?;
    let read = output::read(&text);
    let failed = read.values().any(|ended| *ended == Ended::Failed);
    if !status.success() && !failed && faults.is_empty() {
        faults.push(format!("{what}: {status}"));
    }
    if read.is_empty() && faults.is_empty() {
        bail!("{what} has no test {:?}", part.only);
    }
    let name = |test: &String| format!("{}/{}::{test}", part.package, part.test);
    let tests = read.iter().map(|(test, ended)| (name(test), ended.clone())).collect();
    Ok(Told { tests, faults, text })
}

/// What a log says of a part.
fn logged(log: &BTreeMap<String, String>, program: &Program, part: &Part) -> anyhow::Result<Told> {
    let file = program.file.file_name().unwrap_or_default().to_string_lossy();
    let text = log
        .get(&*file)
        .cloned()
        .with_context(|| format!("the log says nothing of {file}: it is not of this build"))?;
    let name = |test: &String| format!("{}/{}::{test}", part.package, part.test);
    let read = output::read(&text);
    let tests = read.iter().filter(|(test, _)| test.contains(part.only));
    let tests = tests.map(|(test, ended)| (name(test), ended.clone())).collect();
    Ok(Told { tests, faults: Vec::new(), text })
}

fn read_all(mut file: std::fs::File) -> anyhow::Result<String> {
    use std::io::{Read as _, Seek as _};
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
