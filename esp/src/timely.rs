//! A request body that is not sent too late.
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// The bytes of one request, which end it with an error once `not_after` is over.
///
/// A call's time-out alone does not keep this promise: a process that was stopped (SIGSTOP, a paused machine) finds on
/// waking that connections are ready and time-outs are over, and may write the request first. By then another process
/// may have found that the email was not sent. Asked for at the moment of writing, the body knows better; without it, the
/// request is not complete and nothing is mailed.
pub(crate) struct Timely {
    bytes: Option<Bytes>,
    not_after: Instant,
}

#[derive(Debug, thiserror::Error)]
#[error("the process was held up for too long: not sent")]
pub(crate) struct TooLate;

/// Whether a request ended because it would have been sent too late: nothing of its body was.
pub(crate) fn is_too_late(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.is::<TooLate>() {
            return true;
        }
        cause = error.source();
    }
    false
}

impl Timely {
    pub fn new(bytes: Bytes, not_after: Instant) -> Self {
        Self { bytes: Some(bytes), not_after }
    }
}

impl Body for Timely {
    type Data = Bytes;
    type Error = TooLate;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TooLate>>> {
        let frame = self
            .bytes
            .take()
            .map(|bytes| if Instant::now() > self.not_after { Err(TooLate) } else { Ok(Frame::data(bytes)) });
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use futures_util::future::poll_fn;

    use super::*;

    fn first(mut body: Timely) -> Result<Frame<Bytes>, TooLate> {
        poll_fn(|context| Pin::new(&mut body).poll_frame(context)).now_or_never().unwrap().unwrap()
    }

    #[test]
    fn a_body_that_is_asked_for_too_late_is_not_given() {
        let (now, bytes) = (Instant::now(), Bytes::from_static(b"{}"));
        let in_time = Timely::new(bytes.clone(), now + Duration::from_mins(1));
        assert_eq!(in_time.size_hint().exact(), Some(2));
        assert_eq!(first(in_time).unwrap().into_data().unwrap(), bytes);
        let earlier = now.checked_sub(Duration::from_millis(1)).unwrap();
        assert!(first(Timely::new(bytes, earlier)).is_err());
    }
}
