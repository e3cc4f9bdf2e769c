//! Places in time and in history as clients hold them. Opaque to clients, versioned, the same on every node.

use std::{fmt, str::FromStr};

use crate::StreamPosition;

/// Where a sync ended: everything up to here has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SyncToken {
    /// The position in the change log.
    pub position: StreamPosition,
    /// The serial number of typing.
    pub typing: u64,
    /// The serial number of presence.
    pub presence: u64,
    /// The position up to which to-device messages have been told, when some up to `position` have not; 0 otherwise.
    pub to_device: i64,
}

/// A text that is no token of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidToken;

impl fmt::Display for InvalidToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a token of this server")
    }
}

impl std::error::Error for InvalidToken {}

impl SyncToken {
    /// A place in the change log alone, as `prev_batch` gives it.
    pub fn at(position: StreamPosition) -> Self {
        Self { position, typing: 0, presence: 0, to_device: 0 }
    }
}

/// `s1_position_typing_presence_todevice`, without zeros at the end.
impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s1_{}", self.position)?;
        let lagging = self.to_device != 0;
        if lagging || self.typing != 0 || self.presence != 0 {
            write!(f, "_{}_{}", self.typing, self.presence)?;
        }
        if lagging {
            write!(f, "_{}", self.to_device)?;
        }
        Ok(())
    }
}

impl FromStr for SyncToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let mut parts = text.strip_prefix("s1_").ok_or(InvalidToken)?.split('_');
        let position = parts.next().and_then(|part| part.parse().ok()).ok_or(InvalidToken)?;
        let mut serial = || parts.next().map_or(Ok(0), |part| part.parse().map_err(|_| InvalidToken));
        let (typing, presence) = (serial()?, serial()?);
        let to_device = i64::try_from(serial()?).map_err(|_| InvalidToken)?;
        let token = Self { position: StreamPosition(position), typing, presence, to_device };
        if parts.next().is_some() { Err(InvalidToken) } else { Ok(token) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_as_it_was_written() {
        for (token, text) in [
            (SyncToken { position: StreamPosition(7), typing: 8, presence: 9, to_device: 0 }, "s1_7_8_9"),
            (SyncToken { position: StreamPosition(7), typing: 0, presence: 0, to_device: 5 }, "s1_7_0_0_5"),
            (SyncToken::at(StreamPosition(-5)), "s1_-5"),
        ] {
            assert_eq!(token.to_string(), text);
            assert_eq!(text.parse(), Ok(token));
        }
        for wrong in ["", "s1_", "s2_7", "s1_7_8_9_1_1", "s1_x", "7", "s1_7__"] {
            assert_eq!(wrong.parse::<SyncToken>(), Err(InvalidToken), "{wrong}");
        }
    }
}
