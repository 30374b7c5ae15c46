//! Whether the program has sandboxed itself.
//!
//! A filter of system calls may answer a call that it does not know by killing the process. What
//! was there when the agent came is the container's and answers with errors; one that came later is
//! the program's own, and from then on the agent makes no call that the program would not make.

/// The filters of system calls on the calling thread; `None` where the kernel does not say.
pub(crate) fn filters() -> Option<u32> {
    parse(&std::fs::read_to_string("/proc/thread-self/status").ok()?)
}

/// The number of filters; older kernels only say that there are some.
fn parse(status: &str) -> Option<u32> {
    let number = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().parse().ok()
    };
    number("Seccomp_filters:").or_else(|| number("Seccomp:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_counted() {
        assert_eq!(parse("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t3\n"), Some(3));
        assert_eq!(parse("Name:\tx\nSeccomp:\t2\n"), Some(2));
        assert_eq!(parse(""), None);
    }
}
