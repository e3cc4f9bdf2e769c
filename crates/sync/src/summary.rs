//! Who is in a room, in a few words.

use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};
use samtal_room::{Member, Room, RoomError, Store};
use samtal_state::SnapshotId;

/// Users that a room without a name is named after.
const HEROES_MAX: usize = 5;

/// How many are in a room, and who.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) joined: u64,
    pub(crate) invited: u64,
    /// None where the room has a name.
    pub(crate) heroes: Option<Vec<OwnedUserId>>,
}

impl Summary {
    /// The summary of a room for one reader, as of `state`.
    pub(crate) async fn read(
        store: &Store,
        room: &Room,
        state: SnapshotId,
        reader: &UserId,
    ) -> Result<Self, RoomError> {
        let (joined, invited) = store.graph.counts(room.nid).await?;
        let heroes = if is_named(store, state).await? { None } else { Some(heroes(store, room, reader).await?) };
        Ok(Self { joined, invited, heroes })
    }
}

/// Whether the room has a name or an alias that stands for one.
async fn is_named(store: &Store, state: SnapshotId) -> Result<bool, RoomError> {
    for (event_type, field) in [("m.room.name", "name"), ("m.room.canonical_alias", "alias")] {
        let event = store.state_event(state, event_type, "").await?;
        let text = event.and_then(|event| event.pdu.content_field::<String>(field));
        if text.is_some_and(|text| !text.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The first few others who are there or invited; where nobody is, those who were.
async fn heroes(store: &Store, room: &Room, reader: &UserId) -> Result<Vec<OwnedUserId>, RoomError> {
    use MembershipState::{Ban, Invite, Join, Leave};
    for of in [[Join, Invite], [Leave, Ban]] {
        let mut members: Vec<Member> = store.graph.members(room.nid, &of).await?;
        members.retain(|member| member.user_id != reader);
        members.sort_unstable_by(|one, other| (one.position, &one.user_id).cmp(&(other.position, &other.user_id)));
        if !members.is_empty() {
            return Ok(members.into_iter().take(HEROES_MAX).map(|member| member.user_id).collect());
        }
    }
    Ok(Vec::new())
}
