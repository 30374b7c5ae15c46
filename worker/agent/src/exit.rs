//! A process that ends normally finishes its spool.
#![expect(unsafe_code, reason = "atexit: a program may leave by exit() and drop nothing")]

use std::panic::catch_unwind;
use std::sync::Once;

/// Arranges for the end of the process. Once is enough, more changes nothing.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the function is of this program, which is never unloaded, and panics nowhere.
        let failed = unsafe { libc::atexit(at_exit) };
        // Without room for it the spool ends without a footer, as after a kill.
        debug_assert_eq!(failed, 0, "atexit fails for want of memory only");
    });
}

extern "C" fn at_exit() {
    // A child inherits the handler, and nothing that it could finish.
    if crate::fork::is_child() {
        return;
    }
    // Other threads still run; whatever goes wrong here, the process ends as it would have.
    let _ended: std::thread::Result<()> = catch_unwind(|| {
        if let Some(agent) = crate::Agent::current_at_exit() {
            agent.end_with_process();
        }
    });
}
