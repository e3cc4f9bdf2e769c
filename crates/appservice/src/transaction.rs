//! Transactions: what a service is told, from changes to the body that is sent (AS API, "Pushing events").

use std::collections::{BTreeMap, BTreeSet};

use ruma::{DeviceId, EventId, OwnedRoomId, OwnedUserId, RoomId, UserId, events::room::member::MembershipState};
use samtal_db::LoggedChange;
use samtal_edu::{EduChange, Receipt, receipt};
use samtal_model::ChangeKind;
use samtal_room::{Form, StoredEvent, membership_of};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{DeliveryError, Engines, Service, interest::Interest};

/// Most events, and most of anything else, in one transaction.
const ITEMS_MAX: usize = 100;
/// Members of a room that are looked at when the service's user leaves it.
const LEFT_MAX: usize = 1_000;

/// A transaction in the making.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    events: Vec<Box<RawValue>>,
    receipts: BTreeMap<OwnedRoomId, Vec<Receipt>>,
    typing: BTreeSet<OwnedRoomId>,
    presence: BTreeSet<OwnedUserId>,
    to_device: Vec<Value>,
    /// Messages that nobody but the service will fetch: whose, for which device, where in the log.
    pub(crate) taken: Vec<(OwnedUserId, String, i64)>,
    devices_changed: BTreeSet<OwnedUserId>,
    devices_left: BTreeSet<OwnedUserId>,
    /// Users and devices whose counts of keys are told.
    counted: BTreeSet<(OwnedUserId, String)>,
}

impl Draft {
    fn device_changed(&mut self, user: &UserId) {
        self.devices_left.remove(user);
        self.devices_changed.insert(user.to_owned());
    }

    pub(crate) fn is_full(&self) -> bool {
        let others = [self.receipts.len(), self.to_device.len(), self.devices_changed.len(), self.counted.len()];
        self.events.len() >= ITEMS_MAX || others.into_iter().any(|count| count >= ITEMS_MAX)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.receipts.is_empty()
            && self.typing.is_empty()
            && self.presence.is_empty()
            && self.to_device.is_empty()
            && self.devices_changed.is_empty()
            && self.devices_left.is_empty()
            && self.counted.is_empty()
    }
}

/// Reads changes for one service.
pub(crate) struct Reader<'a> {
    pub(crate) engines: &'a Engines,
    pub(crate) service: &'a Service,
    pub(crate) interest: &'a mut Interest,
}

impl Reader<'_> {
    /// Puts what a change means for the service into the draft.
    pub(crate) async fn read(&mut self, draft: &mut Draft, logged: &LoggedChange) -> Result<(), DeliveryError> {
        let change = &logged.change;
        let room = change.room.as_deref().and_then(|room| <&RoomId>::try_from(room).ok());
        let user = change.user.as_deref().and_then(|user| <&UserId>::try_from(user).ok());
        let reference = change.reference.as_deref();
        let position = logged.position;
        match (ChangeKind::from_code(change.kind), room, user, reference) {
            (Some(ChangeKind::Event), Some(room), _, Some(event_id)) => {
                self.event(draft, room, event_id, position).await?;
            }
            (Some(ChangeKind::Membership), Some(room), Some(user), Some(membership)) => {
                self.membership(draft, room, user, membership, position).await?;
            }
            (Some(ChangeKind::Alias), Some(room), ..) => self.interest.aliases_changed(room),
            (Some(ChangeKind::Receipt), Some(room), Some(user), _) if self.service.ephemeral => {
                self.receipts(draft, room, user, position).await?;
            }
            (Some(ChangeKind::ToDevice), _, Some(user), Some(device)) if self.service.ephemeral => {
                self.message(draft, user, device, position).await?;
            }
            (Some(ChangeKind::OneTimeKeys), _, Some(user), Some(device))
                if self.service.devices && self.service.has_user(user) =>
            {
                draft.counted.insert((user.to_owned(), device.to_owned()));
            }
            (Some(ChangeKind::DeviceList), _, Some(user), _) if self.service.devices => {
                self.device_list(draft, user, position).await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn receipts(
        &mut self,
        draft: &mut Draft,
        room: &RoomId,
        user: &UserId,
        position: i64,
    ) -> Result<(), DeliveryError> {
        if !self.concerns(room, position).await? {
            return Ok(());
        }
        let mut receipts = self.engines.edus.receipts.changed(room, position - 1, position).await?;
        receipts.retain(|receipt| !receipt.is_private() || self.service.has_user(user));
        if !receipts.is_empty() {
            draft.receipts.entry(room.to_owned()).or_default().append(&mut receipts);
        }
        Ok(())
    }

    async fn device_list(&mut self, draft: &mut Draft, user: &UserId, position: i64) -> Result<(), DeliveryError> {
        if self.knows(user, position).await? {
            draft.device_changed(user);
        }
        Ok(())
    }

    /// Puts a change that is not in the log into the draft.
    pub(crate) async fn passing(&mut self, draft: &mut Draft, change: EduChange) -> Result<(), DeliveryError> {
        if !self.service.ephemeral {
            return Ok(());
        }
        let now = self.engines.db.position();
        match change {
            EduChange::Typing(room) => {
                if self.concerns(&room, now).await? {
                    draft.typing.insert(room);
                }
            }
            EduChange::Presence(user) => {
                if self.knows(&user, now).await? {
                    draft.presence.insert(user);
                }
            }
        }
        Ok(())
    }

    async fn concerns(&mut self, room: &RoomId, position: i64) -> Result<bool, DeliveryError> {
        Ok(self.interest.room(&self.engines.rooms, self.service, room, position).await?)
    }

    /// Whether the user is the service's or in a room that concerns it.
    async fn knows(&mut self, user: &UserId, position: i64) -> Result<bool, DeliveryError> {
        if self.service.has_user(user) {
            return Ok(true);
        }
        for found in self.engines.rooms.store().graph.memberships(user).await? {
            if found.membership == MembershipState::Join && self.concerns(&found.room_id, position).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn event(
        &mut self,
        draft: &mut Draft,
        room: &RoomId,
        event_id: &str,
        position: i64,
    ) -> Result<(), DeliveryError> {
        let Ok(event_id) = <&EventId>::try_from(event_id) else { return Ok(()) };
        let Some(event) = self.engines.rooms.store().graph.event(event_id).await? else { return Ok(()) };
        if !event.is_visible() {
            return Ok(());
        }
        let target = target(&event);
        // The row of a membership may stand behind its event's: what is known of the room is old then.
        if let Some(target) = target {
            self.interest.member_changed(self.service, room, target);
        }
        if self.service.has_user(event.pdu.sender())
            || target.is_some_and(|target| self.service.has_user(target))
            || self.concerns(room, position).await?
        {
            draft.events.push(self.write(&event).await?);
        }
        Ok(())
    }

    async fn write(&self, event: &StoredEvent) -> Result<Box<RawValue>, DeliveryError> {
        let rooms = &self.engines.rooms;
        let form = Form { with_room_id: true, ..Form::default() };
        let written = rooms.client_event(event, self.service.sender(), form).await?;
        let Some(target) = target(event).filter(|target| self.service.has_user(target)) else { return Ok(written) };
        if membership_of(&event.pdu) != Some(MembershipState::Invite) {
            return Ok(written);
        }
        // An invited user cannot read the room's state: it comes with the invite.
        let room_id = event.pdu.room_id();
        let stripped: Vec<Box<RawValue>> = match rooms.store().graph.invite_state(target, room_id).await? {
            Some(stripped) => serde_json::from_str(&stripped).unwrap_or_default(),
            None => match rooms.store().graph.room(room_id).await? {
                Some(room) => rooms.stripped_state(&room, target).await.unwrap_or_default(),
                None => Vec::new(),
            },
        };
        let mut event: Map<String, Value> = serde_json::from_str(written.get())?;
        let unsigned = event.entry("unsigned").or_insert_with(|| json!({}));
        unsigned["invite_room_state"] = serde_json::to_value(stripped)?;
        Ok(serde_json::value::to_raw_value(&event)?)
    }

    /// A membership changed. Those in rooms that we are not in have no event in a timeline, so it comes from here.
    async fn membership(
        &mut self,
        draft: &mut Draft,
        room: &RoomId,
        user: &UserId,
        membership: &str,
        position: i64,
    ) -> Result<(), DeliveryError> {
        self.interest.member_changed(self.service, room, user);
        if self.service.devices {
            match membership {
                "join" if self.concerns(room, position).await? => draft.device_changed(user),
                "leave" | "ban" => self.left(draft, room, user, position).await?,
                _ => {}
            }
        }
        if !self.service.has_user(user) {
            return Ok(());
        }
        let graph = &self.engines.rooms.store().graph;
        let Some(now) = graph.membership(user, room).await? else { return Ok(()) };
        if now.position.0 != position {
            return Ok(());
        }
        if let Some(event) = graph.event(&now.event_id).await?
            && event.position.is_none()
        {
            draft.events.push(self.write(&event).await?);
        }
        Ok(())
    }

    /// Who has gone may be nobody whose devices the service needs to know any more; when it was one of the service's own,
    /// the same holds for all in the room.
    async fn left(
        &mut self,
        draft: &mut Draft,
        room_id: &RoomId,
        user: &UserId,
        position: i64,
    ) -> Result<(), DeliveryError> {
        // Right after it, that is: what happened up to here concerns the service yet.
        let after = position + 1;
        let gone = if !self.service.has_user(user) {
            if !self.concerns(room_id, position).await? {
                return Ok(());
            }
            vec![user.to_owned()]
        } else if self.concerns(room_id, after).await? {
            Vec::new()
        } else {
            let graph = &self.engines.rooms.store().graph;
            match graph.room(room_id).await? {
                Some(room) => {
                    let members = graph.members(room.nid, &[MembershipState::Join]).await?;
                    members.into_iter().take(LEFT_MAX).map(|member| member.user_id).collect()
                }
                None => Vec::new(),
            }
        };
        for user in gone {
            if !self.knows(&user, after).await? {
                draft.devices_changed.remove(&user);
                draft.devices_left.insert(user);
            }
        }
        Ok(())
    }

    async fn message(
        &mut self,
        draft: &mut Draft,
        user: &UserId,
        device: &str,
        position: i64,
    ) -> Result<(), DeliveryError> {
        if !self.service.has_user(user) {
            return Ok(());
        }
        let device_id: &DeviceId = device.into();
        let messages = self.engines.e2ee.to_device_after(user, device_id, position - 1, position, 1).await?;
        for message in messages {
            let mut event: Value = serde_json::from_str(message.event.get())?;
            event["to_user_id"] = user.as_str().into();
            event["to_device_id"] = device.into();
            draft.to_device.push(event);
            draft.counted.insert((user.to_owned(), device.to_owned()));
        }
        // A person's own devices fetch their messages themselves, too.
        let account = self.engines.accounts.user(user).await?;
        if account.is_some_and(|account| account.service.as_deref() == Some(self.service.id())) {
            draft.taken.push((user.to_owned(), device.to_owned(), position));
        }
        Ok(())
    }

    /// The body of the transaction.
    pub(crate) async fn body(&self, draft: &Draft) -> Result<String, DeliveryError> {
        let mut body: BTreeMap<&str, Box<RawValue>> = BTreeMap::new();
        let raw = |value: &Value| serde_json::value::to_raw_value(value);
        body.insert("events", serde_json::value::to_raw_value(&draft.events)?);
        if self.service.ephemeral {
            let ephemeral = raw(&Value::Array(self.ephemeral(draft)))?;
            let to_device = raw(&Value::Array(draft.to_device.clone()))?;
            if self.service.ephemeral_unstable {
                body.insert("de.sorunome.msc2409.ephemeral", ephemeral.clone());
            }
            body.insert("ephemeral", ephemeral);
            body.insert("de.sorunome.msc2409.to_device", to_device.clone());
            body.insert("to_device", to_device);
        }
        if self.service.devices {
            let lists = json!({ "changed": draft.devices_changed, "left": draft.devices_left });
            let (mut counts, mut fallbacks) = (json!({}), json!({}));
            for (user, device) in &draft.counted {
                let device_id: &DeviceId = device.as_str().into();
                let count = self.engines.e2ee.one_time_key_counts(user, device_id).await?;
                let unused = self.engines.e2ee.unused_fallback_types(user, device_id).await?;
                counts[user.as_str()][device] = json!(count);
                fallbacks[user.as_str()][device] = json!(unused);
            }
            body.insert("org.matrix.msc3202.device_lists", raw(&lists)?);
            body.insert("device_lists", raw(&lists)?);
            for name in ["device_one_time_keys_count", "org.matrix.msc3202.device_one_time_keys_count"] {
                body.insert(name, raw(&counts)?);
            }
            // As the proposal first called it.
            body.insert("org.matrix.msc3202.device_one_time_key_counts", raw(&counts)?);
            for name in ["device_unused_fallback_key_types", "org.matrix.msc3202.device_unused_fallback_key_types"] {
                body.insert(name, raw(&fallbacks)?);
            }
        }
        Ok(serde_json::to_string(&body)?)
    }

    fn ephemeral(&self, draft: &Draft) -> Vec<Value> {
        let edus = &self.engines.edus;
        let mut events = Vec::new();
        for (room, receipts) in &draft.receipts {
            // Private ones are here only if they are of the service's own users: shown as theirs.
            let mut content = receipt::content(receipts, self.service.sender()).unwrap_or_else(|| json!({}));
            for receipt in receipts.iter().filter(|receipt| receipt.is_private()) {
                content[receipt.event_id.as_str()][&receipt.receipt_type][receipt.user_id.as_str()] =
                    json!({ "ts": receipt.ts_ms });
            }
            events.push(json!({ "type": "m.receipt", "room_id": room, "content": content }));
        }
        for room in &draft.typing {
            let content = json!({ "user_ids": edus.typing.users(room) });
            events.push(json!({ "type": "m.typing", "room_id": room, "content": content }));
        }
        for user in &draft.presence {
            if let Some(entry) = edus.presence.get(user) {
                let content = entry.content(edus.presence.now_ms());
                events.push(json!({ "type": "m.presence", "sender": user, "content": content }));
            }
        }
        events
    }
}

/// Whose membership an event is about.
fn target(event: &StoredEvent) -> Option<&UserId> {
    membership_of(&event.pdu)?;
    event.pdu.state_key().and_then(|target| target.try_into().ok())
}
