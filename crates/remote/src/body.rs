//! An answer's body as it comes, within limits of size and time.

use std::{
    error::Error as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::network::{Limits, NetworkError};

/// How long a server may take for each [`PACE_BYTES`] of a body.
const PACE_TIME: Duration = Duration::from_secs(30);
/// What a body must bring in each [`PACE_TIME`]; whoever sends slower only holds a place.
const PACE_BYTES: usize = 16 * 1024;

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, NetworkError>> + Send>>;

/// An answer's body as it comes. A stream of chunks; after an error nothing more comes.
pub struct Body {
    chunks: Chunks,
    length: Option<u64>,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Body({:?})", self.length)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        let length = Some(bytes.len() as u64);
        Self { chunks: Box::pin(stream::iter([Ok(bytes)])), length }
    }
}

impl Stream for Body {
    type Item = Result<Bytes, NetworkError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.chunks.poll_next_unpin(context)
    }
}

impl Body {
    /// A body that is said to have `length` bytes.
    pub fn new(chunks: impl Stream<Item = Result<Bytes, NetworkError>> + Send + 'static, length: Option<u64>) -> Self {
        Self { chunks: Box::pin(chunks), length }
    }

    /// The body of an HTTP message. Whatever it ends with besides bytes is left out.
    pub fn from_http<B>(body: B) -> Self
    where
        B: hyper::body::Body<Data = Bytes, Error: std::error::Error> + Send + 'static,
    {
        let length = body.size_hint().exact();
        let chunks = body.into_data_stream().map_err(|error| {
            let why = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
            NetworkError::Unreachable(why)
        });
        Self::new(chunks, length)
    }

    /// All of it, if it has at most `bytes_max` bytes.
    ///
    /// # Errors
    /// It is longer, or broke off.
    pub async fn collect(mut self, bytes_max: usize) -> Result<Bytes, NetworkError> {
        self.check_claim(bytes_max)?;
        let mut all = BytesMut::new();
        let mut first: Option<Bytes> = None;
        while let Some(chunk) = self.next().await {
            let chunk = chunk?;
            if all.len() + first.as_ref().map_or(0, Bytes::len) + chunk.len() > bytes_max {
                return Err(NetworkError::TooLong(bytes_max));
            }
            // Most bodies are one chunk: those are not copied.
            match first.take() {
                None if all.is_empty() => first = Some(chunk),
                earlier => {
                    all.extend_from_slice(&earlier.unwrap_or_default());
                    all.extend_from_slice(&chunk);
                }
            }
        }
        Ok(first.unwrap_or_else(|| all.freeze()))
    }

    /// The same body within limits, whose time counts from `since`: it must not be longer than allowed, nor of another
    /// length than it was said to be, nor come too slowly.
    ///
    /// # Errors
    /// It is said to be too long.
    pub fn within(self, limits: Limits, since: Instant) -> Result<Self, NetworkError> {
        self.paced(limits, since, PACE_TIME)
    }

    fn paced(self, limits: Limits, since: Instant, pace: Duration) -> Result<Self, NetworkError> {
        self.check_claim(limits.body_bytes_max)?;
        let length = self.length;
        let reading = Reading {
            chunks: self.chunks,
            missing: length,
            left: limits.body_bytes_max,
            bytes_max: limits.body_bytes_max,
            deadline: since + limits.time,
            pace,
            pace_until: Instant::now() + pace,
            pace_bytes: 0,
        };
        let chunks = stream::unfold(Some(reading), |reading| async move {
            let mut reading = reading?;
            match reading.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(reading))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Self { chunks: Box::pin(chunks), length })
    }

    fn check_claim(&self, bytes_max: usize) -> Result<(), NetworkError> {
        match self.length {
            Some(length) if length > bytes_max as u64 => Err(NetworkError::TooLong(bytes_max)),
            _ => Ok(()),
        }
    }
}

/// A body that is being read.
struct Reading {
    chunks: Chunks,
    /// Bytes to come, if their number was said.
    missing: Option<u64>,
    /// Bytes that may come.
    left: usize,
    bytes_max: usize,
    deadline: Instant,
    pace: Duration,
    pace_until: Instant,
    pace_bytes: usize,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, NetworkError> {
        let until = self.deadline.min(self.pace_until);
        let chunk = timeout_at(until, self.chunks.next()).await.map_err(|_| NetworkError::Timeout)?;
        let Some(chunk) = chunk.transpose()? else {
            return match self.missing {
                None | Some(0) => Ok(None),
                Some(_) => Err(NetworkError::Unreachable("the answer ended before its end".to_owned())),
            };
        };
        self.left = self.left.checked_sub(chunk.len()).ok_or(NetworkError::TooLong(self.bytes_max))?;
        if let Some(missing) = &mut self.missing {
            let longer = || NetworkError::Malformed("the answer is longer than it was said to be".to_owned());
            *missing = missing.checked_sub(chunk.len() as u64).ok_or_else(longer)?;
        }
        self.pace_bytes += chunk.len();
        if self.pace_bytes >= PACE_BYTES {
            self.pace_bytes = 0;
            self.pace_until = Instant::now() + self.pace;
        }
        Ok(Some(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    async fn read(body: Body, bytes_max: usize) -> Result<usize, NetworkError> {
        count(body.within(Limits { time: HOUR, body_bytes_max: bytes_max }, Instant::now())?).await
    }

    async fn count(mut body: Body) -> Result<usize, NetworkError> {
        let mut bytes = 0;
        while let Some(chunk) = body.next().await {
            bytes += chunk?.len();
        }
        Ok(bytes)
    }

    fn chunks(count: usize, bytes: usize) -> impl Stream<Item = Result<Bytes, NetworkError>> {
        stream::iter((0..count).map(move |_| Ok(Bytes::from(vec![b'x'; bytes]))))
    }

    #[tokio::test]
    async fn a_body_is_as_long_as_it_says_and_no_longer_than_allowed() {
        assert_eq!(read(Body::new(chunks(3, 10), Some(30)), 30).await, Ok(30));
        assert_eq!(read(Body::new(chunks(3, 10), None), 30).await, Ok(30));
        assert_eq!(read(Body::new(chunks(3, 10), None), 29).await, Err(NetworkError::TooLong(29)));
        assert_eq!(read(Body::new(stream::pending(), Some(31)), 30).await, Err(NetworkError::TooLong(30)));
        let short = read(Body::new(chunks(3, 10), Some(31)), 100).await;
        assert!(matches!(short, Err(NetworkError::Unreachable(_))), "{short:?}");
        let long = read(Body::new(chunks(3, 10), Some(29)), 100).await;
        assert!(matches!(long, Err(NetworkError::Malformed(_))), "{long:?}");
        // Without an end.
        assert_eq!(read(Body::new(chunks(usize::MAX, 10), None), 95).await, Err(NetworkError::TooLong(95)));
        assert_eq!(Body::new(chunks(usize::MAX, 10), None).collect(95).await, Err(NetworkError::TooLong(95)));
    }

    #[tokio::test]
    async fn a_body_that_comes_too_slowly_is_given_up() {
        let trickle = |bytes| {
            stream::unfold((), move |()| async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Some((Ok(Bytes::from(vec![b'x'; bytes])), ()))
            })
        };
        let soon = Duration::from_millis(20);
        let slow = [Body::new(stream::pending(), None), Body::new(trickle(1), None)];
        for body in slow {
            let limits = Limits { time: HOUR, body_bytes_max: usize::MAX };
            let read = count(body.paced(limits, Instant::now(), soon).unwrap()).await;
            assert_eq!(read, Err(NetworkError::Timeout));
        }
        // Fast enough, for ever.
        let limits = Limits { time: soon, body_bytes_max: usize::MAX };
        let endless = Body::new(trickle(PACE_BYTES), None).paced(limits, Instant::now(), HOUR).unwrap();
        assert_eq!(count(endless).await, Err(NetworkError::Timeout));
    }
}
