//! Typing and presence, which are in memory only and go to whoever can be reached now.

use std::collections::{BTreeSet, HashMap};

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId};
use samtal_edu::EduChange;
use samtal_model::ChangeKind;
use samtal_policy::Action;
use tokio::sync::broadcast::error::RecvError;

use crate::{Sender, SenderError, audience::Audience, lane::Lane};

/// Presences that a newcomer's server is told.
const PRESENCES_MAX: usize = 100;

impl Sender {
    /// Follows typing and presence, which are in memory only.
    pub(crate) async fn follow_passing(self) {
        let engines = &self.inner.engines;
        let mut changes = engines.edus.subscribe();
        let mut typing: HashMap<OwnedRoomId, BTreeSet<OwnedUserId>> = HashMap::new();
        loop {
            let change = tokio::select! {
                biased;
                () = engines.tasks.stopping() => return,
                change = changes.recv() => change,
            };
            let passed = match change {
                Ok(EduChange::Typing(room)) => self.pass_typing(&room, &mut typing).await,
                Ok(EduChange::Presence(user)) => self.pass_presence(&user).await,
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            };
            if let Err(error) = passed {
                tracing::warn!(%error, "typing or presence was not passed on");
            }
        }
    }

    async fn pass_typing(
        &self,
        room: &RoomId,
        sent: &mut HashMap<OwnedRoomId, BTreeSet<OwnedUserId>>,
    ) -> Result<(), SenderError> {
        let engines = &self.inner.engines;
        let ours = |user: &OwnedUserId| user.server_name() == engines.name;
        let now: BTreeSet<OwnedUserId> = engines.edus.typing.users(room).into_iter().filter(ours).collect();
        let before = sent.remove(room).unwrap_or_default();
        let news: Vec<_> = now
            .difference(&before)
            .map(|user| (user, true))
            .chain(before.difference(&now).map(|user| (user, false)))
            .collect();
        if !news.is_empty() {
            let servers = Audience::new(engines).servers(room).await?.clone();
            self.pass(servers, |lane| {
                for (user, is_typing) in &news {
                    lane.push_typing(room.to_owned(), (*user).clone(), *is_typing);
                }
            });
        }
        if !now.is_empty() {
            sent.insert(room.to_owned(), now);
        }
        Ok(())
    }

    async fn pass_presence(&self, user: &UserId) -> Result<(), SenderError> {
        let engines = &self.inner.engines;
        if user.server_name() == engines.name {
            let servers = engines.rooms.store().graph.servers_sharing_rooms(user).await?.into_iter().collect();
            self.pass(servers, |lane| lane.push_presence(user.to_owned()));
        }
        Ok(())
    }

    /// Whoever meets sees each other: a user of ours tells the room's servers, and a newcomer's server hears of ours.
    pub(crate) async fn pass_presence_of_joiner(
        &self,
        audience: &mut Audience<'_>,
        logged: &samtal_db::LoggedChange,
    ) -> Result<(), SenderError> {
        let (engines, change) = (&self.inner.engines, &logged.change);
        let is_join = change.kind == ChangeKind::Membership.code() && change.reference.as_deref() == Some("join");
        if !is_join || !engines.edus.presence.is_enabled() {
            return Ok(());
        }
        let (Some(Ok(room_id)), Some(Ok(user))) =
            (change.room.as_deref().map(RoomId::parse), change.user.as_deref().map(UserId::parse))
        else {
            return Ok(());
        };
        if user.server_name() == engines.name {
            let servers = audience.servers(&room_id).await?.clone();
            self.pass(servers, |lane| lane.push_presence(user.clone()));
        } else if let Some(room) = engines.rooms.store().graph.room(&room_id).await? {
            let mut ours = engines.rooms.store().graph.joined_of(room.nid, &engines.name).await?;
            ours.truncate(PRESENCES_MAX);
            self.pass(BTreeSet::from([user.server_name().to_owned()]), |lane| {
                ours.iter().for_each(|user| lane.push_presence(user.clone()))
            });
        }
        Ok(())
    }

    fn pass(&self, mut servers: BTreeSet<OwnedServerName>, push: impl Fn(&mut Lane)) {
        servers.remove(&self.inner.engines.name);
        let mut lanes = self.inner.lanes.lock();
        for server in servers.into_iter().filter(|server| self.may_hear(server, Action::Edu)) {
            let lane = lanes.entry(server.clone()).or_default();
            push(lane);
            self.wake(&server, lane);
            if lane.is_empty() && lane.worker.is_none() && !lane.has_row {
                lanes.remove(&server);
            }
        }
    }
}
