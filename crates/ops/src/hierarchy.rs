//! Spaces: rooms that hold rooms, walked depth first (CS API, "Spaces").

use std::{collections::HashSet, sync::Arc};

use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId,
    api::client::space::SpaceHierarchyRoomsChunk,
    room::{RoomSummary, RoomType},
    serde::Raw,
};
use samtal_room::{Room, StoredEvent};
use serde_json::{Value, json};

use crate::{Homeserver, OpError, member::Content};

/// Rooms of one walk, however large the space.
const ROOMS_MAX: usize = 2_000;
/// Longest `order` of a child.
const ORDER_BYTES_MAX: usize = 50;

/// A room still to be looked at.
struct Waiting {
    room_id: OwnedRoomId,
    depth: usize,
    #[expect(dead_code, reason = "who is asked about rooms that are not known here")]
    via: Vec<OwnedServerName>,
}

impl Homeserver {
    /// The rooms of a space that the user may see, at most `count`, the space itself first.
    pub async fn hierarchy(
        &self,
        user: &UserId,
        root: &RoomId,
        suggested_only: bool,
        depth_max: Option<usize>,
        count: usize,
    ) -> Result<Vec<SpaceHierarchyRoomsChunk>, OpError> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut waiting = vec![Waiting { room_id: root.to_owned(), depth: 0, via: Vec::new() }];
        while let Some(next) = waiting.pop() {
            if found.len() >= count.min(ROOMS_MAX) {
                break;
            }
            if !seen.insert(next.room_id.clone()) {
                continue;
            }
            let Some((chunk, children)) = self.hierarchy_room(user, &next.room_id, suggested_only).await? else {
                if next.depth == 0 {
                    return Err(OpError::Forbidden("you may not see the space, or it does not exist".into()));
                }
                continue;
            };
            found.push(chunk);
            if depth_max.is_none_or(|max| next.depth < max) {
                let depth = next.depth + 1;
                waiting.extend(children.into_iter().rev().map(|(room_id, via)| Waiting { room_id, depth, via }));
            }
        }
        Ok(found)
    }

    async fn hierarchy_room(
        &self,
        user: &UserId,
        room_id: &RoomId,
        suggested_only: bool,
    ) -> Result<Option<(SpaceHierarchyRoomsChunk, Vec<(OwnedRoomId, Vec<OwnedServerName>)>)>, OpError> {
        let Some(room) = self.resident_room(room_id).await? else { return Ok(None) };
        let summary = self.room_summary(&room).await?;
        if !self.may_preview(Some(user), &room, &summary).await? {
            return Ok(None);
        }
        self.space_chunk(&room, summary, suggested_only).await.map(Some)
    }

    /// A room of ours as `/hierarchy` shows it, and its children in order.
    pub async fn space_chunk(
        &self,
        room: &Arc<Room>,
        summary: RoomSummary,
        suggested_only: bool,
    ) -> Result<(SpaceHierarchyRoomsChunk, Vec<(OwnedRoomId, Vec<OwnedServerName>)>), OpError> {
        if summary.room_type != Some(RoomType::Space) {
            return Ok((SpaceHierarchyRoomsChunk::new(summary, Vec::new()), Vec::new()));
        }
        let mut children: Vec<Child> = self
            .rooms
            .current_state_but_members(&room.room_id)
            .await?
            .iter()
            .filter_map(|event| Child::of(event))
            .filter(|child| child.suggested || !suggested_only)
            .collect();
        children.sort_by(|one, other| one.sort_key().cmp(&other.sort_key()));
        let state =
            children.iter().filter_map(|child| Raw::new(&child.stripped).ok().map(Raw::cast_unchecked)).collect();
        let named = children.into_iter().map(|child| (child.room_id, child.via)).collect();
        Ok((SpaceHierarchyRoomsChunk::new(summary, state), named))
    }
}

/// A room that a space holds.
struct Child {
    room_id: OwnedRoomId,
    via: Vec<OwnedServerName>,
    suggested: bool,
    order: Option<String>,
    ts_ms: i64,
    stripped: Value,
}

impl Child {
    fn of(event: &StoredEvent) -> Option<Self> {
        let pdu = &event.pdu;
        if pdu.type_str() != "m.space.child" {
            return None;
        }
        let content: Content = serde_json::from_str(pdu.content_str()).ok()?;
        let room_id = RoomId::parse(pdu.state_key()?).ok()?;
        // A child without servers to ask has been taken out.
        let via: Vec<OwnedServerName> = content
            .get("via")?
            .as_array()?
            .iter()
            .filter_map(|server| ServerName::parse(server.as_str()?).ok())
            .collect();
        let order = content.get("order").and_then(Value::as_str).filter(|order| is_order(order)).map(ToOwned::to_owned);
        let ts_ms = pdu.origin_server_ts_ms();
        Some(Self {
            suggested: content.get("suggested").and_then(Value::as_bool) == Some(true),
            stripped: json!({
                "type": pdu.type_str(),
                "state_key": pdu.state_key(),
                "sender": pdu.sender(),
                "origin_server_ts": ts_ms,
                "content": content,
            }),
            room_id: room_id.to_owned(),
            via,
            order,
            ts_ms,
        })
    }

    /// Those with an order come first, then the older ones.
    fn sort_key(&self) -> (bool, Option<&str>, i64, &RoomId) {
        (self.order.is_none(), self.order.as_deref(), self.ts_ms, &self.room_id)
    }
}

fn is_order(order: &str) -> bool {
    order.len() <= ORDER_BYTES_MAX && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}
