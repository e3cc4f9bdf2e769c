//! New rooms.

use std::sync::Arc;

use ruma::{OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomVersionId};
use samtal_db::{Batch, Sql, params, sql};
use samtal_event::{Draft, build, sign_and_hash};
use samtal_kit::signed_ms;

use crate::{
    Rooms, alias,
    error::RoomError,
    graph::{insert_room, make_room},
    head::Head,
    ids::RoomNid,
    local::LocalDraft,
    turn::Turn,
};

const PUBLISH: Sql = sql!("UPDATE room SET published = $1 WHERE nid = $2");

/// A room that is to be made: all of it in one write batch.
#[derive(Clone, Debug)]
pub struct NewRoom {
    /// Its version.
    pub version: RoomVersionId,
    /// Who makes it.
    pub creator: OwnedUserId,
    /// The create event.
    pub create: Draft,
    /// The events that follow, in order; the first is the creator's join.
    pub events: Vec<Draft>,
    /// Its alias here.
    pub alias: Option<OwnedRoomAliasId>,
    /// Whether it is listed in the directory.
    pub published: bool,
}

impl Rooms {
    /// Makes a room, or nothing when one of its events is refused.
    pub async fn create(&self, new: NewRoom) -> Result<OwnedRoomId, RoomError> {
        self.create_as(new, self.new_room_id()?).await
    }

    /// An id that no room has yet.
    pub fn new_room_id(&self) -> Result<OwnedRoomId, RoomError> {
        OwnedRoomId::try_from(format!("!{}:{}", self.inner.random.alphanumeric(18), self.inner.name))
            .map_err(|error| RoomError::BadEvent(error.to_string()))
    }

    /// As [`Rooms::create`], with an id from [`Rooms::new_room_id`]. From room version 12 on the id follows from the
    /// create event, whatever is given here.
    pub async fn create_as(&self, new: NewRoom, opaque: OwnedRoomId) -> Result<OwnedRoomId, RoomError> {
        let store = &self.inner.store;
        let author = self.author();
        let rules =
            samtal_event::rules_of(&new.version).ok_or_else(|| RoomError::UnsupportedVersion(new.version.clone()))?;
        let now = signed_ms(self.creation_ms(author.now_ms));
        let unsigned = build(&new.create, &new.creator, &opaque, &[], &[], 1, now, rules);
        let create = sign_and_hash(&unsigned, &author.name, author.keys.current().pair(), rules)?.into_pdu();
        let room_id = create.room_id().to_owned();
        let nid = RoomNid(store.room_numbers.take(store.db(), 1, 0).await?);
        let room = Arc::new(make_room(nid, room_id.clone(), new.version)?);
        let mut turn = Turn::new(store, author, Head::new(Arc::clone(&room)));
        insert_room(&mut turn.batch, &room);
        turn.append_create(create).await?;
        for draft in new.events {
            turn.append_local(&LocalDraft::new(new.creator.clone(), draft)).await?;
        }
        if let Some(alias) = &new.alias {
            alias::insert(&mut turn.batch, alias, &room_id, &new.creator);
        }
        if new.published {
            turn.batch.expect(&PUBLISH, params![true, nid.0], 1);
        }
        turn.commit().await.map_err(|error| match error {
            RoomError::Storage(error) if error.is_conflict() && new.alias.is_some() => RoomError::AliasTaken,
            other => other,
        })?;
        Ok(room_id)
    }

    /// Lists the room in the directory, or takes it out.
    pub async fn set_published(&self, room_id: &ruma::RoomId, published: bool) -> Result<(), RoomError> {
        let room = self.room(room_id).await?;
        let mut batch = Batch::new();
        batch.expect(&PUBLISH, params![published, room.nid.0], 1);
        self.inner.store.db().commit(batch).await?;
        Ok(())
    }
}
