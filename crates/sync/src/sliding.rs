//! Simplified sliding sync (MSC4186): the rooms in view, in the order of their activity, over the same core.
//!
//! Modules in reading order: [`required`] (which state is wanted) → [`request`] (both shapes, checked) → [`connection`]
//! (what has been told) → [`list`] (what filters ask) → [`board`] (which rooms are in view) → [`room`] (one of them:
//! its [`timeline`], its [`state`], its [`names`]) → [`extension`] (what is beside).

mod beside;
mod board;
pub(crate) mod connection;
mod extension;
pub(crate) mod list;
mod names;
mod request;
mod required;
mod room;
mod state;
mod timeline;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, presence::PresenceState};
use samtal_model::SyncToken;
use samtal_room::{EventNid, RoomMembership};

pub use self::request::{Body as SlidingBody, Shape, SlidingRequest};
use self::{
    beside::{Beside, Scopes},
    board::{Board, InView, Shown},
    connection::{Kind, Memory},
    list::Personal,
};
use crate::{
    Sync, SyncError,
    core::Company,
    json::Object,
    listener::{Listener, Memberships},
    view::Reader,
};

/// Longest wait.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// What holds for all rooms of one answer.
pub(crate) struct Turn<'a> {
    pub(crate) request: &'a SlidingRequest,
    pub(crate) reader: Reader<'a>,
    /// Where the connection stands; none for its first answer.
    pub(crate) from: Option<SyncToken>,
    pub(crate) until: i64,
    pub(crate) ignored: Arc<HashSet<OwnedUserId>>,
    pub(crate) personal: Arc<Personal>,
    /// Rooms in which the user's own receipts moved.
    pub(crate) read: HashSet<OwnedRoomId>,
    /// Sticky events that timelines of this answer show.
    pub(crate) shown: Mutex<HashSet<EventNid>>,
    /// Rooms of which this answer tells other parts than the last one did.
    pub(crate) moved: HashMap<OwnedRoomId, Beside>,
}

/// The rooms of one answer.
pub(crate) struct Scene<'a> {
    /// All of them; none where the connection asks for no rooms.
    pub(crate) board: Option<&'a Board>,
    /// Those in view that were looked at: all that the connection knew nothing of, and what may have changed.
    pub(crate) fresh: Vec<InView<'a>>,
}

impl<'a> Scene<'a> {
    /// What was looked at, and of the others in view those among `changed`; all of them where it is not known what changed.
    pub(crate) fn rooms<'b>(
        &self,
        changed: Option<impl IntoIterator<Item = &'b OwnedRoomId>>,
    ) -> BTreeMap<&'a RoomId, Shown<'a>> {
        let mut rooms: BTreeMap<&RoomId, Shown<'_>> =
            self.fresh.iter().map(|room| (&*room.shown.membership.room_id, room.shown)).collect();
        if let Some(board) = self.board {
            let others: Vec<Shown<'_>> = match changed {
                Some(changed) => changed.into_iter().filter_map(|room_id| board.shown(room_id)).collect(),
                None => board.all_shown().collect(),
            };
            rooms.extend(others.into_iter().map(|shown| (&*shown.membership.room_id, shown)));
        }
        rooms
    }
}

struct Answer {
    body: String,
    is_news: bool,
}

/// Says that a user is there for as long as it lives.
struct Online<'a>(&'a samtal_edu::Edus, &'a OwnedUserId, &'a PresenceState);

impl Drop for Online<'_> {
    fn drop(&mut self) {
        self.0.presence.sync_ended(self.1, self.2);
    }
}

impl Sync {
    /// Answers with what is new in view; waits for it when there is nothing yet. The answer is the JSON body.
    pub async fn sliding_sync(&self, request: &SlidingRequest) -> Result<String, SyncError> {
        let edus = &self.engines.edus;
        edus.presence.sync_began(&request.user_id, request.device_id.as_deref(), &request.set_presence);
        let _online = Online(edus, &request.user_id, &request.set_presence);
        let listener = self.listener(&request.user_id).await?;
        let began = self.active.position();
        let key = (request.user_id.clone(), request.device_id.clone(), request.conn_id.clone());
        let connection = self.connections.get(&key, self.engines.clock.now_ms());
        let mut later = connection.enter();
        later.mark_unchanged();
        let mut heard = listener.listen();
        let wait = tokio::time::sleep(request.timeout.min(WAIT_MAX));
        tokio::pin!(wait);
        loop {
            heard.mark_unchanged();
            let answer = {
                let mut memory = connection.memory.lock().await;
                let from = memory.resume(request.pos.as_deref())?;
                let answer = Box::pin(self.sliding_answer(request, &listener, &mut memory, from)).await?;
                self.connections.remembers(&key, &memory);
                answer
            };
            if answer.is_news || request.pos.is_none() || request.timeout.is_zero() {
                return Ok(answer.body);
            }
            tokio::select! {
                _ = heard.changed() => {}
                _ = later.changed() => return Ok(answer.body),
                () = &mut wait => return Ok(answer.body),
                () = self.engines.tasks.stopping() => return Ok(answer.body),
            }
            if listener.ended_since(began, request.device_id.as_ref()) {
                return Err(SyncError::Ended);
            }
        }
    }

    async fn sliding_answer(
        &self,
        request: &SlidingRequest,
        listener: &Listener,
        memory: &mut Memory,
        from: Option<SyncToken>,
    ) -> Result<Answer, SyncError> {
        let user_id = &request.user_id;
        let (memberships, until) = self.memberships(listener).await?;
        let edus = &self.engines.edus;
        let next = SyncToken { typing: edus.typing.serial(), ..SyncToken::at(until.into()) };
        let after = from.map_or(until, |from| from.position.0);
        // A connection for keys and messages of devices looks at no rooms.
        let has_rooms = !request.lists.is_empty() || !request.subscriptions.is_empty();
        let mut board = match has_rooms {
            true => Some(Box::pin(self.board(request, listener, memory, &memberships, until)).await?),
            false => None,
        };
        let (counts, fresh) = board.as_mut().map(Board::look).unwrap_or_default();
        let (personal, ignored) = match &board {
            Some(board) => (Arc::clone(&board.basis().personal), Arc::clone(&board.basis().ignored)),
            None => (Arc::default(), self.ignored(listener, until).await?),
        };
        let fresh = fresh.into_iter().filter_map(|place| board.as_ref()?.in_view(place)).collect();
        let scene = Scene { board: board.as_ref(), fresh };
        // Of a room that comes back into view it counts what was read meanwhile.
        let back = scene.fresh.iter().filter_map(|room| memory.told(&room.shown.membership.room_id));
        let read_after = back.filter(|told| !told.beside.has(Beside::VIEW)).map(|told| told.upto).fold(after, i64::min);
        let reads = match listener.is_quiet_since(read_after) {
            true => Vec::new(),
            false => edus.receipts.of_user(user_id, read_after, until).await?,
        };
        let turn = Turn {
            request,
            reader: Reader { user_id, device_id: request.device_id.as_deref(), now_ms: self.engines.clock.now_ms() },
            from,
            until,
            ignored,
            personal,
            read: reads.into_iter().map(|receipt| receipt.room_id).collect(),
            shown: Mutex::default(),
            moved: beside::moves(request, &scene, memory),
        };
        let (rooms, mut told) = self.fresh_rooms(&turn, &scene, memory).await?;
        let company = match from.filter(|_| request.extensions.e2ee.enabled == Some(true)) {
            Some(from) => self.company(&request.user_id, &memberships, from.position.0, until).await?,
            None => Company::default(),
        };
        let extended = Box::pin(self.extensions(&turn, &scene, memory, listener, company)).await?;
        let is_news = !rooms.is_empty() || extended.is_news;
        drop(scene);
        let has_moved = !turn.moved.is_empty();
        for (room_id, beside) in turn.moved {
            if let Some(told) = told.get_mut(&room_id) {
                told.beside = beside;
            } else if let Some(before) = memory.told(&room_id) {
                told.insert(room_id, connection::Told { beside, ..before.clone() });
            }
        }
        let pos = memory.answered(next, Scopes::of(request), told, board, is_news || has_moved);
        Ok(Answer { body: written(request, &pos, &counts, &rooms, &extended.json), is_news })
    }

    /// The rooms of the scene that are worth telling, written; and what the connection will have of those that were looked at.
    async fn fresh_rooms(
        &self,
        turn: &Turn<'_>,
        scene: &Scene<'_>,
        memory: &Memory,
    ) -> Result<(Vec<(OwnedRoomId, String)>, HashMap<OwnedRoomId, connection::Told>), SyncError> {
        let (mut rooms, mut told) = (Vec::new(), HashMap::new());
        for room in &scene.fresh {
            let room_id = &room.shown.membership.room_id;
            let before = memory.told(room_id);
            if let Some(before) = before
                && self.is_quiet(turn, room, before)
            {
                continue;
            }
            let answered = Box::pin(self.sliding_room(turn, room, before)).await?;
            told.insert(room_id.clone(), answered.told);
            rooms.extend(answered.json.map(|json| (room_id.clone(), json)));
        }
        Ok((rooms, told))
    }

    /// Whether nothing can be new in a room, seen from what the connection has of it.
    fn is_quiet(&self, turn: &Turn<'_>, room: &InView<'_>, before: &connection::Told) -> bool {
        let Shown { membership, kind, .. } = room.shown;
        let room_id = &membership.room_id;
        let changed = self.active.changed([&**room_id], before.upto).into_iter().any(|changed| changed.events);
        let same_wish = room.timeline_limit <= before.timeline_limit && room.required == before.required;
        let same_kind = kind == before.kind && membership.position.0 <= before.upto;
        let same_dm = turn.personal.direct.contains(room_id.as_str()) == before.is_dm;
        same_kind && same_wish && same_dm && !turn.read.contains(room_id) && (kind != Kind::Joined || !changed)
    }

    /// Who came to and went from the user's rooms.
    async fn company(
        &self,
        user_id: &OwnedUserId,
        memberships: &Memberships,
        after: i64,
        until: i64,
    ) -> Result<Company, SyncError> {
        use ruma::events::room::member::MembershipState::{Ban, Join, Leave};
        let mut company = Company::default();
        let store = self.store();
        let rooms: Vec<&RoomMembership> = match self.active.changed_rooms(after) {
            Some(changed) => memberships.of(changed.iter().map(|room_id| &**room_id), after),
            None => memberships.iter().collect(),
        };
        let changed = self.active.changed(rooms.iter().map(|membership| &*membership.room_id), after);
        for (membership, changed) in rooms.into_iter().zip(changed) {
            let room_id = &membership.room_id;
            let is_new = membership.position.0 > after;
            match membership.membership {
                Join if is_new && !self.was_joined(user_id, room_id, after).await? => {
                    company.new_rooms.push(room_id.clone());
                }
                Join if changed.events || is_new => {
                    let room = self.engines.rooms.room(room_id).await?;
                    let from = store.state_at(room.nid, after.into()).await?;
                    let end = store.state_at(room.nid, until.into()).await?;
                    let differences = store.snapshots.diff(from, end).await?;
                    let members = crate::span::MemberChanges::read(store, &differences).await?;
                    company.joined.extend(members.joined);
                    company.invited.extend(members.invited);
                    company.left.extend(members.left);
                }
                Leave | Ban if is_new && self.was_joined(user_id, room_id, after).await? => {
                    company.left_rooms.push((room_id.clone(), membership.position));
                }
                _ => {}
            }
        }
        Ok(company)
    }
}

/// The body of an answer.
fn written(
    request: &SlidingRequest,
    pos: &str,
    counts: &BTreeMap<String, usize>,
    rooms: &[(OwnedRoomId, String)],
    extensions: &str,
) -> String {
    let mut body = String::with_capacity(256 + rooms.iter().map(|(_, json)| json.len() + 64).sum::<usize>());
    let mut object = Object::new(&mut body);
    object.text("pos", pos);
    if let Some(txn_id) = &request.txn_id {
        object.text("txn_id", txn_id);
    }
    object.object("lists", |inner| {
        for (name, count) in counts {
            inner.object(name, |inner| inner.number("count", *count as u64));
        }
    });
    // There even if it is empty.
    let mut inner = Object::new(object.key("rooms"));
    for (room_id, json) in rooms {
        inner.raw(room_id.as_str(), json);
    }
    inner.end();
    object.raw("extensions", extensions);
    object.end();
    body
}
