//! Reads `/proc/PID/maps`.

use std::ops::Range;

/// A file, or the kernel's code, mapped executable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mapping {
    /// The addresses.
    pub(crate) range: Range<u64>,
    /// Where in the file they begin.
    pub(crate) file_offset: u64,
    /// The file's number; 0 = none.
    pub(crate) inode: u64,
    /// The path, or a name in brackets.
    pub(crate) path: String,
    /// The path names another file by now, or none.
    pub(crate) deleted: bool,
}

/// The most mappings that are looked at; a process may have 65,530 of all kinds by default.
const MAX_MAPPINGS: usize = 16_384;

/// The executable mappings of files, and of the vdso; lines of other kinds or shapes are skipped.
pub(crate) fn parse(text: &[u8]) -> Vec<Mapping> {
    let mut mappings = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        if mappings.len() == MAX_MAPPINGS {
            break;
        }
        mappings.extend(parse_line(line));
    }
    mappings
}

fn parse_line(line: &[u8]) -> Option<Mapping> {
    // Paths are bytes; one that is no text cannot be named in a row, and is skipped.
    let line = std::str::from_utf8(line).ok()?;
    let mut rest = line;
    let addresses = field(&mut rest)?;
    let permissions = field(&mut rest)?;
    let offset = field(&mut rest)?;
    let _device = field(&mut rest)?;
    let inode = field(&mut rest)?;
    let path = rest.trim_start();
    if !permissions.contains('x') || !(path.starts_with('/') || path == "[vdso]") {
        return None;
    }
    let (start, end) = addresses.split_once('-')?;
    let range = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
    if range.is_empty() {
        return None;
    }
    let (path, deleted) = match path.strip_suffix(" (deleted)") {
        Some(path) => (path, true),
        None => (path, false),
    };
    Some(Mapping {
        range,
        file_offset: u64::from_str_radix(offset, 16).ok()?,
        inode: inode.parse().ok()?,
        // The kernel writes a newline in a path as `\012`.
        path: path.replace("\\012", "\n"),
        deleted,
    })
}

fn field<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let (field, tail) = rest.trim_start().split_once(' ')?;
    *rest = tail;
    Some(field)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn code_of_files_and_the_vdso_is_found_and_nothing_else() {
        let text = b"\
00400000-00401000 r--p 00000000 fd:01 17 /usr/bin/a b\n\
00401000-00402000 r-xp 00001000 fd:01 17 /usr/bin/a b\n\
7f0000000000-7f0000001000 r-xp 00002000 00:1f 9 /tmp/x\\012y (deleted)\n\
7f0000002000-7f0000003000 rwxp 00000000 00:00 0 \n\
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]\n\
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";
        let found = parse(text);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].path, "/usr/bin/a b");
        assert_eq!((found[0].file_offset, found[0].inode), (0x1000, 17));
        assert_eq!(found[1].path, "/tmp/x\ny");
        assert!(found[1].deleted);
        assert_eq!(found[2].range, 0x7ffd_0000_0000..0x7ffd_0000_2000);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            for mapping in parse(&bytes) {
                prop_assert!(!mapping.range.is_empty());
            }
        }

        #[test]
        fn a_broken_line_does_not_hide_the_next(junk in "[ -~]{0,80}") {
            let text = format!("{junk}\n1000-2000 r-xp 0 0:0 1 /bin/true\n");
            let found = parse(text.as_bytes());
            prop_assert_eq!(found.last().map(|m| m.path.as_str()), Some("/bin/true"));
        }
    }
}
