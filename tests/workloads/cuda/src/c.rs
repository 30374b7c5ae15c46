//! The commands for a process of another language.

#![expect(unsafe_code, reason = "a C function")]

use std::ffi::{CStr, c_char};
use std::sync::{Mutex, PoisonError};

use crate::commands::Commands;

static COMMANDS: Mutex<Option<Commands>> = Mutex::new(None);

/// Does what the line says and writes the answer, a JSON object that ends in a NUL, into `answer`.
/// Returns the answer's length, -1 where it has no room.
///
/// # Safety
///
/// `line` is a C string; `answer` points to `room` bytes that are this call's to write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn workload_command(
    line: *const c_char,
    answer: *mut c_char,
    room: usize,
) -> isize {
    // SAFETY: the caller gives a C string.
    let line = unsafe { CStr::from_ptr(line) }.to_string_lossy().into_owned();
    let outcome = std::panic::catch_unwind(move || {
        let mut commands = COMMANDS.lock().unwrap_or_else(PoisonError::into_inner);
        commands.get_or_insert_with(Commands::new).ask(&line)
    });
    let text = match outcome {
        Ok(Ok(value)) => value.to_string(),
        Ok(Err(error)) => serde_json::json!({ "error": format!("{error:#}") }).to_string(),
        Err(_) => r#"{"error":"the workload panicked"}"#.to_owned(),
    };
    if text.len() >= room {
        return -1;
    }
    let len = text.len().cast_signed();
    let text = [text.as_bytes(), &[0]].concat();
    // SAFETY: the answer has room for the text and its NUL, which was checked.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), answer.cast::<u8>(), text.len()) };
    len
}
