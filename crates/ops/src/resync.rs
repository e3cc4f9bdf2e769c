//! The rest of a room's state, after a join that brought a part of it (MSC3706, MSC3902).
//!
//! That such a room is there is a row of the database from the moment we are in it: the rows are the jobs. A restart goes on with
//! what was not finished. A server that does not answer is tried again later, with others in between; when nobody of ours is left
//! in the room there is nothing to do any more.

use std::{collections::HashSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, ServerName};
use samtal_event::Pdu;
use samtal_room::{PartialRoom, Room, RoomError};
use tokio::sync::Semaphore;

use crate::{Homeserver, OpError};

/// Rooms whose state is fetched at once: each may hold a large answer in memory.
const AT_ONCE: usize = 2;
/// Servers asked one after the other, before a pause.
const SERVERS_MAX: usize = 8;
/// The first pause.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(300);

impl Homeserver {
    /// Fetches what is missing of rooms, now and whenever one is entered so. Ends with the tenant.
    pub(crate) async fn follow_partial_rooms(self: Arc<Self>) {
        let running: Arc<Mutex<HashSet<(OwnedRoomId, OwnedEventId)>>> = Arc::default();
        let at_once = Arc::new(Semaphore::new(AT_ONCE));
        let mut changed = self.rooms.store().partial.subscribe();
        loop {
            for partial in self.rooms.store().partial.unfinished() {
                let key = (partial.room_id.clone(), partial.join_event.clone());
                if !running.lock().insert(key.clone()) {
                    continue;
                }
                let (hs, running, at_once) = (Arc::clone(&self), Arc::clone(&running), Arc::clone(&at_once));
                self.tasks.spawn("room state", async move {
                    hs.resync_room(&partial, &at_once).await;
                    running.lock().remove(&key);
                });
            }
            tokio::select! {
                () = self.tasks.stopping() => return,
                heard = changed.changed() => if heard.is_err() { return },
            }
        }
    }

    /// Goes on until the room's state is whole, or nobody needs it.
    async fn resync_room(&self, partial: &PartialRoom, at_once: &Semaphore) {
        let mut pause = PAUSE_MIN;
        loop {
            let round = async {
                // The semaphore is never closed.
                let _permit = at_once.acquire().await;
                let Some(_lease) = self.db.lease(&format!("state of {}", partial.room_id)).await? else {
                    return Ok(false);
                };
                self.resync_round(partial).await
            };
            let round = tokio::select! {
                () = self.tasks.stopping() => return,
                round = round => round,
            };
            match round {
                Ok(true) => return,
                Ok(false) => tracing::info!(room = %partial.room_id, "no server tells the room's state; later again"),
                Err(error) => tracing::error!(room = %partial.room_id, %error, "the room's state waits"),
            }
            tokio::select! {
                () = self.tasks.stopping() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Asks each server once. Whether there is nothing more to do.
    async fn resync_round(&self, partial: &PartialRoom) -> Result<bool, OpError> {
        let is_current = || {
            let now = self.rooms.store().partial.get(&partial.room_id);
            now.is_some_and(|now| now.join_event == partial.join_event && now.completed.is_none())
        };
        let room = self.rooms.room(&partial.room_id).await?;
        let join = self.rooms.event(&partial.join_event).await?;
        for server in self.resync_servers(&room, &partial.through).await? {
            if !is_current() {
                return Ok(true);
            }
            if !self.rooms.has_server(&room, &self.name).await? {
                self.rooms.give_up_partial(&partial.room_id).await?;
                return Ok(true);
            }
            match self.whole_state(&server, &room, &join.pdu).await {
                Ok(state) => {
                    if !is_current() {
                        return Ok(true);
                    }
                    match self.rooms.complete(&room, join.pdu.clone(), &state).await {
                        Err(RoomError::BadEvent(error)) => {
                            tracing::info!(room = %partial.room_id, %server, error, "the state that was told is none");
                        }
                        completed => {
                            completed?;
                            tracing::info!(room = %partial.room_id, %server, events = state.len(), "the state is whole");
                            return Ok(true);
                        }
                    }
                }
                Err(error) => {
                    tracing::info!(room = %partial.room_id, %server, %error, "the room's state was not told");
                }
            }
        }
        Ok(false)
    }

    /// The server that let us in, and then others of the room.
    async fn resync_servers(&self, room: &Room, through: &ServerName) -> Result<Vec<OwnedServerName>, OpError> {
        let mut servers = vec![through.to_owned()];
        let others = self.rooms.store().graph.servers(room.nid).await?;
        servers.extend(others.into_iter().filter(|server| server != through && *server != self.name));
        servers.truncate(SERVERS_MAX);
        Ok(servers)
    }

    /// The ids of all of the state before our join, all of it held.
    async fn whole_state(
        &self,
        server: &ServerName,
        room: &Arc<Room>,
        join: &Pdu,
    ) -> Result<Vec<OwnedEventId>, OpError> {
        match join.prev_events() {
            [prev] => self.fetch_state(server, room, prev, true).await,
            // Whoever took the join knows what the states after all of these come to.
            _ => self.fetch_state(server, room, &join.event_id().to_owned(), false).await,
        }
    }
}
