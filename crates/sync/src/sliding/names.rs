//! What a room in view is called, and who is in it.

use ruma::UserId;
use samtal_room::Room;
use samtal_state::SnapshotId;

use super::{Turn, room::Stretch};
use crate::{
    Sync, SyncError,
    json::{self, Object},
    span::MemberChanges,
    state::member,
    summary::Summary,
};

/// A text of the room's state, as the reader knows it and as it is.
struct ThenAndNow {
    /// None for a reader who has nothing of the room.
    then: Option<Option<String>>,
    now: Option<String>,
}

impl ThenAndNow {
    fn is_news(&self) -> bool {
        self.then.as_ref() != Some(&self.now)
    }

    /// Written if it is news; as null if the reader knows one and it is gone.
    fn write(&self, object: &mut Object<'_>, key: &str) {
        match &self.now {
            Some(now) if self.is_news() => object.text(key, now),
            None if self.is_news() && self.then.is_some() => object.raw(key, "null"),
            _ => {}
        }
    }
}

impl Sync {
    /// Name, avatar, heroes and counts: all of them at first, later what changed.
    pub(super) async fn sliding_names(
        &self,
        turn: &Turn<'_>,
        object: &mut Object<'_>,
        room: &Room,
        stretch: &Stretch,
        members: &MemberChanges,
    ) -> Result<(), SyncError> {
        let name = self.text_then_and_now(stretch, "m.room.name", "name").await?;
        name.write(object, "name");
        self.text_then_and_now(stretch, "m.room.avatar", "url").await?.write(object, "avatar");
        if !members.any && !name.is_news() {
            return Ok(());
        }
        let summary = Summary::read(self.store(), room, stretch.end, &turn.request.user_id).await?;
        if let Some(heroes) = summary.heroes.filter(|_| name.now.is_none()) {
            let mut written = Vec::with_capacity(heroes.len());
            for hero in &heroes {
                written.push(self.hero(stretch.end, hero).await?);
            }
            json::array(object.key("heroes"), &written);
        }
        object.number("joined_count", summary.joined);
        object.number("invited_count", summary.invited);
        Ok(())
    }

    async fn hero(&self, state: SnapshotId, hero: &UserId) -> Result<String, SyncError> {
        let event = member(self.store(), state, hero).await?;
        let mut json = String::new();
        let mut object = Object::new(&mut json);
        object.text("user_id", hero.as_str());
        for field in ["displayname", "avatar_url"] {
            if let Some(text) = event.as_ref().and_then(|event| event.pdu.content_field::<String>(field)) {
                object.text(field, &text);
            }
        }
        object.end();
        Ok(json)
    }

    async fn text_then_and_now(
        &self,
        stretch: &Stretch,
        event_type: &str,
        field: &str,
    ) -> Result<ThenAndNow, SyncError> {
        let now = self.state_text(stretch.end, event_type, field).await?;
        let then = match stretch.from {
            Some(from) => Some(self.state_text(from, event_type, field).await?),
            None => None,
        };
        Ok(ThenAndNow { then, now })
    }

    /// A text in the content of a state event without key; the empty text counts as none.
    async fn state_text(&self, state: SnapshotId, event_type: &str, field: &str) -> Result<Option<String>, SyncError> {
        let event = self.store().state_event(state, event_type, "").await?;
        let text = event.and_then(|event| event.pdu.content_field::<String>(field));
        Ok(text.filter(|text| !text.is_empty()))
    }
}
