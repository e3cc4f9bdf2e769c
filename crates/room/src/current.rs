//! The current state of a room: that of its forward extremities.

use std::sync::Arc;

use ruma::UserId;
use samtal_db::{Change, Value};
use samtal_event::Pdu;
use samtal_model::ChangeKind;
use samtal_state::SnapshotId;

use crate::{
    error::RoomError,
    graph::{Room, StoredEvent},
    membership::{MembershipWriter, membership_of},
    turn::{Turn, is_auth_state},
};

impl Turn<'_> {
    /// Moves the forward extremities past an accepted event. What something here builds on is none. Whether the states they end
    /// in are others now.
    pub(crate) async fn advance(&mut self, event: &StoredEvent, is_old: bool) -> Result<bool, RoomError> {
        let after = self.after(event).await?;
        let mut has_changed = false;
        for id in event.pdu.prev_events() {
            has_changed |= self.head.extremities.remove(id);
        }
        if !is_old {
            has_changed |= self.head.extremities.insert(event.nid, event.pdu.clone(), after);
        }
        self.head.depth = self.head.depth.max(event.pdu.depth());
        Ok(has_changed)
    }

    /// Makes the head's state that of its forward extremities.
    pub(crate) async fn settle(&mut self, position: Option<Value>) -> Result<(), RoomError> {
        if self.head.extremities.is_empty() {
            return Ok(());
        }
        let snapshot = self.resolve(&self.head.extremities.states()).await?;
        self.head.extremities.settled();
        self.move_state(snapshot, position).await
    }

    /// As [`Turn::settle`], if that was left for later.
    pub(crate) async fn settle_if_unsettled(&mut self) -> Result<(), RoomError> {
        if self.head.extremities.is_unsettled() { self.settle(None).await } else { Ok(()) }
    }

    /// Where the forward extremities end in very many states, what they come to is worked out once for some of them.
    pub(crate) async fn settle_if_due(&mut self) -> Result<(), RoomError> {
        if !self.head.extremities.is_due() {
            return Ok(());
        }
        match self.settle(None).await {
            Err(RoomError::Refused(reason)) => {
                tracing::warn!(room = %self.head.room.room_id, reason, "the state of the room cannot be worked out");
                Ok(())
            }
            settled => settled,
        }
    }

    /// Makes `snapshot` the current state: memberships, lookups and the log of states follow.
    pub(crate) async fn move_state(&mut self, snapshot: SnapshotId, position: Option<Value>) -> Result<(), RoomError> {
        if snapshot == self.head.snapshot {
            return Ok(());
        }
        let differences = self.store.snapshots.diff(self.head.snapshot, snapshot).await?;
        let mut writer = MembershipWriter::default();
        let mut auth_changed = self.head.auth.is_none();
        let mut members_changed = false;
        let room = Arc::clone(&self.head.room);
        let mut touched = Vec::with_capacity(differences.len() * 2);
        for difference in &differences {
            touched.extend(difference.before);
            touched.extend(difference.after);
        }
        self.preload(&touched).await?;
        for difference in &differences {
            let before = match difference.before {
                Some(nid) => Some(self.find_nid(nid).await?),
                None => None,
            };
            let Some(after) = difference.after else {
                if let Some(before) = before {
                    auth_changed |= is_auth_state(&before.pdu);
                    self.head.unset(&before.pdu);
                    unset_member(&mut self.batch, &mut writer, &room, &before.pdu);
                }
                continue;
            };
            let after = self.find_nid(after).await?;
            auth_changed |= is_auth_state(&after.pdu);
            if after.pdu.type_str() == "m.room.member" {
                members_changed = true;
                let was = before.as_ref().and_then(|before| membership_of(&before.pdu));
                let user = after.pdu.state_key().and_then(|key| <&UserId>::try_from(key).ok());
                let local = user.is_some_and(|user| self.is_local(user.server_name()));
                writer.set(&mut self.batch, &room, &after.pdu, was.as_ref(), local);
            }
            self.head.set(&after.pdu);
        }
        writer.finish(&mut self.batch, room.nid);
        self.head.snapshot = snapshot;
        let position = match position {
            Some(position) => position,
            None => self.batch.log(Change::new(ChangeKind::State).room(&room.room_id)),
        };
        self.head.log_state(&mut self.batch, position);
        if auth_changed {
            self.head.refresh_auth(self.store).await?;
        }
        if members_changed {
            self.reconsider_sticky().await?;
        }
        Ok(())
    }
}

fn unset_member(batch: &mut samtal_db::Batch, writer: &mut MembershipWriter, room: &Room, before: &Pdu) {
    let user = before.state_key().and_then(|key| <&UserId>::try_from(key).ok());
    if before.type_str() == "m.room.member"
        && let (Some(user), Some(was)) = (user, membership_of(before))
    {
        writer.unset(batch, room, user, &was);
    }
}
