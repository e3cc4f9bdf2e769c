//! Reading bodies within limits of size and time.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is longer than allowed.
    #[error("body has more than {max} bytes")]
    TooLarge {
        /// The bound in bytes.
        max: u64,
    },
    /// It did not arrive in time.
    #[error("body did not arrive in time")]
    TimedOut,
    /// The connection broke.
    #[error("connection broke while the body was read")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Reads a whole body of at most `max` bytes. What its length claims is checked first.
///
/// # Errors
/// It is longer, or broke off.
pub async fn collect<B>(body: B, max: u64) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = std::pin::pin!(body);
    if body.size_hint().lower() > max {
        return Err(BodyError::TooLarge { max });
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    let mut length: u64 = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| broken(e.into()))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.remaining() as u64;
        if length > max {
            return Err(BodyError::TooLarge { max });
        }
        // Most bodies are one frame: those are not copied.
        match first.take() {
            None if rest.is_empty() => first = Some(data),
            None => rest.extend_from_slice(&data),
            Some(earlier) => {
                rest.extend_from_slice(&earlier);
                rest.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| rest.freeze()))
}

fn broken(e: Box<dyn std::error::Error + Send + Sync>) -> BodyError {
    match e.downcast::<BodyError>() {
        Ok(own) => *own,
        Err(e) => BodyError::Broken(e),
    }
}

/// A body that must have arrived wholly at a point in time.
pub struct Timely<B> {
    body: B,
    deadline: Pin<Box<Sleep>>,
}

impl<B> Timely<B> {
    /// Allows the body so much time from now.
    pub fn new(body: B, time: Duration) -> Timely<B> {
        Timely { body, deadline: Box::pin(tokio::time::sleep_until(Instant::now() + time)) }
    }
}

impl<B> Body for Timely<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(|e| BodyError::Broken(e.into())))),
            Poll::Pending => match Future::poll(self.deadline.as_mut(), context) {
                Poll::Ready(()) => Poll::Ready(Some(Err(BodyError::TimedOut))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    #[tokio::test]
    async fn a_body_at_the_bound_is_read_and_one_above_is_not() {
        let body = || Full::new(Bytes::from_static(b"12345"));
        assert_eq!(collect(body(), 5).await.unwrap(), "12345");
        assert!(matches!(collect(body(), 4).await, Err(BodyError::TooLarge { max: 4 })));
    }

    #[tokio::test]
    async fn a_body_that_never_comes_is_given_up() {
        let never =
            http_body_util::StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, std::io::Error>>());
        let read = collect(Timely::new(never, Duration::from_millis(5)), 10).await;
        assert!(matches!(read, Err(BodyError::TimedOut)), "{read:?}");
    }
}
