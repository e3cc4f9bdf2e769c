//! The state of a room in `GET /v3/sync`: what changed, and the members that a lazy loading reader needs.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::{OwnedUserId, UserId};
use samtal_room::{Room, StoredEvent};

use crate::{
    Sync, SyncError,
    filter::Members,
    room::{Draft, Round},
    span::Timeline,
    summary::Summary,
    view,
};

impl Sync {
    /// The state events to tell, written.
    pub(crate) async fn state_events(
        &self,
        round: &Round<'_>,
        room: &Room,
        draft: &Draft,
        everything: bool,
    ) -> Result<Vec<String>, SyncError> {
        let filter = round.filter();
        if filter.state.passes_none() || !filter.state.passes_room(room.room_id.as_str()) {
            return Ok(Vec::new());
        }
        let store = self.store();
        let lazy = filter.members != Members::All;
        let mut events = draft.gap.events(store, &draft.timeline, !lazy).await?;
        if lazy {
            self.add_members(round, room, draft, everything, &mut events).await?;
        }
        let plain = filter.plain_events();
        let wanted = events.iter().filter(|event| {
            let pdu = &event.pdu;
            filter.state.passes(pdu.type_str(), pdu.sender().as_str(), pdu.content_str())
        });
        let mut written = Vec::new();
        for event in wanted {
            written.push(match plain {
                true if everything => view::render_state(event, round.reader.now_ms),
                _ => self.write_event(round, event, None, None).await?,
            });
        }
        Ok(written)
    }

    /// Members who are not in the part of the state that is here, as the auth events of what they sent show them.
    async fn members_of_auth(
        &self,
        timeline: &Timeline,
        needed: &BTreeSet<OwnedUserId>,
        found: &[(OwnedUserId, Arc<StoredEvent>)],
    ) -> Result<Vec<(OwnedUserId, Arc<StoredEvent>)>, SyncError> {
        let mut told: HashMap<OwnedUserId, Arc<StoredEvent>> = HashMap::new();
        for event in timeline.events.iter().filter(|event| needed.contains(event.pdu.sender())) {
            let sender = event.pdu.sender();
            if found.iter().any(|(user, _)| user == sender) || told.contains_key(sender) {
                continue;
            }
            let auth = self.store().graph.events(event.pdu.auth_events()).await?;
            let member = auth.into_iter().find(|auth| auth.pdu.is_state_of("m.room.member", sender.as_str()));
            if let Some(member) = member.filter(|member| !member.pdu.is_rejected()) {
                told.insert(sender.to_owned(), member);
            }
        }
        Ok(told.into_iter().collect())
    }

    /// Adds the members that a lazy loading reader needs and has not been told yet, and remembers that they are told.
    async fn add_members(
        &self,
        round: &Round<'_>,
        room: &Room,
        draft: &Draft,
        everything: bool,
        events: &mut Vec<Arc<StoredEvent>>,
    ) -> Result<(), SyncError> {
        let mut needed = self.needed_members(round, room, draft, everything).await?;
        let here: HashSet<&str> =
            events.iter().filter(|event| is_member(event)).filter_map(|event| event.pdu.state_key()).collect();
        needed.retain(|needed| !here.contains(needed.as_str()));
        let mut members = draft.gap.members(self.store(), &needed).await?;
        if self.store().partial.is_partial(&room.room_id) {
            members.extend(self.members_of_auth(&draft.timeline, &needed, &members).await?);
        }
        let device = round.device();
        let shown: HashSet<_> = draft.timeline.events.iter().map(|event| event.nid).collect();
        for (member, event) in members {
            let is_shown = shown.contains(&event.nid);
            let was_told = round.filter().members == Members::Lazy
                && !everything
                && device.as_ref().is_some_and(|device| {
                    self.lazy.has(device, round.after(), &room.room_id, &member, event.pdu.event_id())
                });
            // A reader who takes state from the timeline needs nothing twice; another must be told here what changes there.
            let is_wanted = match draft.gap.to_the_end {
                true => is_shown || !was_told,
                false => !is_shown && !was_told,
            };
            if is_wanted {
                events.push(event);
            }
        }
        if let Some(device) = device {
            let members = events.iter().filter(|event| is_member(event)).filter_map(|event| {
                let member = UserId::parse(event.pdu.state_key()?).ok()?;
                Some((member, event.pdu.event_id().to_owned()))
            });
            self.lazy.tell(&device, round.until, &room.room_id, members);
        }
        Ok(())
    }

    /// Those whose events are shown, the reader, the heroes.
    async fn needed_members(
        &self,
        round: &Round<'_>,
        room: &Room,
        draft: &Draft,
        everything: bool,
    ) -> Result<BTreeSet<OwnedUserId>, SyncError> {
        let user_id = &round.request.user_id;
        let timeline = &draft.timeline.events;
        let mut needed: BTreeSet<OwnedUserId> = timeline.iter().map(|event| event.pdu.sender().to_owned()).collect();
        if draft.gap.to_the_end {
            // The reader takes no state from the timeline: whose membership changes there is told as well.
            let members = timeline.iter().filter(|event| is_member(event));
            needed.extend(members.filter_map(|event| UserId::parse(event.pdu.state_key()?).ok()));
        }
        if everything {
            needed.insert(user_id.clone());
        }
        if everything || draft.members.any {
            let summary = Summary::read(self.store(), room, draft.gap.end, user_id).await?;
            needed.extend(summary.heroes.into_iter().flatten());
        }
        Ok(needed)
    }
}

fn is_member(event: &StoredEvent) -> bool {
    event.pdu.type_str() == "m.room.member"
}
