//! What concerns a service (AS API, "Namespaces"): rooms that it names by id or alias, and rooms that its users are in.

use lru::LruCache;
use ruma::{OwnedRoomId, RoomId, UserId, events::room::member::MembershipState};
use samtal_room::{RoomError, Rooms};

use crate::Service;

/// Rooms whose answer is kept.
const ROOMS_MAX: usize = 10_000;

/// How a room concerns a service.
#[derive(Clone, Copy, Debug)]
struct Concern {
    /// By its id or an alias, or because a user of the service is in it.
    now: bool,
    /// Until where it did, for users of the service who have left.
    until: i64,
}

/// What is known about the rooms that a service may hear of. Changes of memberships and aliases must be told to it.
pub(crate) struct Interest {
    rooms: LruCache<OwnedRoomId, Concern>,
}

impl Interest {
    pub(crate) fn new() -> Self {
        Self { rooms: LruCache::new(std::num::NonZeroUsize::new(ROOMS_MAX).unwrap_or(std::num::NonZeroUsize::MIN)) }
    }

    /// A member of the room changed.
    pub(crate) fn member_changed(&mut self, service: &Service, room: &RoomId, user: &UserId) {
        if service.has_user(user) {
            self.rooms.pop(room);
        }
    }

    /// The room's aliases changed.
    pub(crate) fn aliases_changed(&mut self, room: &RoomId) {
        self.rooms.pop(room);
    }

    /// Whether what happened at `position` in the room concerns the service. A service that lags behind hears what happened
    /// before its users left.
    pub(crate) async fn room(
        &mut self,
        rooms: &Rooms,
        service: &Service,
        room_id: &RoomId,
        position: i64,
    ) -> Result<bool, RoomError> {
        let known = match self.rooms.get(room_id) {
            Some(known) => *known,
            None => {
                let found = concern(rooms, service, room_id).await?;
                self.rooms.put(room_id.to_owned(), found);
                found
            }
        };
        Ok(known.now || position <= known.until)
    }
}

async fn concern(rooms: &Rooms, service: &Service, room_id: &RoomId) -> Result<Concern, RoomError> {
    const NO: Concern = Concern { now: false, until: i64::MIN };
    let yes = Concern { now: true, ..NO };
    if service.has_room(room_id.as_str()) {
        return Ok(yes);
    }
    if !service.account.aliases.is_empty() {
        let aliases = rooms.aliases(room_id).await?;
        if aliases.iter().any(|alias| service.has_alias(alias.as_str())) {
            return Ok(yes);
        }
    }
    let Some(room) = rooms.store().graph.room(room_id).await? else { return Ok(NO) };
    let graph = &rooms.store().graph;
    if graph.joined_of(room.nid, rooms.server_name()).await?.iter().any(|user| service.has_user(user)) {
        return Ok(yes);
    }
    let gone = graph.members(room.nid, &[MembershipState::Leave, MembershipState::Ban]).await?;
    let until = gone.iter().filter(|member| service.has_user(&member.user_id)).map(|member| member.position.0).max();
    Ok(Concern { now: false, until: until.unwrap_or(i64::MIN) })
}
