//! Spaces: rooms that hold rooms, walked depth first (CS API, "Spaces").

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId,
    api::{client::space::SpaceHierarchyRoomsChunk, federation::space::get_hierarchy::v1 as get_hierarchy},
    room::{RoomSummary, RoomType},
    serde::Raw,
};
use samtal_room::{Room, StoredEvent};
use serde_json::{Value, json};

use crate::{Homeserver, OpError, member::Content};

/// Rooms of one walk, however large the space.
const ROOMS_MAX: usize = 2_000;
/// Questions to other servers in one walk.
const ASKED_MAX: usize = 50;
/// Servers that are asked about one room.
const SERVERS_MAX: usize = 3;
/// Longest `order` of a child.
const ORDER_BYTES_MAX: usize = 50;

/// A room still to be looked at.
struct Waiting {
    room_id: OwnedRoomId,
    depth: usize,
    /// Whom to ask about it if it is not known here.
    via: Vec<OwnedServerName>,
}

/// What a walk has learned from other servers.
#[derive(Default)]
struct Walk {
    suggested_only: bool,
    summaries: HashMap<OwnedRoomId, RoomSummary>,
    inaccessible: HashSet<OwnedRoomId>,
    asked: usize,
}

/// A room and what it holds.
type Found = (SpaceHierarchyRoomsChunk, Vec<(OwnedRoomId, Vec<OwnedServerName>)>);

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
        let mut walk = Walk { suggested_only, ..Walk::default() };
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
            let Some((chunk, children)) = self.hierarchy_room(user, &next, &mut walk).await? else {
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

    /// The rooms of a space that this server is in, at most `count`, whoever may see them; the space itself first.
    pub async fn own_hierarchy(
        &self,
        root: &RoomId,
        depth_max: Option<usize>,
        count: usize,
    ) -> Result<Vec<SpaceHierarchyRoomsChunk>, OpError> {
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        let mut waiting = vec![(root.to_owned(), 0)];
        while let Some((room_id, depth)) = waiting.pop() {
            if found.len() >= count.min(ROOMS_MAX) {
                break;
            }
            if !seen.insert(room_id.clone()) {
                continue;
            }
            let Some(room) = self.resident_room(&room_id).await? else { continue };
            let summary = self.room_summary(&room).await?;
            let (chunk, children) = self.space_chunk(&room, summary, false).await?;
            found.push(chunk);
            if depth_max.is_none_or(|max| depth < max) {
                waiting.extend(children.into_iter().rev().map(|(child, _)| (child, depth + 1)));
            }
        }
        Ok(found)
    }

    async fn hierarchy_room(&self, user: &UserId, next: &Waiting, walk: &mut Walk) -> Result<Option<Found>, OpError> {
        if let Some(room) = self.resident_room(&next.room_id).await? {
            let summary = self.room_summary(&room).await?;
            if !self.may_preview(Some(user), &summary).await? {
                return Ok(None);
            }
            return self.space_chunk(&room, summary, walk.suggested_only).await.map(Some);
        }
        let known = walk.summaries.remove(&next.room_id);
        let chunk = match known {
            // What is no space holds nothing: no need to ask again.
            Some(summary) if summary.room_type != Some(RoomType::Space) => {
                SpaceHierarchyRoomsChunk::new(summary, Vec::new())
            }
            _ if walk.inaccessible.contains(&next.room_id) || walk.asked >= ASKED_MAX => return Ok(None),
            _ => {
                walk.asked += 1;
                let answer = self.hierarchy_remote(&next.room_id, &next.via, walk.suggested_only).await;
                let Some(answer) = answer else { return Ok(None) };
                walk.inaccessible.extend(answer.inaccessible_children);
                walk.summaries.extend(answer.children.into_iter().map(|child| (child.room_id.clone(), child)));
                SpaceHierarchyRoomsChunk::new(answer.room.summary, answer.room.children_state)
            }
        };
        if !self.may_preview(Some(user), &chunk.summary).await? {
            return Ok(None);
        }
        let mut children: Vec<Child> =
            chunk.children_state.iter().filter_map(|child| Child::of_stripped(child.json().get())).collect();
        children.sort_by(|one, other| one.sort_key().cmp(&other.sort_key()));
        Ok(Some((chunk, children.into_iter().map(|child| (child.room_id, child.via)).collect())))
    }

    /// What other servers say about a space. The first of them that answers for this room is believed.
    pub(crate) async fn hierarchy_remote(
        &self,
        room_id: &RoomId,
        via: &[OwnedServerName],
        suggested_only: bool,
    ) -> Option<get_hierarchy::Response> {
        let own = room_id.server_name().map(ToOwned::to_owned);
        let mut servers: Vec<OwnedServerName> = via.iter().cloned().chain(own).collect();
        let mut seen = HashSet::new();
        servers.retain(|server| *server != self.name && seen.insert(server.clone()));
        for server in servers.into_iter().take(SERVERS_MAX) {
            let mut request = get_hierarchy::Request::new(room_id.to_owned());
            request.suggested_only = suggested_only;
            match self.remote.send(&server, request).await {
                Ok(answer) if answer.room.summary.room_id == room_id => return Some(answer),
                Ok(_) => tracing::info!(%server, %room_id, "asked about a room, answered about another"),
                Err(error) => tracing::debug!(%server, %room_id, %error, "no summary was given"),
            }
        }
        None
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
        let (via, order) = (servers(&content)?, order(&content));
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

    /// A child as another server tells it.
    fn of_stripped(json: &str) -> Option<Self> {
        let stripped: Value = serde_json::from_str(json).ok()?;
        let content = stripped.get("content")?.as_object()?;
        Some(Self {
            room_id: RoomId::parse(stripped.get("state_key")?.as_str()?).ok()?.to_owned(),
            via: servers(content)?,
            suggested: content.get("suggested").and_then(Value::as_bool) == Some(true),
            order: order(content),
            ts_ms: stripped.get("origin_server_ts").and_then(Value::as_i64).unwrap_or(i64::MAX),
            stripped: Value::Null,
        })
    }

    /// Those with an order come first, then the older ones.
    fn sort_key(&self) -> (bool, Option<&str>, i64, &RoomId) {
        (self.order.is_none(), self.order.as_deref(), self.ts_ms, &self.room_id)
    }
}

/// The servers to ask about a child; one without them has been taken out.
fn servers(content: &Content) -> Option<Vec<OwnedServerName>> {
    let via = content.get("via")?.as_array()?;
    Some(via.iter().filter_map(|server| ServerName::parse(server.as_str()?).ok()).collect())
}

fn order(content: &Content) -> Option<String> {
    content.get("order").and_then(Value::as_str).filter(|order| is_order(order)).map(ToOwned::to_owned)
}

fn is_order(order: &str) -> bool {
    order.len() <= ORDER_BYTES_MAX && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}
