//! Who is in a room.

use std::collections::BTreeMap;

use ruma::{
    api::client::membership::{get_member_events::v3 as members, joined_members::v3 as joined},
    events::room::member::MembershipState,
};
use samtal_model::StreamPosition;
use samtal_room::membership_of;
use samtal_state::Part;
use serde_json::Value;

use crate::{Answer, ApiError, Args, Json, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().route(list).route(list_joined)
}

/// `GET /rooms/{roomId}/members`
async fn list(args: Args<members::Request>) -> Answer<members::Response> {
    let (hs, user, body) = (&args.hs, &args.who.user_id, args.body);
    let room = hs.rooms.room(&body.room_id).await?;
    hs.rooms.until_whole(&room.room_id).await?;
    let (readable, is_current) = hs.rooms.readable_snapshot(user, &room).await?;
    let snapshot = match &body.at {
        Some(at) if is_current => {
            // What was known of the room before all of it was here is no answer.
            let whole_at = hs.rooms.store().partial.get(&room.room_id).and_then(|partial| partial.completed);
            let at = super::position(at)?.max(StreamPosition(whole_at.unwrap_or(i64::MIN)));
            hs.rooms.store().state_at(room.nid, at).await?
        }
        _ => readable,
    };
    let mut events = hs.rooms.store().state_part(snapshot, Part::Members).await?;
    events.retain(|event| {
        let membership = membership_of(&event.pdu).unwrap_or(MembershipState::Leave);
        body.membership.as_ref().is_none_or(|wanted| *wanted == membership)
            && body.not_membership.as_ref().is_none_or(|unwanted| *unwanted != membership)
    });
    let mut viewer = hs.rooms.viewer(user, &room).await?;
    let form = super::state_form(&args.who, events.len());
    let events = hs.rooms.client_events(&mut viewer, &events, form).await?;
    Ok(members::Response::new(super::raws(events)))
}

/// `GET /rooms/{roomId}/joined_members`
async fn list_joined(args: Args<joined::Request>) -> Answer<Json<Value>> {
    let (hs, user) = (&args.hs, &args.who.user_id);
    let room = hs.rooms.room(&args.body.room_id).await?;
    if !hs.rooms.store().graph.is_joined(user, &room.room_id).await? {
        return Err(ApiError::forbidden("You are not in the room"));
    }
    hs.rooms.until_whole(&room.room_id).await?;
    let found = hs.rooms.store().graph.members(room.nid, &[MembershipState::Join]).await?;
    let ids: Vec<_> = found.into_iter().map(|member| member.event_id).collect();
    let mut joined = BTreeMap::new();
    for event in hs.rooms.store().graph.events(&ids).await? {
        let field = |name: &str| event.pdu.content_field::<Value>(name).filter(Value::is_string).unwrap_or_default();
        let member = serde_json::json!({ "display_name": field("displayname"), "avatar_url": field("avatar_url") });
        joined.insert(event.pdu.state_key().unwrap_or_default().to_owned(), member);
    }
    Ok(Json(serde_json::json!({ "joined": joined })))
}
