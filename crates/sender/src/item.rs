//! What waits for a destination.

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use samtal_policy::Action;

/// Something in the change log that a destination must hear of, by reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// An event.
    Event { room: OwnedRoomId, event_id: OwnedEventId },
    /// A device of a user of ours changed, or their cross-signing keys.
    DeviceList { user: OwnedUserId },
    /// A user of ours who now shares a room: all their devices.
    Devices { user: OwnedUserId },
    /// A user of ours whose devices changed while nobody knew that the destination had to hear of it.
    Missed { user: OwnedUserId },
    /// A user of ours has read something.
    Receipt { room: OwnedRoomId, user: OwnedUserId },
    /// Our fresh sticky events of a room, for a server that has come into it.
    Sticky { room: OwnedRoomId },
    /// A stored EDU.
    Edu,
}

impl Item {
    /// What policy calls it.
    pub(crate) fn action(&self) -> Action {
        match self {
            Self::Event { .. } | Self::Sticky { .. } => Action::Event,
            Self::DeviceList { .. } | Self::Devices { .. } | Self::Missed { .. } | Self::Receipt { .. } | Self::Edu => {
                Action::Edu
            }
        }
    }
}

/// An item and the position of its change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) position: i64,
    pub(crate) item: Item,
}
