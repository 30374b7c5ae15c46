//! Whether PyTorch's profiler may be using CUPTI without being subscribed.
//!
//! Up to PyTorch 2.12 it subscribes at its first use, which shows. Later ones only register
//! buffers, and libraries before CUDA 13.2 do not tell that anybody has.

use std::path::{Path, PathBuf};

/// The first version whose profiler does not subscribe.
const UNSUBSCRIBED_SINCE: (u32, u32) = (2, 13);

/// Whether such a PyTorch is in the process, by `/proc/self/maps`; one whose version is not to be
/// found counts as one.
pub(crate) fn may_be_unseen(maps: &str) -> bool {
    torch_folder(maps).is_some_and(|folder| {
        let version = std::fs::read_to_string(folder.join("version.py"));
        let version = version.ok().and_then(|text| parse_version(&text));
        version.is_none_or(|version| version >= UNSUBSCRIBED_SINCE)
    })
}

/// The folder of the Python package, where its libraries are loaded.
fn torch_folder(maps: &str) -> Option<PathBuf> {
    let path = maps.lines().find_map(|line| {
        let path = Path::new(line.get(line.find('/')?..)?);
        (path.file_name()?.to_str()? == "libtorch_cpu.so").then_some(path)
    })?;
    Some(path.parent()?.parent()?.to_owned())
}

/// The version in `__version__ = '2.11.0+cu130'`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let value = text.lines().find_map(|line| line.strip_prefix("__version__"))?;
    let mut numbers = value.split(['\'', '"']).nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pytorch_that_does_not_subscribe_may_be_unseen() {
        let root = tempfile::tempdir().unwrap();
        let torch = root.path().join("torch");
        std::fs::create_dir_all(torch.join("lib")).unwrap();
        let maps = format!(
            "7f00-7f01 r-xp 0 08:01 1 /usr/lib/libc.so.6\n7f00-7f01 r-xp 0 08:01 2   {}\n",
            torch.join("lib/libtorch_cpu.so").display()
        );
        assert!(may_be_unseen(&maps), "its version is not known");
        for (version, unseen) in
            [("2.11.0+cu130", false), ("2.12.1", false), ("2.13.0", true), ("3.0.0a0", true)]
        {
            let text = format!("from typing import Optional\n__version__ = '{version}'\n");
            std::fs::write(torch.join("version.py"), text).unwrap();
            assert_eq!(may_be_unseen(&maps), unseen, "{version}");
        }
        assert!(!may_be_unseen("7f00-7f01 r-xp 0 08:01 1 /usr/lib/libc.so.6\n"));
    }
}
