//! Rooms from outside: summaries, the directory, and who may look.

use std::collections::HashSet;

use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, ServerName, UInt, UserId,
    api::client::directory::get_public_rooms::v3::Response as PublicRooms,
    api::federation::directory::{get_public_rooms::v1 as list_remote, get_public_rooms_filtered::v1 as search_remote},
    directory::{Filter, PublicRoomsChunk, PublicRoomsChunkInit, RoomNetwork, RoomTypeFilter},
    events::room::member::MembershipState,
    room::{JoinRule, JoinRuleKind, JoinRuleSummary, RoomSummary},
};
use samtal_room::Room;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Homeserver, OpError, member::Content};

/// Most rooms in one page of the directory.
const PAGE_MAX: usize = 500;

impl Homeserver {
    /// What the room says of itself to those who are not in it.
    pub async fn room_summary(&self, room: &Room) -> Result<RoomSummary, OpError> {
        let state = |event_type: &'static str| self.state_content(&room.room_id, event_type);
        let rules = state("m.room.join_rules").await?;
        let rule: JoinRule =
            rules.and_then(|content| serde_json::from_value(Value::Object(content)).ok()).unwrap_or(JoinRule::Invite);
        let guests = state("m.room.guest_access").await?;
        let visibility = state("m.room.history_visibility").await?;
        let (joined, _) = self.rooms.store().graph.counts(room.nid).await?;
        let mut summary = RoomSummary::new(
            room.room_id.clone(),
            JoinRuleSummary::from(rule),
            text(guests.as_ref(), "guest_access") == Some("can_join"),
            UInt::new_saturating(joined),
            text(visibility.as_ref(), "history_visibility") == Some("world_readable"),
        );
        summary.canonical_alias = field(state("m.room.canonical_alias").await?.as_ref(), "alias");
        summary.name = field(state("m.room.name").await?.as_ref(), "name").filter(|name: &String| !name.is_empty());
        summary.topic =
            field(state("m.room.topic").await?.as_ref(), "topic").filter(|topic: &String| !topic.is_empty());
        summary.avatar_url = field(state("m.room.avatar").await?.as_ref(), "url");
        summary.room_type = field(state("m.room.create").await?.as_ref(), "type");
        summary.encryption = field(state("m.room.encryption").await?.as_ref(), "algorithm");
        summary.room_version = Some(room.version.clone());
        Ok(summary)
    }

    /// The summary of a room, if the user (or anybody) may see it; of rooms that are not known here, what others say.
    pub async fn preview(
        &self,
        user: Option<&UserId>,
        room_id: &RoomId,
        via: &[OwnedServerName],
    ) -> Result<Option<RoomSummary>, OpError> {
        let summary = match self.resident_room(room_id).await? {
            Some(room) => Some(self.room_summary(&room).await?),
            None => self.hierarchy_remote(room_id, via, false).await.map(|answer| answer.room.summary),
        };
        let Some(summary) = summary else { return Ok(None) };
        Ok(self.may_preview(user, &summary).await?.then_some(summary))
    }

    /// A page of another server's room directory.
    pub async fn public_rooms_of(
        &self,
        server: &ServerName,
        filter: &Filter,
        limit: Option<UInt>,
        since: Option<&str>,
    ) -> Result<PublicRooms, OpError> {
        let since = since.map(ToOwned::to_owned);
        let mut page = PublicRooms::new(Vec::new());
        if filter.is_empty() {
            let mut request = list_remote::Request::new();
            (request.limit, request.since) = (limit, since);
            let answer = self.remote.send(server, request).await?;
            (page.chunk, page.next_batch) = (answer.chunk, answer.next_batch);
            (page.prev_batch, page.total_room_count_estimate) = (answer.prev_batch, answer.total_room_count_estimate);
        } else {
            let mut request = search_remote::Request::new();
            (request.limit, request.since, request.filter) = (limit, since, filter.clone());
            let answer = self.remote.send(server, request).await?;
            (page.chunk, page.next_batch) = (answer.chunk, answer.next_batch);
            (page.prev_batch, page.total_room_count_estimate) = (answer.prev_batch, answer.total_room_count_estimate);
        }
        Ok(page)
    }

    /// Whether a user of ours may see a room's summary: members, the invited, those who may join or knock, and anybody
    /// where the history is world readable.
    pub(crate) async fn may_preview(&self, user: Option<&UserId>, summary: &RoomSummary) -> Result<bool, OpError> {
        if is_open(summary) {
            return Ok(true);
        }
        let Some(user) = user else { return Ok(false) };
        let membership = self.membership(user, &summary.room_id).await?;
        if matches!(membership, MembershipState::Join | MembershipState::Invite) {
            return Ok(true);
        }
        self.allowed_room_has(summary, |room_id| async move {
            Ok(self.rooms.store().graph.is_joined(user, &room_id).await?)
        })
        .await
    }

    /// As `Self::may_preview`, for a server that asks on behalf of any of its users.
    pub async fn server_may_preview(
        &self,
        server: &ServerName,
        room: &Room,
        summary: &RoomSummary,
    ) -> Result<bool, OpError> {
        if is_open(summary) {
            return Ok(true);
        }
        if !self.rooms.store().graph.joined_of(room.nid, server).await?.is_empty() {
            return Ok(true);
        }
        let invited = self.rooms.store().graph.members(room.nid, &[MembershipState::Invite]).await?;
        if invited.iter().any(|member| member.user_id.server_name() == server) {
            return Ok(true);
        }
        self.allowed_room_has(summary, |room_id| async move {
            let Some(room) = self.rooms.store().graph.room(&room_id).await? else { return Ok(false) };
            Ok(!self.rooms.store().graph.joined_of(room.nid, server).await?.is_empty())
        })
        .await
    }

    async fn allowed_room_has<F, Fut>(&self, summary: &RoomSummary, has: F) -> Result<bool, OpError>
    where
        F: Fn(OwnedRoomId) -> Fut,
        Fut: Future<Output = Result<bool, OpError>>,
    {
        let (JoinRuleSummary::Restricted(rule) | JoinRuleSummary::KnockRestricted(rule)) = &summary.join_rule else {
            return Ok(false);
        };
        for room_id in &rule.allowed_room_ids {
            if has(room_id.clone()).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A page of this server's room directory. Pages are told apart by how many rooms came before.
    pub async fn public_rooms(
        &self,
        filter: &Filter,
        limit: Option<UInt>,
        since: Option<&str>,
    ) -> Result<PublicRooms, OpError> {
        self.public_rooms_in(&RoomNetwork::Matrix, filter, limit, since).await
    }

    /// As [`Self::public_rooms`], of another network's list, or of all networks.
    pub async fn public_rooms_in(
        &self,
        network: &RoomNetwork,
        filter: &Filter,
        limit: Option<UInt>,
        since: Option<&str>,
    ) -> Result<PublicRooms, OpError> {
        let bad = || OpError::Invalid("since is not a token of this server".into());
        let start: usize = match since {
            None | Some("") => 0,
            Some(since) => since.strip_prefix('p').and_then(|at| at.parse().ok()).ok_or_else(bad)?,
        };
        let limit = limit.and_then(|limit| usize::try_from(u64::from(limit)).ok()).unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let term = filter.generic_search_term.as_deref().map(str::to_lowercase).filter(|term| !term.is_empty());
        let mut found = Vec::new();
        for room_id in self.listed_rooms(network).await? {
            let summary = self.public_summary(&room_id).await?;
            found.extend(summary.filter(|summary| passes(summary, term.as_deref(), filter)));
        }
        let total = found.len();
        let chunk: Vec<PublicRoomsChunk> = found.into_iter().skip(start).take(limit).map(chunk).collect();
        let end = start + chunk.len();
        let mut page = PublicRooms::new(chunk);
        page.total_room_count_estimate = UInt::try_from(total).ok();
        page.next_batch = (end < total).then(|| format!("p{end}"));
        page.prev_batch = (start > 0).then(|| format!("p{}", start.saturating_sub(limit)));
        Ok(page)
    }

    /// The rooms in the list of a network.
    async fn listed_rooms(&self, network: &RoomNetwork) -> Result<Vec<OwnedRoomId>, OpError> {
        Ok(match network {
            RoomNetwork::ThirdParty(instance) => self.appservices.rooms_of_instance(instance).await?,
            RoomNetwork::All => {
                let mut rooms = self.rooms.published().await?;
                let known: HashSet<OwnedRoomId> = rooms.iter().cloned().collect();
                let more = self.appservices.rooms_of_networks().await?;
                rooms.extend(more.into_iter().filter(|room| !known.contains(room)));
                rooms
            }
            _ => self.rooms.published().await?,
        })
    }

    async fn public_summary(&self, room_id: &RoomId) -> Result<Option<RoomSummary>, OpError> {
        let Some(room) = self.resident_room(room_id).await? else { return Ok(None) };
        self.room_summary(&room).await.map(Some)
    }
}

/// Whether anybody may see the room's summary.
fn is_open(summary: &RoomSummary) -> bool {
    summary.world_readable
        || matches!(
            summary.join_rule.kind(),
            JoinRuleKind::Public | JoinRuleKind::Knock | JoinRuleKind::KnockRestricted
        )
}

fn passes(summary: &RoomSummary, term: Option<&str>, filter: &Filter) -> bool {
    let says = |text: Option<&str>| term.is_none_or(|term| text.is_some_and(|text| text.to_lowercase().contains(term)));
    let alias = summary.canonical_alias.as_ref().map(|alias| alias.as_str());
    let is_found = says(summary.name.as_deref()) || says(summary.topic.as_deref()) || says(alias);
    let room_type = RoomTypeFilter::from(summary.room_type.clone());
    is_found && (filter.room_types.is_empty() || filter.room_types.contains(&room_type))
}

fn chunk(summary: RoomSummary) -> PublicRoomsChunk {
    let mut chunk = PublicRoomsChunk::from(PublicRoomsChunkInit {
        num_joined_members: summary.num_joined_members,
        room_id: summary.room_id,
        world_readable: summary.world_readable,
        guest_can_join: summary.guest_can_join,
    });
    chunk.join_rule = summary.join_rule.kind();
    chunk.canonical_alias = summary.canonical_alias;
    chunk.name = summary.name;
    chunk.topic = summary.topic;
    chunk.avatar_url = summary.avatar_url;
    chunk.room_type = summary.room_type;
    chunk
}

fn text<'a>(content: Option<&'a Content>, name: &str) -> Option<&'a str> {
    content?.get(name)?.as_str()
}

/// A field of a content, if it is there and of the right type.
fn field<T: DeserializeOwned>(content: Option<&Content>, name: &str) -> Option<T> {
    serde_json::from_value(content?.get(name)?.clone()).ok()
}
