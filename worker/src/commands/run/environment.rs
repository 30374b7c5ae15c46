//! What the command finds in its environment, beside what it would find alone.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use profiler_core::inject_env::{
    CUDA_INJECTION_VARIABLE as CUDA_VARIABLE, INJECTED_FILE_NAME, JOIN_VARIABLE,
    NVTX_INJECTION_VARIABLE as NVTX_VARIABLE, PLUGIN_DIR_VARIABLE, PRELOAD_VARIABLE,
    REPLICA_VARIABLE, ROLE_VARIABLE, SOCKET_VARIABLE, STAGE_VARIABLE, TOKEN_FILE_VARIABLE,
};
use profiler_core::program::locate_file;
use profiler_worker::who::MAP_VARIABLE;

use super::args::JoinArg;

/// What the command's processes are to be told.
#[derive(Debug)]
pub(super) struct Told<'a> {
    pub(super) stage: Option<u32>,
    pub(super) role: Option<&'a str>,
    pub(super) replica: Option<u32>,
    /// Rules by which a controller knows them.
    pub(super) map: &'a [String],
    pub(super) socket_dir: &'a Path,
    pub(super) token_file: Option<&'a Path>,
    /// Where their agents look for plugins.
    pub(super) plugin_dir: Option<&'a Path>,
    pub(super) join: JoinArg,
    /// The file that joins a process, where it was found.
    pub(super) injected: Option<&'a Path>,
    /// Why processes are to join before they use a device, where they are.
    pub(super) within: Option<&'static str>,
}

/// What is added to the environment.
#[derive(Debug, Default)]
pub(super) struct ChildEnvironment {
    variables: Vec<(&'static str, OsString)>,
    /// What could not be set, and what that means.
    pub(super) notes: Vec<String>,
    /// Whether processes join as they use a device.
    pub(super) by_device: bool,
    /// Whether they join as they start.
    pub(super) by_preload: bool,
}

impl ChildEnvironment {
    /// What is added for these wishes, given the variables that there are.
    pub(super) fn of(told: &Told<'_>, current: impl Fn(&str) -> Option<OsString>) -> Self {
        let mut environment = Self::default();
        environment.add(SOCKET_VARIABLE, told.socket_dir.as_os_str());
        environment.add(JOIN_VARIABLE, OsStr::new(told.join.policy().as_str()));
        for (name, number) in [(STAGE_VARIABLE, told.stage), (REPLICA_VARIABLE, told.replica)] {
            if let Some(number) = number {
                environment.add(name, OsStr::new(&number.to_string()));
            }
        }
        if let Some(role) = told.role {
            environment.add(ROLE_VARIABLE, OsStr::new(role));
        }
        if !told.map.is_empty() {
            let rules = serde_json::Value::from(told.map.to_vec()).to_string();
            environment.add(MAP_VARIABLE, OsStr::new(&rules));
        }
        if let Some(file) = told.token_file {
            let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
            environment.add(TOKEN_FILE_VARIABLE, file.as_os_str());
        }
        if let Some(dir) = told.plugin_dir {
            // Agents take absolute paths alone.
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
            environment.add(PLUGIN_DIR_VARIABLE, dir.as_os_str());
        }
        environment.add_injection(told, current);
        environment
    }

    pub(super) fn variables(&self) -> impl Iterator<Item = (&'static str, &OsStr)> {
        self.variables.iter().map(|(name, value)| (*name, value.as_os_str()))
    }

    fn add(&mut self, name: &'static str, value: &OsStr) {
        self.variables.push((name, value.to_owned()));
    }

    fn add_injection(&mut self, told: &Told<'_>, current: impl Fn(&str) -> Option<OsString>) {
        if told.join == JoinArg::Outside {
            return;
        }
        let Some(file) = told.injected else {
            self.notes.push(format!(
                "{INJECTED_FILE_NAME} was not found beside this program, in OMNIPROF_BIN_DIR or in PATH: \
                 no process joins from within, all are sampled from outside"
            ));
            return;
        };
        let current = |name: &str| current(name).filter(|value| !value.is_empty());
        for (name, what) in [
            (CUDA_VARIABLE, "a process that uses a GPU does not join by it"),
            (NVTX_VARIABLE, "NVTX ranges are not recorded"),
        ] {
            match current(name) {
                Some(value) if value != file.as_os_str() => self.notes.push(format!(
                    "{name} is set already ({}) and left as it is: {what}",
                    value.display()
                )),
                _ => {
                    self.by_device |= name == CUDA_VARIABLE;
                    self.add(name, file.as_os_str());
                }
            }
        }
        let why = match (told.join, told.within) {
            (JoinArg::Preload, _) => "--join preload",
            (JoinArg::Auto, Some(why)) => why,
            _ => return,
        };
        if file.as_os_str().as_bytes().iter().any(|byte| b": $".contains(byte)) {
            self.notes.push(format!(
                "{}: the loader takes no LD_PRELOAD with a colon, a space or a dollar sign in its \
                 path; move the file ({why})",
                file.display()
            ));
            return;
        }
        let mut value = file.as_os_str().to_owned();
        if let Some(before) = current(PRELOAD_VARIABLE) {
            value.push(":");
            value.push(before);
        }
        self.by_preload = true;
        self.add(PRELOAD_VARIABLE, &value);
    }
}

/// That file: in the directory that `OMNIPROF_BIN_DIR` names, beside this program, or in `PATH`.
pub(super) fn injected_file() -> Option<PathBuf> {
    let file = locate_file(INJECTED_FILE_NAME)?;
    std::path::absolute(file).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "/opt/omniprof/libomniprof_inject.so";

    fn told(join: JoinArg) -> Told<'static> {
        Told {
            stage: None,
            role: None,
            replica: None,
            map: &[],
            socket_dir: Path::new("/run/omniprof"),
            token_file: None,
            plugin_dir: None,
            join,
            injected: Some(Path::new(FILE)),
            within: None,
        }
    }

    fn value(environment: &ChildEnvironment, name: &str) -> Option<String> {
        let mut found = environment.variables().filter(|(known, _)| *known == name);
        let value = found.next().map(|(_, value)| value.to_str().unwrap().to_owned());
        assert!(found.next().is_none(), "{name} is set once");
        value
    }

    #[test]
    fn a_process_joins_as_it_uses_a_device_and_by_preload_where_that_is_wanted() {
        let none = |_: &str| None;
        let auto = ChildEnvironment::of(&told(JoinArg::Auto), none);
        assert_eq!(value(&auto, CUDA_VARIABLE).as_deref(), Some(FILE));
        assert_eq!(value(&auto, NVTX_VARIABLE).as_deref(), Some(FILE));
        assert_eq!(value(&auto, PRELOAD_VARIABLE), None);
        assert_eq!(value(&auto, SOCKET_VARIABLE).as_deref(), Some("/run/omniprof"));
        assert!(auto.by_device && !auto.by_preload && auto.notes.is_empty());

        let within = Told { within: Some("spans"), ..told(JoinArg::Auto) };
        let within = ChildEnvironment::of(&within, none);
        assert_eq!(value(&within, PRELOAD_VARIABLE).as_deref(), Some(FILE));
        let device = Told { within: Some("spans"), ..told(JoinArg::Device) };
        assert_eq!(value(&ChildEnvironment::of(&device, none), PRELOAD_VARIABLE), None);

        let outside = ChildEnvironment::of(&told(JoinArg::Outside), none);
        assert_eq!(value(&outside, CUDA_VARIABLE), None);
        assert_eq!(value(&outside, "OMNIPROF_JOIN").as_deref(), Some("outside"));
        assert!(outside.notes.is_empty());
    }

    #[test]
    fn what_is_set_already_is_left_alone_and_said() {
        let other = |name: &str| {
            let set = [(CUDA_VARIABLE, "/nsys.so"), (PRELOAD_VARIABLE, "/a.so /b.so")];
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(*value))
        };
        let environment = ChildEnvironment::of(&told(JoinArg::Preload), other);
        assert_eq!(value(&environment, CUDA_VARIABLE), None);
        assert!(!environment.by_device);
        assert!(environment.notes[0].contains("/nsys.so"), "{:?}", environment.notes);
        assert_eq!(value(&environment, NVTX_VARIABLE).as_deref(), Some(FILE));
        let preload = value(&environment, PRELOAD_VARIABLE).unwrap();
        assert_eq!(preload, format!("{FILE}:/a.so /b.so"));
        // Our own file, set by a launcher above, is no other's.
        let own = |name: &str| (name == CUDA_VARIABLE).then(|| OsString::from(FILE));
        let environment = ChildEnvironment::of(&told(JoinArg::Auto), own);
        assert!(environment.by_device && environment.notes.is_empty());
    }

    #[test]
    fn a_missing_file_and_one_that_cannot_be_preloaded_are_said() {
        let none = |_: &str| None;
        let missing = Told { injected: None, ..told(JoinArg::Preload) };
        let environment = ChildEnvironment::of(&missing, none);
        assert!(!environment.by_device && !environment.by_preload);
        assert!(environment.notes[0].contains("sampled from outside"));
        let odd = Told { injected: Some(Path::new("/a b/i.so")), ..told(JoinArg::Preload) };
        let environment = ChildEnvironment::of(&odd, none);
        assert!(environment.by_device && !environment.by_preload);
        assert!(environment.notes[0].contains("LD_PRELOAD"));
    }

    #[test]
    fn who_the_processes_are_is_told() {
        let map = vec!["title:^w(?<rank>[0-9])$".to_owned()];
        let all = Told {
            stage: Some(1),
            role: Some("talker"),
            replica: Some(0),
            map: &map,
            token_file: Some(Path::new("/run/token")),
            ..told(JoinArg::Auto)
        };
        let environment = ChildEnvironment::of(&all, |_| None);
        assert_eq!(value(&environment, "OMNIPROF_STAGE").as_deref(), Some("1"));
        assert_eq!(value(&environment, "OMNIPROF_ROLE").as_deref(), Some("talker"));
        assert_eq!(value(&environment, "OMNIPROF_REPLICA").as_deref(), Some("0"));
        assert_eq!(value(&environment, "OMNIPROF_TOKEN_FILE").as_deref(), Some("/run/token"));
        let rules: Vec<String> =
            serde_json::from_str(&value(&environment, MAP_VARIABLE).unwrap()).unwrap();
        assert_eq!(rules, map);
    }
}
