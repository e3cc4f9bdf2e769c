//! Redactions: of what is here, and of what comes later than its redaction.

use ruma::{EventId, OwnedEventId};
use samtal_db::{Change, Sql, params, sql};
use samtal_event::{Pdu, redact};
use samtal_model::ChangeKind;

use crate::{
    error::RoomError,
    graph::{Flags, StoredEvent, redact_event},
    relation, sticky,
    turn::{Turn, is_auth_state},
};

const PENDING_REDACTION_INSERT: Sql = sql!(
    "INSERT INTO pending_redaction (room, target, redaction) VALUES ($1, $2, $3)
     ON CONFLICT (room, target, redaction) DO NOTHING"
);
const PENDING_REDACTIONS: Sql = sql!("SELECT redaction FROM pending_redaction WHERE room = $1 AND target = $2");

impl Turn<'_> {
    /// Applies a redaction whose target is here, or notes it for when the target comes.
    pub(crate) async fn apply_redaction(&mut self, redaction: &Pdu) -> Result<(), RoomError> {
        let Some(target_id) = redaction.redacts() else { return Ok(()) };
        let pending = self.pending.iter().position(|pending| pending.event.pdu.event_id() == target_id);
        let target = match pending.and_then(|index| self.pending.get(index)) {
            Some(pending) => pending.event.clone(),
            None => match self.store.graph.event(target_id).await? {
                Some(target) => (*target).clone(),
                None => {
                    let params = params![self.head.room.nid.0, target_id.as_str(), redaction.event_id().as_str()];
                    self.batch.exec(&PENDING_REDACTION_INSERT, params);
                    return Ok(());
                }
            },
        };
        if !self.may_redact(redaction, &target) {
            return Ok(());
        }
        self.redact(&target, redaction, pending).await
    }

    /// Room versions 1 and 2 decide this by their authorization rules; later ones here (RV3, "Handling redactions").
    fn may_redact(&self, redaction: &Pdu, target: &StoredEvent) -> bool {
        let rules = self.head.room.rules;
        target.room == self.head.room.nid
            && target.redacted_by.is_none()
            && target.pdu.type_str() != "m.room.create"
            && (rules.authorization.special_case_room_redaction
                || self
                    .head
                    .auth
                    .as_ref()
                    .is_some_and(|auth| auth.power().can_redact(redaction.sender(), target.pdu.sender())))
    }

    async fn redact(&mut self, target: &StoredEvent, redaction: &Pdu, pending: Option<usize>) -> Result<(), RoomError> {
        let redacted = redact(&target.pdu, self.head.room.rules)?;
        redact_event(&mut self.batch, target, &redacted, redaction.event_id());
        relation::remove(&mut self.batch, target.nid);
        sticky::remove(&mut self.batch, target.room, &target.pdu, target.nid);
        self.batch.log(
            Change::new(ChangeKind::Redaction)
                .room(&self.head.room.room_id)
                .user(redaction.sender())
                .reference(target.pdu.event_id()),
        );
        if let Some(pending) = pending.and_then(|index| self.pending.get_mut(index)) {
            pending.event.pdu = redacted.clone();
            pending.event.flags = pending.event.flags.with(Flags::REDACTED);
            pending.event.redacted_by = Some(redaction.event_id().to_owned());
        }
        self.rewrite(target.nid, target.pdu.event_id());
        if self.head.replace(&redacted) && is_auth_state(&redacted) {
            self.head.refresh_auth(self.store).await?;
        }
        Ok(())
    }

    /// Redactions that came before their target.
    pub(crate) async fn waiting_redactions(&self, target: &EventId) -> Result<Vec<Pdu>, RoomError> {
        let rows = self.store.db().query(&PENDING_REDACTIONS, params![self.head.room.nid.0, target.as_str()]).await?;
        let ids: Vec<OwnedEventId> =
            rows.iter().filter_map(|row| row.text(0).ok().and_then(|id| OwnedEventId::try_from(id).ok())).collect();
        Ok(self.store.graph.events(&ids).await?.iter().map(|event| event.pdu.clone()).collect())
    }
}
