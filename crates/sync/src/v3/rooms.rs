//! The rooms of an answer: which of them are looked at, and under which section each is told.

use std::collections::HashSet;

use futures_util::future::{BoxFuture, try_join_all};
use ruma::{OwnedUserId, RoomId, events::room::member::MembershipState};
use samtal_account::InviteVerdict;
use samtal_room::RoomMembership;

use crate::{
    Sync, SyncError, core::Company, filter::Members, json::Object, listener::Memberships, marks::Changed, room::Round,
};

/// Rooms that are put together at once, where each read is a way to another process and back. Half of the connections that there
/// are by default.
const ROOMS_AT_ONCE: usize = 8;

/// A room that may have news, and of which kinds.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    membership: &'a RoomMembership,
    changed: Changed,
    typing: bool,
}

impl Sync {
    /// The `rooms` object, empty when there is nothing to tell; and who came and went.
    pub(super) async fn rooms(
        &self,
        round: &Round<'_>,
        memberships: &Memberships,
    ) -> Result<(String, Company), SyncError> {
        let filter = &round.request.filter;
        let typing: HashSet<_> = match round.since {
            Some(since) => self.engines.edus.typing.rooms_changed(since.typing).into_iter().collect(),
            None => HashSet::new(),
        };
        // Where it is known which rooms changed, the others are not even looked at.
        let recent = round.since.filter(|_| !round.request.full_state);
        let candidates = match recent.and_then(|since| self.active.changed_rooms(since.position.0)) {
            Some(changed) => {
                let data =
                    round.account_data.iter().filter_map(|data| <&RoomId>::try_from(data.room_id.as_deref()?).ok());
                let rooms = changed.iter().chain(&typing).chain(&round.read).map(|room_id| &**room_id);
                memberships.of(rooms.chain(data), round.after())
            }
            None => memberships.iter().collect(),
        };
        let wanted: Vec<&RoomMembership> = candidates
            .into_iter()
            .filter(|membership| {
                // SPEC: other devices are told of a leave even if the room was forgotten right after it.
                let is_news = round.since.is_some_and(|since| membership.position > since.position);
                (!membership.forgotten || is_news) && filter.passes_room(membership.room_id.as_str())
            })
            .collect();
        let changed = self.active.changed(wanted.iter().map(|membership| &*membership.room_id), round.after());
        let mut sections = Sections::default();
        let mut company = Company::default();
        let at_once = if self.engines.db.is_postgres() { ROOMS_AT_ONCE } else { 1 };
        let mut left = wanted.into_iter().zip(changed).peekable();
        while left.peek().is_some() {
            let mut part: Vec<BoxFuture<'_, Result<(Sections, Company), SyncError>>> = Vec::with_capacity(at_once);
            for (membership, changed) in left.by_ref().take(at_once) {
                let typing = typing.contains(&membership.room_id);
                part.push(Box::pin(self.one_room(round, Candidate { membership, changed, typing })));
            }
            for (section, came_and_went) in try_join_all(part).await? {
                sections.extend(section);
                company.extend(came_and_went);
            }
        }
        Ok((sections.finish(), company))
    }

    /// A room as the user stands to it.
    async fn one_room(&self, round: &Round<'_>, room: Candidate<'_>) -> Result<(Sections, Company), SyncError> {
        let membership = room.membership;
        match &membership.membership {
            MembershipState::Join => self.as_joined(round, room).await,
            MembershipState::Invite => Ok((self.as_invited(round, membership).await?, Company::default())),
            MembershipState::Knock => Ok((self.as_knocking(round, membership).await?, Company::default())),
            MembershipState::Leave | MembershipState::Ban => self.as_left(round, membership).await,
            _ => Ok(Default::default()),
        }
    }

    async fn as_joined(&self, round: &Round<'_>, room: Candidate<'_>) -> Result<(Sections, Company), SyncError> {
        let Candidate { membership, changed, typing } = room;
        let (mut sections, mut company) = (Sections::default(), Company::default());
        let (user_id, room_id) = (&round.request.user_id, &membership.room_id);
        let is_new = round.is_news(membership);
        let mut known = round.since.is_some() && (!is_new || self.was_joined(user_id, room_id, round.after()).await?);
        // MSC3902: who does not load members lazily is shown the room when all of them are here, as new.
        if round.request.filter.members == Members::All
            && let Some(partial) = self.store().partial.get(room_id)
        {
            match partial.completed {
                None => return Ok((sections, company)),
                Some(completed) => known &= completed <= round.after(),
            }
        }
        let has_data = || round.account_data.iter().any(|data| data.room_id.as_deref() == Some(room_id.as_str()));
        let may_have_news = !known
            || round.request.full_state
            || changed.events
            || changed.receipts
            || typing
            || round.read.contains(room_id)
            || has_data();
        if !may_have_news {
            return Ok((sections, company));
        }
        let joined = self.joined_room(round, membership, known, changed.events || is_new, changed.receipts).await?;
        if round.since.is_some() {
            company.joined.extend(joined.members.joined);
            company.invited.extend(joined.members.invited);
            company.left.extend(joined.members.left);
            if !known {
                company.new_rooms.push(room_id.clone());
            }
        }
        if let Some(json) = joined.json {
            sections.join.push((room_id.to_string(), json));
        }
        Ok((sections, company))
    }

    async fn as_invited(&self, round: &Round<'_>, membership: &RoomMembership) -> Result<Sections, SyncError> {
        let mut sections = Sections::default();
        if !round.is_news(membership) || round.ignored.contains(&membership.sender) {
            return Ok(sections);
        }
        let user_id = &round.request.user_id;
        let filter = self.engines.accounts.invite_filter(user_id).await?;
        if filter.verdict(&membership.sender) == InviteVerdict::Allow {
            let json = self.outside_room(membership, user_id, "invite_state").await?;
            sections.invite.push((membership.room_id.to_string(), json));
        }
        Ok(sections)
    }

    async fn as_knocking(&self, round: &Round<'_>, membership: &RoomMembership) -> Result<Sections, SyncError> {
        let mut sections = Sections::default();
        if round.is_news(membership) {
            let json = self.outside_room(membership, &round.request.user_id, "knock_state").await?;
            sections.knock.push((membership.room_id.to_string(), json));
        }
        Ok(sections)
    }

    async fn as_left(&self, round: &Round<'_>, membership: &RoomMembership) -> Result<(Sections, Company), SyncError> {
        let (mut sections, mut company) = (Sections::default(), Company::default());
        let (user_id, room_id) = (&round.request.user_id, &membership.room_id);
        let initial = round.since.is_none();
        let is_new = round.is_news(membership);
        // All that was left is told to who asks for it from the beginning; later, what has just been left.
        let archive = round.request.filter.include_leave && (initial || round.request.full_state);
        if !archive && (initial || !is_new) {
            return Ok((sections, company));
        }
        let known = !initial && is_new && self.was_joined(user_id, room_id, round.after()).await?;
        if known {
            company.left_rooms.push((room_id.clone(), membership.position));
        }
        if initial && self.never_was_there(user_id, membership).await? {
            return Ok((sections, company));
        }
        if let Some(json) = self.left_room(round, membership, known).await? {
            sections.leave.push((room_id.to_string(), json));
        }
        Ok((sections, company))
    }

    /// Whether the user has never been in a room that they are not in now.
    pub(crate) async fn never_was_there(
        &self,
        user_id: &OwnedUserId,
        membership: &RoomMembership,
    ) -> Result<bool, SyncError> {
        let room = self.engines.rooms.room(&membership.room_id).await?;
        Ok(self.engines.rooms.joined_until(user_id, &room).await?.is_none())
    }
}

/// The rooms of an answer by section, written.
#[derive(Default)]
struct Sections {
    join: Vec<(String, String)>,
    invite: Vec<(String, String)>,
    knock: Vec<(String, String)>,
    leave: Vec<(String, String)>,
}

impl Sections {
    fn extend(&mut self, other: Self) {
        self.join.extend(other.join);
        self.invite.extend(other.invite);
        self.knock.extend(other.knock);
        self.leave.extend(other.leave);
    }

    fn finish(self) -> String {
        let sections = [("invite", self.invite), ("join", self.join), ("knock", self.knock), ("leave", self.leave)];
        if sections.iter().all(|(_, rooms)| rooms.is_empty()) {
            return String::new();
        }
        let bytes: usize =
            sections.iter().flat_map(|(_, rooms)| rooms).map(|(id, json)| id.len() + json.len() + 4).sum();
        let mut out = String::with_capacity(bytes + 64);
        let mut object = Object::new(&mut out);
        for (name, rooms) in sections {
            object.object(name, |inner| {
                for (room_id, json) in rooms {
                    inner.raw(&room_id, &json);
                }
            });
        }
        object.end();
        out
    }
}
