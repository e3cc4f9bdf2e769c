//! Who is who: names of people and where they can be seen.
//!
//! A user of ours has one entry, with the name of their profile; nobody learns from the directory what they call themselves in
//! one room. A user of another server is known by rooms only: one entry for each room they share with us, with the name they
//! have there, for those who are in that room, or for all when the room is public.

use std::collections::BTreeSet;

use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};
use samtal_db::{Batch, Sql, params, sql};
use samtal_room::{Room, RoomNid};

use crate::{
    Search, SearchError,
    word::{fold, words},
};

const ENTRY_SET: Sql = sql!(
    "INSERT INTO directory_entry (user_id, room, display_name, avatar_url, public) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (user_id, room) DO UPDATE SET display_name = excluded.display_name, avatar_url = excluded.avatar_url,
        public = excluded.public"
);
const ENTRY_REMOVE: Sql = sql!("DELETE FROM directory_entry WHERE user_id = $1 AND room = $2");
const ENTRIES_OF_ROOM_REMOVE: Sql = sql!("DELETE FROM directory_entry WHERE room = $1");
const ENTRIES_OF_ROOM_PUBLIC: Sql = sql!("UPDATE directory_entry SET public = $1 WHERE room = $2");
const WORD_INSERT: Sql =
    sql!("INSERT INTO directory_word (word, user_id, room) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING");
const WORDS_REMOVE: Sql = sql!("DELETE FROM directory_word WHERE user_id = $1 AND room = $2");
const WORDS_OF_ROOM_REMOVE: Sql = sql!("DELETE FROM directory_word WHERE room = $1");
const ROOM: Sql = sql!("SELECT public FROM directory_room WHERE room = $1");
const ROOM_SET: Sql = sql!(
    "INSERT INTO directory_room (room, public) VALUES ($1, $2) ON CONFLICT (room) DO UPDATE SET public = excluded.public"
);
const ROOM_REMOVE: Sql = sql!("DELETE FROM directory_room WHERE room = $1");
const ANY_PUBLIC: Sql = sql!("SELECT 1 FROM directory_room WHERE public = 1 AND room IN list($1) LIMIT 1");
const IS_HIDDEN: Sql = sql!("SELECT 1 FROM directory_hidden WHERE user_id = $1");
const HIDE: Sql = sql!("INSERT INTO directory_hidden (user_id) VALUES ($1) ON CONFLICT DO NOTHING");
const SHOW: Sql = sql!("DELETE FROM directory_hidden WHERE user_id = $1");

/// The room number of entries of our own users.
pub(crate) const NO_ROOM: RoomNid = RoomNid(0);
/// Members that are written in one batch.
const BATCH_USERS: usize = 200;
/// Words of one name that count.
const NAME_WORDS_MAX: usize = 16;

/// The words by which a user is found, without accents.
pub(crate) fn name_words(user: &UserId, display_name: Option<&str>) -> BTreeSet<String> {
    let name = words(display_name.unwrap_or_default());
    name.iter().take(NAME_WORDS_MAX).chain(&words(user.localpart())).map(|word| fold(word)).collect()
}

impl Search {
    /// Keeps a user of ours out of everybody's results, or lets them in again.
    pub async fn set_hidden(&self, user: &UserId, hidden: bool) -> Result<(), SearchError> {
        let mut batch = Batch::new();
        batch.exec(if hidden { &HIDE } else { &SHOW }, params![user.as_str()]);
        self.engines.db.commit(batch).await?;
        self.update_local(user).await
    }

    /// Whether a user of ours is kept out of everybody's results.
    pub(crate) async fn is_hidden(&self, user: &UserId) -> Result<bool, SearchError> {
        Ok(self.engines.db.query_opt(&IS_HIDDEN, params![user.as_str()]).await?.is_some())
    }

    fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.engines.name
    }

    /// Brings the entry of a user of ours in line with how things are now.
    pub(crate) async fn update_local(&self, user: &UserId) -> Result<(), SearchError> {
        let mut batch = Batch::new();
        let account = self.engines.accounts.user(user).await?;
        let is_there = account.is_some_and(|account| !account.deactivated && !account.locked);
        batch.exec(&WORDS_REMOVE, params![user.as_str(), NO_ROOM.0]);
        if is_there && !self.is_hidden(user).await? {
            let profile = self.engines.accounts.profile(user).await?;
            let field = |name: &str| profile.get(name).and_then(|value| value.as_str()).filter(|text| !text.is_empty());
            let public = self.is_seen_in_public(user).await?;
            self.write(&mut batch, user, NO_ROOM, field("displayname"), field("avatar_url"), public);
        } else {
            batch.exec(&ENTRY_REMOVE, params![user.as_str(), NO_ROOM.0]);
        }
        self.engines.db.commit(batch).await?;
        Ok(())
    }

    fn write(
        &self,
        batch: &mut Batch,
        user: &UserId,
        room: RoomNid,
        display_name: Option<&str>,
        avatar_url: Option<&str>,
        public: bool,
    ) {
        batch.exec(&ENTRY_SET, params![user.as_str(), room.0, display_name, avatar_url, public]);
        for word in name_words(user, display_name) {
            batch.exec(&WORD_INSERT, params![word, user.as_str(), room.0]);
        }
    }

    async fn is_seen_in_public(&self, user: &UserId) -> Result<bool, SearchError> {
        let graph = &self.engines.rooms.store().graph;
        let mut rooms = Vec::new();
        for found in graph.memberships(user).await? {
            if found.membership == MembershipState::Join
                && let Some(room) = graph.room(&found.room_id).await?
            {
                rooms.push(room.nid.0);
            }
        }
        Ok(!rooms.is_empty() && self.engines.db.query_opt(&ANY_PUBLIC, params![rooms]).await?.is_some())
    }

    /// Brings the entries of members of a room in line with how things are now.
    pub(crate) async fn update_members(&self, room: &Room, users: &[OwnedUserId]) -> Result<(), SearchError> {
        let graph = &self.engines.rooms.store().graph;
        let public = self.engines.db.query_opt(&ROOM, params![room.nid.0]).await?.map(|row| row.get(0)).transpose()?;
        for users in users.chunks(BATCH_USERS) {
            let mut batch = Batch::new();
            for user in users {
                if self.is_local(user) {
                    self.update_local(user).await?;
                    continue;
                }
                let membership = graph.membership(user, &room.room_id).await?;
                batch.exec(&WORDS_REMOVE, params![user.as_str(), room.nid.0]);
                let joined = membership.filter(|found| found.membership == MembershipState::Join);
                match (joined, public) {
                    (Some(joined), Some(public)) => {
                        let event = graph.event(&joined.event_id).await?;
                        let field =
                            |name: &str| event.as_ref().and_then(|event| event.pdu.content_field::<String>(name));
                        let (name, avatar) = (field("displayname"), field("avatar_url"));
                        self.write(&mut batch, user, room.nid, name.as_deref(), avatar.as_deref(), public);
                    }
                    _ => batch.exec(&ENTRY_REMOVE, params![user.as_str(), room.nid.0]),
                }
            }
            self.engines.db.commit(batch).await?;
        }
        Ok(())
    }

    /// Brings what is known of a room in line with how things are now: whether we are in it, and whether anybody may see who is.
    pub(crate) async fn update_room(&self, room: &Room) -> Result<(), SearchError> {
        let graph = &self.engines.rooms.store().graph;
        let known: Option<bool> =
            self.engines.db.query_opt(&ROOM, params![room.nid.0]).await?.map(|row| row.get(0)).transpose()?;
        let ours = graph.joined_of(room.nid, &self.engines.name).await?;
        let now = if ours.is_empty() { None } else { Some(self.is_public(room).await?) };
        if known == now {
            return Ok(());
        }
        let mut batch = Batch::new();
        match now {
            None => {
                batch.exec(&ENTRIES_OF_ROOM_REMOVE, params![room.nid.0]);
                batch.exec(&WORDS_OF_ROOM_REMOVE, params![room.nid.0]);
                batch.exec(&ROOM_REMOVE, params![room.nid.0]);
            }
            Some(public) => {
                batch.exec(&ROOM_SET, params![room.nid.0, public]);
                batch.exec(&ENTRIES_OF_ROOM_PUBLIC, params![public, room.nid.0]);
            }
        }
        self.engines.db.commit(batch).await?;
        let whom = match (known, now) {
            // We have come into the room: all who are there are new to us.
            (None, Some(_)) => {
                let joined = graph.members(room.nid, &[MembershipState::Join]).await?;
                joined.into_iter().map(|member| member.user_id).collect()
            }
            _ => ours,
        };
        self.update_members(room, &whom).await
    }

    async fn is_public(&self, room: &Room) -> Result<bool, SearchError> {
        let content = async |event_type: &str, field: &str| {
            let state = self.engines.rooms.current_state(&room.room_id, event_type, "").await?;
            Ok::<_, SearchError>(state.and_then(|event| event.pdu.content_field::<String>(field)))
        };
        Ok(content("m.room.join_rules", "join_rule").await?.as_deref() == Some("public")
            || content("m.room.history_visibility", "history_visibility").await?.as_deref() == Some("world_readable"))
    }
}
