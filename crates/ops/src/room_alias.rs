//! Names of rooms: who may make, move and take away aliases, and what a canonical alias may say.

use ruma::{
    OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, UserId,
    events::{StateEventType, TimelineEventType},
};
use samtal_event::Draft;
use samtal_room::{LocalDraft, RoomError};
use serde_json::Value;

use crate::{Homeserver, OpError, Publishers, member::Content};

impl Homeserver {
    /// Refuses an alias that another application service has for itself.
    pub(crate) fn check_alias_name(&self, alias: &RoomAliasId, service: Option<&str>) -> Result<(), OpError> {
        match self.accounts.services.exclusive_alias(alias.as_str()) {
            Some(owner) if Some(owner.id.as_str()) != service => Err(OpError::Exclusive),
            _ => Ok(()),
        }
    }

    /// The room that an alias names, and servers that are in it.
    pub async fn resolve_alias(&self, alias: &RoomAliasId) -> Result<(OwnedRoomId, Vec<OwnedServerName>), OpError> {
        if alias.server_name() != self.name {
            return self.alias_remote(alias).await;
        }
        let mut found = self.rooms.alias(alias).await?;
        // An application service makes rooms when somebody first asks for them.
        if found.is_none() && self.appservices.query_alias(alias.as_str()).await {
            found = self.rooms.alias(alias).await?;
        }
        let found = found.ok_or_else(|| OpError::NotFound(format!("room alias {alias} not found")))?;
        Ok((found.room_id.clone(), self.servers_of(&found.room_id).await?))
    }

    /// The servers of a room, ours first.
    pub(crate) async fn servers_of(&self, room_id: &RoomId) -> Result<Vec<OwnedServerName>, OpError> {
        let mut servers = match self.rooms.store().graph.room(room_id).await? {
            Some(room) => self.rooms.store().graph.servers(room.nid).await?,
            None => Vec::new(),
        };
        servers.retain(|server| *server != self.name);
        servers.insert(0, self.name.clone());
        Ok(servers)
    }

    /// Makes an alias of this server.
    pub async fn create_alias(
        &self,
        user: &UserId,
        alias: &RoomAliasId,
        room_id: &RoomId,
        service: Option<&str>,
    ) -> Result<(), OpError> {
        if alias.server_name() != self.name {
            return Err(OpError::Invalid("the alias belongs to another server".into()));
        }
        if alias.as_str().len() > 255 {
            return Err(OpError::Invalid("an alias has at most 255 bytes".into()));
        }
        self.check_alias_name(alias, service)?;
        if self.rooms.store().graph.room(room_id).await?.is_none() {
            return Err(OpError::BadRequest("the room is not known here".into()));
        }
        Ok(self.rooms.add_alias(alias, room_id, user).await?)
    }

    /// Takes an alias away: its creator's right, that of who may set the room's canonical alias, and of administrators.
    pub async fn delete_alias(
        &self,
        user: &UserId,
        alias: &RoomAliasId,
        is_admin: bool,
        service: Option<&str>,
    ) -> Result<(), OpError> {
        self.check_alias_name(alias, service)?;
        let found = self.rooms.alias(alias).await?;
        let found = found.ok_or_else(|| OpError::NotFound(format!("room alias {alias} not found")))?;
        if found.creator != user && !is_admin && !self.may_set_canonical_alias(user, &found.room_id).await? {
            return Err(OpError::Forbidden("only its creator and the room's moderators may delete the alias".into()));
        }
        self.rooms.remove_alias(alias).await?;
        self.drop_canonical_alias(user, alias, &found.room_id).await
    }

    /// Whether the user may name the room, and with that list it.
    pub async fn may_set_canonical_alias(&self, user: &UserId, room_id: &RoomId) -> Result<bool, OpError> {
        let Some(room) = self.resident_room(room_id).await? else { return Ok(false) };
        if !self.rooms.store().graph.is_joined(user, room_id).await? {
            return Ok(false);
        }
        Ok(self.power_levels(&room).await?.can_send(user, &TimelineEventType::RoomCanonicalAlias, true))
    }

    /// Whether the user may put rooms into the public directory at all.
    pub async fn may_publish(&self, user: &UserId) -> Result<bool, OpError> {
        Ok(match self.settings.directory.publishers {
            Publishers::Everyone => true,
            Publishers::Administrators => self.accounts.user(user).await?.is_some_and(|user| user.admin),
            Publishers::Nobody => false,
        })
    }

    /// Takes a deleted alias out of the room's canonical aliases, as far as the user may.
    async fn drop_canonical_alias(&self, user: &UserId, alias: &RoomAliasId, room_id: &RoomId) -> Result<(), OpError> {
        if !self.may_set_canonical_alias(user, room_id).await? {
            return Ok(());
        }
        let Some(mut content) = self.state_content(room_id, "m.room.canonical_alias").await? else { return Ok(()) };
        let before = content.clone();
        if content.get("alias").and_then(Value::as_str) == Some(alias.as_str()) {
            content.remove("alias");
        }
        if let Some(Value::Array(others)) = content.get_mut("alt_aliases") {
            others.retain(|other| other.as_str() != Some(alias.as_str()));
        }
        if content.get("alt_aliases").and_then(Value::as_array).is_some_and(Vec::is_empty) {
            content.remove("alt_aliases");
        }
        if content == before {
            return Ok(());
        }
        let draft = Draft::state_of(&StateEventType::RoomCanonicalAlias, "", &content)?;
        match self.rooms.send_one(room_id, LocalDraft::new(user, draft)).await {
            Ok(_) | Err(RoomError::Refused(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses a canonical alias event whose new aliases do not name the room (CS API, `m.room.canonical_alias`).
    pub async fn check_canonical_alias(&self, room_id: &RoomId, content: &Content) -> Result<(), OpError> {
        let before = self.state_content(room_id, "m.room.canonical_alias").await?.unwrap_or_default();
        let known: Vec<&str> = aliases(&before)?;
        for alias in aliases(content)? {
            let parsed =
                RoomAliasId::parse(alias).map_err(|_| OpError::Invalid(format!("{alias} is not a room alias")))?;
            if known.contains(&alias) {
                continue;
            }
            let bad = || OpError::BadAlias(format!("{alias} does not name this room"));
            match self.resolve_alias(&parsed).await {
                Ok((named, _)) if named == room_id => {}
                Ok(_) | Err(OpError::NotFound(_) | OpError::Remote(_)) => return Err(bad()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The aliases in the content of a canonical alias event.
fn aliases(content: &Content) -> Result<Vec<&str>, OpError> {
    let wrong = || OpError::BadContent("alias is a string, alt_aliases a list of strings".into());
    let mut found = Vec::new();
    match content.get("alias") {
        None | Some(Value::Null) => {}
        Some(Value::String(alias)) => {
            if !alias.is_empty() {
                found.push(alias.as_str());
            }
        }
        Some(_) => return Err(wrong()),
    }
    match content.get("alt_aliases") {
        None | Some(Value::Null) => {}
        Some(Value::Array(others)) => {
            for other in others {
                found.push(other.as_str().ok_or_else(wrong)?);
            }
        }
        Some(_) => return Err(wrong()),
    }
    Ok(found)
}
