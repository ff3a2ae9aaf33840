//! The HTTP carrier: the same sealed frames in the bodies of two posts.
//!
//! A request to [`REGISTER`] or [`METRICS`] (both take every frame; two names
//! for what they are used for) holds **one frame** as
//! `application/octet-stream` and the sender's inbox, 26 characters, in the
//! header [`INBOX_HEADER`]. The answer 200 holds **zero or more frames**, each
//! after its length as u16 little-endian: first what answers the request's
//! frame, then, when that frame was a RECORD of a confirmed session, what waits
//! for this inbox. A device that has nothing to say fetches with a record
//! without items. With the header [`WAIT_HEADER`] a record that nothing answers
//! waits until something is there, at most so many seconds. Any other status has an empty body: nothing is
//! explained before a frame is authentic.

use crate::frame::MAX_FRAME;

/// Where a device enrols and shakes hands.
pub const REGISTER: &str = "/api/v1/device/register";
/// Where a device reports, and fetches what waits for it.
pub const METRICS: &str = "/api/v1/device/metrics";
/// The header that holds the sender's inbox.
pub const INBOX_HEADER: &str = "weft-inbox";
/// The header that says how many seconds a record may wait for something to
/// fetch, 1 to [`MAX_WAIT_S`].
pub const WAIT_HEADER: &str = "weft-wait";
/// The longest wait, in seconds.
pub const MAX_WAIT_S: u8 = 50;
/// The type of both bodies.
pub const CONTENT_TYPE: &str = "application/octet-stream";
/// The most frames in one answer.
pub const MAX_FRAMES: usize = 18;
/// The longest answer, in bytes.
pub const MAX_ANSWER: usize = MAX_FRAMES * (2 + MAX_FRAME);

/// Why a body is not a sequence of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// A length reaches beyond the body, or the body ends inside a length.
    Truncated,
    /// A frame is empty or longer than [`MAX_FRAME`].
    Length,
}

/// The bytes before a frame of this length (at most [`MAX_FRAME`]) in an answer.
pub const fn length_prefix(len: u16) -> [u8; 2] {
    len.to_le_bytes()
}

/// Iterates over the frames of an answer. After an error it ends.
#[derive(Clone, Copy, Debug)]
pub struct Frames<'a>(&'a [u8]);

impl<'a> Frames<'a> {
    /// Frames of this body.
    pub const fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    fn frame(&mut self) -> Result<&'a [u8], BodyError> {
        let (len, rest) = self.0.split_first_chunk::<2>().ok_or(BodyError::Truncated)?;
        let len = usize::from(u16::from_le_bytes(*len));
        if len == 0 || len > MAX_FRAME {
            return Err(BodyError::Length);
        }
        let (frame, rest) = rest.split_at_checked(len).ok_or(BodyError::Truncated)?;
        self.0 = rest;
        Ok(frame)
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<&'a [u8], BodyError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let frame = self.frame();
        if frame.is_err() {
            self.0 = &[];
        }
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(frames: &[&[u8]]) -> Vec<u8> {
        let mut body = Vec::new();
        for frame in frames {
            body.extend(length_prefix(u16::try_from(frame.len()).unwrap()));
            body.extend_from_slice(frame);
        }
        body
    }

    #[test]
    fn answers_survive_the_round_trip() {
        let frames: [&[u8]; 3] = [&[1], &[2; 300], &[3; MAX_FRAME]];
        let back: Result<Vec<_>, _> =
            Frames::new(&body(&frames)).map(|f| f.map(<[u8]>::to_vec)).collect();
        assert_eq!(back.unwrap(), frames);
        assert_eq!(Frames::new(&[]).count(), 0);
    }

    #[test]
    fn broken_answers_end_with_one_error() {
        let whole = body(&[&[1, 2, 3], &[4; 40]]);
        for cut in 1..whole.len() {
            let read: Vec<_> = Frames::new(&whole[..cut]).collect();
            let complete = usize::from(cut >= 5);
            assert_eq!(read.iter().filter(|frame| frame.is_ok()).count(), complete, "{cut}");
            assert_eq!(read.len(), complete + usize::from(cut != 5), "{cut}");
        }
        assert_eq!(Frames::new(&[0, 0, 1]).next(), Some(Err(BodyError::Length)));
        assert_eq!(Frames::new(&[0xFF, 0xFF]).next(), Some(Err(BodyError::Length)));
    }
}
