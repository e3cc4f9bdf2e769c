//! Commands on rooms.

use std::sync::Arc;

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId};
use samtal_ops::{Homeserver, moderation::Invites, room_care::RoomTask};
use samtal_room::ListedRoom;
use serde::{Deserialize, Serialize};

use super::{Answer, note, table, tenant, told};

/// In whose name it is done what the command line does.
pub(super) const OPERATOR: &str = "operator";

/// A command on rooms.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoomCommand {
    /// Which tenant's; may be left out where there is one.
    pub tenant: Option<String>,
    /// What to do.
    pub verb: RoomVerb,
}

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoomVerb {
    /// Lists the rooms.
    List,
    /// Says what is known of a room.
    Show {
        /// Which.
        room: OwnedRoomId,
    },
    /// Lets nobody of ours in any more, or lets them in again.
    Block {
        /// Which.
        room: OwnedRoomId,
        /// Whether it shall be blocked.
        on: bool,
    },
    /// Puts everybody of ours out and deletes what is kept of it.
    Delete {
        /// Which.
        room: OwnedRoomId,
        /// Whether nobody may come back.
        block: bool,
        /// Whether what is kept of it stays.
        keep: bool,
    },
    /// Gives a user power where nobody has any.
    Recover {
        /// Which.
        room: OwnedRoomId,
        /// Who gets it.
        user: String,
    },
    /// Refuses invites that wait.
    RefuseInvites {
        /// From this user.
        sender: Option<OwnedUserId>,
        /// From users of this server.
        server: Option<OwnedServerName>,
        /// To this room.
        room: Option<OwnedRoomId>,
    },
}

/// Runs it.
pub(crate) async fn answer(homeservers: &[Arc<Homeserver>], command: RoomCommand) -> Answer {
    let hs = tenant(homeservers, command.tenant.as_deref())?;
    match command.verb {
        RoomVerb::List => list(hs).await,
        RoomVerb::Show { room } => show(hs, &room).await,
        RoomVerb::Block { room, on } => block(hs, &room, on).await,
        RoomVerb::Delete { room, block, keep } => delete(hs, &room, block, keep).await,
        RoomVerb::Recover { room, user } => recover(hs, &room, &user).await,
        RoomVerb::RefuseInvites { sender, server, room } => {
            refuse_invites(hs, Invites { sender, server, room_id: room, user_id: None }).await
        }
    }
}

async fn name_of(hs: &Homeserver, room: &RoomId) -> Result<String, String> {
    let field = async |event_type: &str, field: &str| {
        let content = hs.state_content(room, event_type).await.map_err(|e| told(&e))?;
        Ok::<_, String>(content.and_then(|content| Some(content.get(field)?.as_str()?.to_owned())))
    };
    if let Some(name) = field("m.room.name", "name").await? {
        return Ok(name);
    }
    Ok(field("m.room.canonical_alias", "alias").await?.unwrap_or_default())
}

async fn list(hs: &Homeserver) -> Answer {
    let mut rooms = hs.rooms.room_list().await.map_err(|e| told(&e))?;
    rooms.sort_by(|one, other| other.joined.cmp(&one.joined).then_with(|| one.room_id.cmp(&other.room_id)));
    let mut rows = vec![["ROOM", "MEMBERS", "OURS", "VERSION", "NAME"].map(str::to_owned).to_vec()];
    for room in rooms {
        let name = name_of(hs, &room.room_id).await?;
        let ListedRoom { room_id, version, joined, joined_local, .. } = room;
        rows.push(vec![room_id.to_string(), joined.to_string(), joined_local.to_string(), version.to_string(), name]);
    }
    Ok(table(&rows))
}

async fn known(hs: &Homeserver, room: &RoomId) -> Result<Arc<samtal_room::Room>, String> {
    let store = hs.rooms.store();
    let missing = || format!("there is no room {room} here");
    let found = store.graph.room(room).await.map_err(|e| told(&e))?.ok_or_else(missing)?;
    // Of a room that was deleted no more than the name is known.
    store.head(&found).await.map_err(|e| told(&e))?.ok_or_else(missing)?;
    Ok(found)
}

async fn show(hs: &Homeserver, id: &RoomId) -> Answer {
    let room = known(hs, id).await?;
    let listed = hs.rooms.room_list().await.map_err(|e| told(&e))?.into_iter().find(|listed| listed.room_id == id);
    let blocked = hs.rooms.blocked_by(id).await.map_err(|e| told(&e))?;
    let aliases = hs.rooms.aliases(id).await.map_err(|e| told(&e))?;
    let create = hs.rooms.current_state(id, "m.room.create", "").await.map_err(|e| told(&e))?;
    let encrypted = hs.state_content(id, "m.room.encryption").await.map_err(|e| told(&e))?.is_some();
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let aliases: Vec<String> = aliases.iter().map(ToString::to_string).collect();
    let mut rows = vec![
        vec!["room".to_owned(), id.to_string()],
        vec!["name".to_owned(), name_of(hs, id).await?],
        vec!["version".to_owned(), room.version.to_string()],
        vec!["created by".to_owned(), create.map(|create| create.pdu.sender().to_string()).unwrap_or_default()],
        vec!["aliases".to_owned(), aliases.join(" ")],
        vec!["encrypted".to_owned(), yes(encrypted)],
        vec!["blocked by".to_owned(), blocked.unwrap_or_else(|| "nobody".to_owned())],
    ];
    if let Some(listed) = listed {
        rows.push(vec!["members".to_owned(), listed.joined.to_string()]);
        rows.push(vec!["members of ours".to_owned(), listed.joined_local.to_string()]);
        rows.push(vec!["in the directory".to_owned(), yes(listed.published)]);
    }
    Ok(table(&rows))
}

/// A user in whose name rooms are blocked from the command line.
fn operator(hs: &Homeserver) -> Result<OwnedUserId, String> {
    UserId::parse(format!("@{OPERATOR}:{}", hs.name)).map_err(|e| told(&e))
}

async fn block(hs: &Homeserver, room: &RoomId, on: bool) -> Answer {
    hs.rooms.set_blocked(room, on, &operator(hs)?).await.map_err(|e| told(&e))?;
    let verb = if on { "room block" } else { "room unblock" };
    note(hs, verb, room.as_str()).await;
    Ok(vec![format!("{room} is {}", if on { "blocked: nobody of this server gets in" } else { "open again" })])
}

async fn delete(hs: &Homeserver, room: &RoomId, block: bool, keep: bool) -> Answer {
    known(hs, room).await?;
    let task = RoomTask::Delete {
        room_id: room.to_owned(),
        by: operator(hs)?,
        block,
        purge: !keep,
        refuge: None,
        force: false,
    };
    let outcome = hs.do_room_task(&task).await.map_err(|e| told(&e))?;
    note(hs, "room delete", room.as_str()).await;
    let done: samtal_ops::room_care::ShutDown = serde_json::from_str(&outcome).unwrap_or_default();
    let mut lines = vec![format!("{} put out of {room}", count(done.kicked_users.len(), "user"))];
    for user in &done.failed_to_kick_users {
        lines.push(format!("{user} could not be put out: the room stays; see the log"));
    }
    if !keep && done.failed_to_kick_users.is_empty() {
        lines.push(format!("{room} is deleted"));
    }
    Ok(lines)
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

async fn recover(hs: &Homeserver, room: &RoomId, user: &str) -> Answer {
    known(hs, room).await?;
    let user = super::users::id_at(hs, user)?;
    let giver = hs.make_room_admin(room, &user).await.map_err(|e| told(&e))?;
    note(hs, "room recover", &format!("{room} {user}")).await;
    Ok(vec![format!("{user} has power in {room} now, given in the name of {giver}")])
}

async fn refuse_invites(hs: &Homeserver, which: Invites) -> Answer {
    if which.is_empty() {
        return Err("say which invites: --sender, --server or --room".to_owned());
    }
    let done = hs.refuse_invites(&which).await.map_err(|e| told(&e))?;
    let subject = [
        which.sender.map(|sender| sender.to_string()),
        which.server.map(|server| server.to_string()),
        which.room_id.map(|room| room.to_string()),
    ];
    note(hs, "room refuse-invites", &subject.into_iter().flatten().collect::<Vec<_>>().join(" ")).await;
    let mut lines = vec![format!("{} refused", count(done.refused, "invite"))];
    if done.failed > 0 {
        lines.push(format!("{} could not be refused; see the log", count(done.failed, "invite")));
    }
    Ok(lines)
}
