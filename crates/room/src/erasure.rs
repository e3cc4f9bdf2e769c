//! Users of ours who have gone and asked to be forgotten: what they wrote is shown to those who were there when they
//! wrote it, to others only as if it had been redacted.

use std::{borrow::Cow, collections::HashSet};

use parking_lot::RwLock;
use ruma::{OwnedUserId, events::room::member::MembershipState};
use samtal_event::{Pdu, redact, rules_of};

use crate::graph::{Room, StoredEvent};

/// Who asked to be forgotten. Few, so all of them are in memory.
#[derive(Debug, Default)]
pub struct Erasures(RwLock<HashSet<OwnedUserId>>);

impl Erasures {
    /// Adds users.
    pub fn add(&self, users: impl IntoIterator<Item = OwnedUserId>) {
        self.0.write().extend(users);
    }

    /// The event as a reader sees it whose membership at the event was this.
    pub fn shown<'e>(&self, event: &'e StoredEvent, room: &Room, membership: Option<&MembershipState>) -> Cow<'e, Pdu> {
        let pdu = &event.pdu;
        let was_there = membership == Some(&MembershipState::Join);
        if was_there || pdu.is_state() || self.0.read().is_empty() || !self.0.read().contains(pdu.sender()) {
            return Cow::Borrowed(pdu);
        }
        match rules_of(&room.version).and_then(|rules| redact(pdu, rules).ok()) {
            Some(pruned) => Cow::Owned(pruned),
            None => Cow::Borrowed(pdu),
        }
    }
}
