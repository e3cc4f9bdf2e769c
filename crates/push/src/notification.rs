//! What a gateway is told of an event.

use ruma::{
    RoomId, UserId,
    events::room::member::MembershipState,
    push::{Action, Tweak},
};
use samtal_model::StreamPosition;
use samtal_room::{Room, RoomError, Store, StoredEvent};
use samtal_state::SnapshotId;
use serde_json::{Map, Value, json};

use crate::{Push, PushError, Pusher};

/// Rooms whose counts are looked at for a badge.
const BADGE_ROOMS_MAX: usize = 5_000;

/// The tweaks of actions: `{"highlight": true, "sound": "default"}`.
pub(crate) fn tweaks(actions: &[Action]) -> Map<String, Value> {
    let mut tweaks = Map::new();
    for action in actions {
        let Action::SetTweak(tweak) = action else { continue };
        match tweak {
            Tweak::Highlight(_) if action.is_highlight() => {
                tweaks.insert("highlight".into(), true.into());
            }
            Tweak::Sound(sound) => {
                tweaks.insert("sound".into(), sound.as_str().into());
            }
            _ => {}
        }
    }
    tweaks
}

fn device(pusher: &Pusher, tweaks: Map<String, Value>) -> Value {
    let mut data = pusher.data.clone();
    data.remove("url");
    json!({
        "app_id": pusher.key.app_id,
        "pushkey": pusher.key.pushkey,
        "pushkey_ts": pusher.created_ms / 1_000,
        "data": data,
        "tweaks": tweaks,
    })
}

/// The body for a badge that changed without an event.
pub(crate) fn badge_body(pusher: &Pusher, unread: u64) -> Value {
    json!({ "notification": {
        "counts": { "unread": unread },
        "devices": [device(pusher, Map::new())],
    } })
}

/// The body for an event.
pub(crate) async fn event_body(
    store: &Store,
    room: &Room,
    event: &StoredEvent,
    pusher: &Pusher,
    actions: &[Action],
    unread: u64,
) -> Result<Value, RoomError> {
    let pdu = &event.pdu;
    let tweaks = tweaks(actions);
    let urgent = pdu.type_str() == "m.room.encrypted" || !tweaks.is_empty();
    let mut notification = json!({
        "event_id": pdu.event_id(),
        "room_id": pdu.room_id(),
        "prio": if urgent { "high" } else { "low" },
        "counts": { "unread": unread },
        "devices": [device(pusher, tweaks)],
    });
    if !pusher.event_id_only() {
        let state = match event.position {
            Some(position) => store.state_at(room.nid, position).await?,
            None => event.before.unwrap_or(SnapshotId::EMPTY),
        };
        describe(store, state, event, &pusher.key.user_id, &mut notification).await?;
    }
    Ok(json!({ "notification": notification }))
}

async fn describe(
    store: &Store,
    state: SnapshotId,
    event: &StoredEvent,
    user_id: &UserId,
    notification: &mut Value,
) -> Result<(), RoomError> {
    let pdu = &event.pdu;
    // SPEC: `id` is what older gateways read.
    notification["id"] = json!(pdu.event_id());
    notification["type"] = json!(pdu.type_str());
    notification["sender"] = json!(pdu.sender());
    notification["content"] = serde_json::from_str(pdu.content_str()).unwrap_or_default();
    let outside = match state == SnapshotId::EMPTY {
        true => stripped(store, user_id, pdu.room_id()).await?,
        false => Vec::new(),
    };
    let text = async |event_type: &str, state_key: &str, field: &str| {
        let text = match store.state_event(state, event_type, state_key).await? {
            Some(event) => event.pdu.content_field::<String>(field),
            None => outside
                .iter()
                .find(|event| event["type"] == event_type && event["state_key"] == state_key)
                .and_then(|event| event["content"][field].as_str().map(ToOwned::to_owned)),
        };
        Ok::<_, RoomError>(text.filter(|text| !text.is_empty()))
    };
    if let Some(name) = text("m.room.member", pdu.sender().as_str(), "displayname").await? {
        notification["sender_display_name"] = json!(name);
    }
    let name = text("m.room.name", "", "name").await?;
    let alias = text("m.room.canonical_alias", "", "alias").await?;
    // Of a room that this server is not in, only what came with the invite is known.
    let stripped = match state == SnapshotId::EMPTY {
        true => store.graph.invite_state(user_id, pdu.room_id()).await?,
        false => None,
    };
    let stripped: Vec<Value> = stripped.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let stripped_text = |event_type: &str, field: &str| {
        let event = stripped.iter().find(|event| event["type"] == event_type && event["state_key"] == "")?;
        event["content"][field].as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned)
    };
    let name = name.or_else(|| stripped_text("m.room.name", "name"));
    let alias = alias.or_else(|| stripped_text("m.room.canonical_alias", "alias"));
    if let Some(name) = name.as_ref().or(alias.as_ref()) {
        notification["room_name"] = json!(name);
    }
    if let Some(alias) = alias {
        notification["room_alias"] = json!(alias);
    }
    if pdu.type_str() == "m.room.member" {
        notification["user_is_target"] = json!(pdu.state_key() == Some(user_id.as_str()));
        if let Some(membership) = pdu.content_field::<String>("membership") {
            notification["membership"] = json!(membership);
        }
    }
    Ok(())
}

/// What came with an invite to a room that we are not in.
async fn stripped(store: &Store, user_id: &UserId, room_id: &RoomId) -> Result<Vec<Value>, RoomError> {
    let state = store.graph.invite_state(user_id, room_id).await?;
    Ok(state.and_then(|state| serde_json::from_str(&state).ok()).unwrap_or_default())
}

impl Push {
    /// In how many rooms the user has unread notifications, invites among them.
    pub(crate) async fn badge(&self, user_id: &UserId) -> Result<u64, PushError> {
        let graph = &self.rooms.store().graph;
        let until = StreamPosition(graph.db().position());
        let mut unread = 0;
        let memberships = graph.memberships(user_id).await?;
        for membership in memberships.iter().take(BADGE_ROOMS_MAX) {
            match membership.membership {
                MembershipState::Invite => unread += 1,
                MembershipState::Join => {
                    let Some(room) = graph.room(&membership.room_id).await? else { continue };
                    let counts = self.counts(user_id, &room, membership, until).await?;
                    unread += u64::from(counts.total().notifications > 0);
                }
                _ => {}
            }
        }
        Ok(unread)
    }
}
