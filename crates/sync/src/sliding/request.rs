//! What a client asks for, in both shapes of the interface, checked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, presence::PresenceState};
use serde::Deserialize;

use crate::{SyncError, sliding::required::Wish};

/// Lists of one request.
const LISTS_MAX: usize = 100;
/// Length of a list's name.
const LIST_NAME_MAX: usize = 64;
/// Subscriptions of one request, in the shape that clients have.
const SUBSCRIPTIONS_MAX: usize = 1_000;
/// Subscriptions of one request, in the shape that was accepted.
const SUBSCRIPTIONS_ACCEPTED_MAX: usize = 100;
/// Length of a connection's name, in characters.
const CONN_ID_MAX: usize = 64;
/// Most timeline events of one room.
const TIMELINE_LIMIT_MAX: usize = 500;
/// Ranges of one list.
const RANGES_MAX: usize = 100;
/// State patterns of one list or subscription.
const STATE_MAX: usize = 1_000;

/// Which shape of the interface is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `org.matrix.simplified_msc3575`, as clients have it.
    Deployed,
    /// MSC4186 as it was accepted: `/v4/sync`.
    Accepted,
}

/// The JSON body of a request.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Body {
    /// The connection; there is one without a name.
    #[serde(default)]
    pub conn_id: Option<String>,
    /// Given back in the answer.
    #[serde(default)]
    pub txn_id: Option<String>,
    /// The position of the last answer.
    #[serde(default)]
    pub pos: Option<String>,
    /// How long to wait, in milliseconds.
    #[serde(default)]
    pub timeout: Option<u64>,
    /// What the user is while they sync.
    #[serde(default)]
    pub set_presence: Option<String>,
    #[serde(default)]
    pub(crate) lists: BTreeMap<String, ListBody>,
    #[serde(default)]
    pub(crate) room_subscriptions: BTreeMap<OwnedRoomId, RoomBody>,
    #[serde(default)]
    pub(crate) extensions: Extensions,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ListBody {
    #[serde(default)]
    ranges: Vec<(u64, u64)>,
    #[serde(default)]
    range: Option<(u64, u64)>,
    #[serde(flatten)]
    room: RoomBody,
    #[serde(default)]
    pub(crate) filters: Option<Filters>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct RoomBody {
    #[serde(default)]
    timeline_limit: u64,
    #[serde(default)]
    required_state: RequiredBody,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum RequiredBody {
    Pairs(Vec<(String, String)>),
    Sets {
        #[serde(default)]
        include: Vec<Pattern>,
        #[serde(default)]
        exclude: Vec<Pattern>,
        #[serde(default)]
        lazy_members: bool,
    },
}

impl Default for RequiredBody {
    fn default() -> Self {
        Self::Pairs(Vec::new())
    }
}

/// A pattern of the accepted shape.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Pattern {
    #[serde(rename = "type")]
    pub(crate) event_type: Option<String>,
    pub(crate) state_key: Option<String>,
}

/// Which rooms a list holds. All must hold; a missing one says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Filters {
    pub(crate) is_dm: Option<bool>,
    pub(crate) is_encrypted: Option<bool>,
    #[serde(alias = "is_invited")]
    pub(crate) is_invite: Option<bool>,
    pub(crate) room_types: Option<Vec<Option<String>>>,
    pub(crate) not_room_types: Option<Vec<Option<String>>>,
    pub(crate) spaces: Option<Vec<OwnedRoomId>>,
    pub(crate) tags: Option<Vec<String>>,
    pub(crate) not_tags: Option<Vec<String>>,
    pub(crate) room_name_like: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Extensions {
    #[serde(default)]
    pub(crate) to_device: Paged,
    #[serde(default)]
    pub(crate) e2ee: Enabled,
    #[serde(default)]
    pub(crate) account_data: Scoped,
    #[serde(default)]
    pub(crate) receipts: Scoped,
    #[serde(default)]
    pub(crate) typing: Scoped,
    #[serde(default, rename = "io.element.msc4308.thread_subscriptions")]
    pub(crate) threads: Limited,
    #[serde(default, rename = "org.matrix.msc4354.sticky_events")]
    pub(crate) sticky: Paged,
}

/// An extension of which there can be much.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Limited {
    #[serde(default)]
    pub(crate) enabled: Option<bool>,
    #[serde(default)]
    pub(crate) limit: Option<u64>,
}

/// An extension whose client says how far it has come.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Paged {
    #[serde(default)]
    pub(crate) enabled: Option<bool>,
    #[serde(default)]
    pub(crate) limit: Option<u64>,
    #[serde(default)]
    pub(crate) since: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Enabled {
    #[serde(default)]
    pub(crate) enabled: Option<bool>,
}

/// An extension that can be had for some rooms only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Scoped {
    #[serde(default)]
    pub(crate) enabled: Option<bool>,
    #[serde(default)]
    pub(crate) lists: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) rooms: Option<Vec<String>>,
}

/// What is wanted of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RoomWish {
    pub(crate) timeline_limit: usize,
    pub(crate) state: Wish,
}

/// A list of rooms.
#[derive(Clone, Debug)]
pub(crate) struct List {
    /// Inclusive. None stands for all rooms.
    pub(crate) ranges: Vec<(usize, usize)>,
    pub(crate) room: RoomWish,
    pub(crate) filters: Filters,
}

/// A request, checked.
#[derive(Clone, Debug)]
pub struct SlidingRequest {
    /// Who asks.
    pub user_id: OwnedUserId,
    /// With which device.
    pub device_id: Option<OwnedDeviceId>,
    /// How long they wait for something to tell.
    pub timeout: Duration,
    /// What they are while they sync.
    pub set_presence: PresenceState,
    pub(crate) shape: Shape,
    pub(crate) pos: Option<String>,
    pub(crate) conn_id: String,
    pub(crate) txn_id: Option<String>,
    pub(crate) lists: Arc<BTreeMap<String, List>>,
    pub(crate) subscriptions: Arc<BTreeMap<OwnedRoomId, RoomWish>>,
    pub(crate) extensions: Extensions,
}

fn at_most(what: &str, count: usize, max: usize) -> Result<(), SyncError> {
    if count > max { Err(SyncError::Invalid(format!("{what}: {count}, at most {max} are possible"))) } else { Ok(()) }
}

impl SlidingRequest {
    /// Checks a request.
    pub fn new(
        shape: Shape,
        user_id: OwnedUserId,
        device_id: Option<OwnedDeviceId>,
        set_presence: PresenceState,
        body: Body,
    ) -> Result<Self, SyncError> {
        let conn_id = body.conn_id.unwrap_or_default();
        at_most("characters of conn_id", conn_id.chars().count(), CONN_ID_MAX)?;
        at_most("lists", body.lists.len(), LISTS_MAX)?;
        let subscriptions_max = match shape {
            Shape::Deployed => SUBSCRIPTIONS_MAX,
            Shape::Accepted => SUBSCRIPTIONS_ACCEPTED_MAX,
        };
        at_most("room subscriptions", body.room_subscriptions.len(), subscriptions_max)?;
        let mut lists = BTreeMap::new();
        for (name, list) in body.lists {
            at_most("characters of a list's name", name.len(), LIST_NAME_MAX)?;
            let room = list.room.check(&user_id)?;
            let ranges = ranges(list.ranges.into_iter().chain(list.range))?;
            lists.insert(name, List { ranges, room, filters: list.filters.unwrap_or_default() });
        }
        let mut subscriptions = BTreeMap::new();
        for (room_id, room) in body.room_subscriptions {
            subscriptions.insert(room_id, room.check(&user_id)?);
        }
        Ok(Self {
            timeout: Duration::from_millis(body.timeout.unwrap_or(0)),
            set_presence,
            shape,
            pos: body.pos.filter(|pos| !pos.is_empty()),
            conn_id,
            txn_id: body.txn_id,
            lists: Arc::new(lists),
            subscriptions: Arc::new(subscriptions),
            extensions: body.extensions,
            user_id,
            device_id,
        })
    }
}

fn ranges(ranges: impl Iterator<Item = (u64, u64)>) -> Result<Vec<(usize, usize)>, SyncError> {
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let ranges: Vec<_> = ranges.map(|(from, to)| (number(from), number(to))).collect();
    at_most("ranges", ranges.len(), RANGES_MAX)?;
    match ranges.iter().find(|(from, to)| from > to) {
        Some((from, to)) => Err(SyncError::Invalid(format!("the range {from} to {to} is empty"))),
        None => Ok(ranges),
    }
}

impl RoomBody {
    fn check(self, reader: &OwnedUserId) -> Result<RoomWish, SyncError> {
        let state = match &self.required_state {
            RequiredBody::Pairs(pairs) => {
                at_most("state patterns", pairs.len(), STATE_MAX)?;
                Wish::of_pairs(pairs, reader)
            }
            RequiredBody::Sets { include, exclude, lazy_members } => {
                at_most("state patterns", include.len() + exclude.len(), STATE_MAX)?;
                Wish::of_sets(include, exclude, *lazy_members)
            }
        };
        let timeline_limit = usize::try_from(self.timeline_limit).unwrap_or(usize::MAX).min(TIMELINE_LIMIT_MAX);
        Ok(RoomWish { timeline_limit, state })
    }
}
