//! The presence of those who share a room with the user.

use std::collections::HashSet;

use ruma::{OwnedUserId, events::room::member::MembershipState, presence::PresenceState};
use samtal_edu::PresenceEntry;
use samtal_room::RoomMembership;
use serde_json::Value;

use crate::{Sync, SyncError, core::Company, listener::Memberships, room::Round};

/// Newcomers of whom it is told, too, that nothing is known of their presence.
const NEWCOMERS_MAX: usize = 100;

impl Sync {
    /// Presence of those who share a room with the user.
    pub(super) async fn presence(
        &self,
        round: &Round<'_>,
        memberships: &Memberships,
        until: u64,
        company: &Company,
    ) -> Result<Vec<String>, SyncError> {
        let presence = &self.engines.edus.presence;
        let filter = &round.request.filter.presence;
        if !presence.is_enabled() || filter.passes_none() || !filter.passes_type("m.presence") {
            return Ok(Vec::new());
        }
        let user_id = &round.request.user_id;
        let mut changed = presence.changed(round.since.map_or(0, |since| since.presence), until);
        let newcomers = self.newcomers(round, memberships, company).await?;
        let few = newcomers.len() <= NEWCOMERS_MAX;
        for other in newcomers.into_iter().filter(|other| other != user_id) {
            let entry = presence.get(&other).or_else(|| few.then(PresenceEntry::unknown));
            if let Some(entry) = entry
                && !changed.iter().any(|(changed, _)| *changed == other)
            {
                changed.push((other, entry));
            }
        }
        changed.retain(|(other, entry)| {
            filter.passes_sender(other.as_str())
                && !round.ignored.contains(other)
                && (round.since.is_some() || entry.state != PresenceState::Offline)
        });
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let others = changed.iter().map(|(other, _)| other.clone());
        let sharing = self.who_shares_rooms(user_id, memberships, others).await?;
        let now_ms = presence.now_ms();
        Ok(changed
            .iter()
            .filter(|(other, _)| other == user_id || sharing.contains(other))
            .map(|(other, entry)| {
                Value::to_string(&serde_json::json!({
                    "type": "m.presence",
                    "sender": other,
                    "content": entry.content(now_ms),
                }))
            })
            .collect())
    }

    /// Users whom the reader sees now and did not before.
    async fn newcomers(
        &self,
        round: &Round<'_>,
        memberships: &[RoomMembership],
        company: &Company,
    ) -> Result<HashSet<OwnedUserId>, SyncError> {
        let mut newcomers = company.joined.clone();
        // MSC3902: who is in a room is known only once its state is whole.
        let mut whole = match round.since {
            Some(_) => self.store().partial.completed_since(round.after()),
            None => Vec::new(),
        };
        whole.retain(|room_id| {
            !company.new_rooms.contains(room_id)
                && memberships
                    .iter()
                    .any(|membership| membership.room_id == *room_id && membership.membership == MembershipState::Join)
        });
        for room_id in company.new_rooms.iter().chain(&whole) {
            if let Some(room) = self.store().graph.room(room_id).await? {
                let members = self.store().graph.members(room.nid, &[MembershipState::Join]).await?;
                newcomers.extend(members.into_iter().map(|member| member.user_id));
            }
        }
        Ok(newcomers)
    }
}
