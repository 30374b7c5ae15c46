//! What the demo's processes say to each other: frames of a little-endian `u32` length and JSON,
//! and between ranks raw vectors of floats in the same frames.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The longest frame that is taken.
const MAX_FRAME_BYTES: u32 = 16 << 20;

/// From a stage to the front.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "both ends are of one build")]
pub enum ToFront {
    /// The stage's sockets are open.
    Ready {
        /// Which stage.
        stage: u32,
        /// Which replica.
        replica: u32,
        /// Which rank.
        rank: u32,
    },
    /// A request is through.
    Done {
        /// The request.
        request: u64,
        /// The mean of the decoded images' values: something to see that came of the work.
        brightness: f32,
    },
}

/// From the front to a stage: all sockets are open, connect to the next stage.
#[derive(Debug, Serialize, Deserialize)]
pub struct Connect {
    /// The sockets of the replicas of the next stage.
    pub next: Vec<std::path::PathBuf>,
}

/// A request as the front gives it to stage 0.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Its id.
    pub id: u64,
    /// What the user said.
    pub prompt: Vec<u32>,
    /// How many tokens the thinker answers with.
    pub answer_tokens: usize,
    /// How many images the diffusion stage makes.
    pub images: usize,
}

/// A request as a stage gives it to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Handoff {
    /// The request's id.
    pub id: u64,
    /// How many images the diffusion stage makes.
    pub images: usize,
    /// The tokens that the stage made.
    pub tokens: Vec<u32>,
    /// The stage's last hidden state.
    pub hidden: Vec<f32>,
}

/// Writes a message.
///
/// # Errors
///
/// The stream's; the message is too long for a frame.
pub fn write<T: Serialize>(stream: &mut impl Write, message: &T) -> io::Result<()> {
    write_frame(stream, &serde_json::to_vec(message)?)
}

/// Reads a message; `None` where the other side closed between two.
///
/// # Errors
///
/// The stream's; it ended within a frame; the frame is too long or no such message.
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<Option<T>> {
    match read_frame(stream)? {
        Some(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        None => Ok(None),
    }
}

/// Writes floats.
///
/// # Errors
///
/// The stream's; there are too many for a frame.
pub(crate) fn write_floats(stream: &mut impl Write, floats: &[f32]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(floats.len() * 4);
    for float in floats {
        bytes.extend_from_slice(&float.to_le_bytes());
    }
    write_frame(stream, &bytes)
}

/// Reads floats.
///
/// # Errors
///
/// The stream's; it ended; the frame is too long or has a rest.
pub(crate) fn read_floats(stream: &mut impl Read) -> io::Result<Vec<f32>> {
    let Some(bytes) = read_frame(stream)? else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let (floats, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of floats has a rest"));
    }
    Ok(floats.iter().map(|float| f32::from_le_bytes(*float)).collect())
}

fn write_frame(stream: &mut impl Write, body: &[u8]) -> io::Result<()> {
    let Some(length) = u32::try_from(body.len()).ok().filter(|n| *n <= MAX_FRAME_BYTES) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the frame is too long"));
    };
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(body);
    stream.write_all(&frame)
}

fn read_frame(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    let first = loop {
        match stream.read(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[first..])?;
    let length = u32::from_le_bytes(length);
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the frame is too long"));
    }
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body)?;
    Ok(Some(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_pass_whole_and_end_cleanly() {
        let mut wire = Vec::new();
        write(&mut wire, &Connect { next: vec!["a".into()] }).unwrap();
        write_floats(&mut wire, &[1.0, -2.5]).unwrap();
        let mut rest = wire.as_slice();
        assert_eq!(read::<Connect>(&mut rest).unwrap().unwrap().next.len(), 1);
        assert_eq!(read_floats(&mut rest).unwrap(), [1.0, -2.5]);
        assert!(read::<Connect>(&mut rest).unwrap().is_none());
    }

    #[test]
    fn a_cut_or_hostile_frame_is_an_error() {
        let mut wire = Vec::new();
        write_floats(&mut wire, &[1.0]).unwrap();
        assert!(read_floats(&mut &wire[..6]).is_err());
        assert!(read_floats(&mut &wire[..2]).is_err());
        assert!(read_floats(&mut [255_u8; 8].as_slice()).is_err());
        assert!(read_floats(&mut [3, 0, 0, 0, 1, 2, 3].as_slice()).is_err());
    }
}
