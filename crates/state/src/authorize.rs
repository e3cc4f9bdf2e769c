//! The authorization rules: which events must be named, and whether they allow an event.
//!
//! The rules themselves are ruma's. Here stand the three questions a server asks about an event
//! (SS API, "Checks performed on receipt of a PDU") and the state it has to have at hand for them.

use std::collections::HashMap;

use ruma::{
    EventId, UserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    room_version_rules::RoomVersionRules,
    state_res::{
        auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules,
        events::{RoomCreateEvent, RoomMemberEvent},
    },
};
use samtal_event::{Draft, Pdu, SignedPdu};
use serde_json::value::RawValue;

use crate::power::PowerLevels;

/// Event type and state key.
pub type StateKey = (StateEventType, String);

/// An event the rules do not allow, and which rule it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused by the authorization rules: {reason}")]
pub struct Refused {
    /// The rule, in words.
    pub reason: String,
}

impl Refused {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// An event of ours that current state allows. Only [`AuthState::authorize_own`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizedPdu(Pdu);

impl AuthorizedPdu {
    /// The event.
    #[must_use]
    pub fn pdu(&self) -> &Pdu {
        &self.0
    }

    /// The event.
    #[must_use]
    pub fn into_pdu(self) -> Pdu {
        self.0
    }
}

/// The state an event needs to name in its `auth_events` (SS API, "Auth events selection"), and
/// which its check reads. Whether the create event is among them depends on the room version: for
/// the check it is always needed, see [`AuthState`].
///
/// # Errors
/// When the content is malformed in a way that the selection depends on.
pub(crate) fn auth_keys(
    event_type: &TimelineEventType,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawValue,
    rules: &RoomVersionRules,
) -> Result<Vec<StateKey>, Refused> {
    auth_types_for_event(event_type, sender, state_key, content, &rules.authorization).map_err(Refused::new)
}

/// The state that authorizes an event (Server-Server API, "Auth events selection"), the create event with it in all versions.
///
/// # Errors
/// When the content is malformed in a way that the selection depends on.
pub fn auth_keys_of(pdu: &Pdu, rules: &RoomVersionRules) -> Result<Vec<StateKey>, Refused> {
    auth_keys(pdu.event_type(), pdu.sender(), pdu.state_key(), pdu.content(), rules)
}

/// As [`auth_keys_of`], for an event that is yet to be built.
///
/// # Errors
/// As [`auth_keys_of`].
pub fn auth_keys_of_draft(draft: &Draft, sender: &UserId, rules: &RoomVersionRules) -> Result<Vec<StateKey>, Refused> {
    let content: &RawValue = serde_json::from_str(draft.content()).map_err(|error| Refused::new(error.to_string()))?;
    auth_keys(&draft.event_type, sender, draft.state_key.as_deref(), content, rules)
}

/// First question: do the events it names itself allow it? To be asked once. On refusal the event
/// is rejected.
///
/// `fetch` finds events by ID; it must find all `auth_events`, and from room version 12 the create
/// event (its ID is the room's with `$` for `!`).
///
/// # Errors
/// With the rule that refuses it, also when an auth event is unknown, rejected, of another room,
/// duplicate or not one that should be named.
pub fn check_own_auth_events(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    fetch: impl Fn(&EventId) -> Option<Pdu>,
) -> Result<(), Refused> {
    check_state_independent_auth_rules(&rules.authorization, pdu, &fetch).map_err(Refused::new)?;
    let mut named: Vec<Pdu> = pdu.auth_events().iter().filter_map(|id| fetch(id)).collect();
    if rules.authorization.room_create_event_id_as_room_id {
        named.extend(create_event_id(pdu).and_then(|id| fetch(&id)));
    }
    check_against(pdu, rules, |event_type, state_key| {
        named.iter().find(|event| is_of(event, event_type, state_key)).cloned()
    })
}

/// The ID of the create event of the room, where the room ID tells it (room version 12).
#[must_use]
pub fn create_event_id(pdu: &Pdu) -> Option<ruma::OwnedEventId> {
    format!("${}", pdu.room_id().strip_sigil()).try_into().ok()
}

fn is_of(event: &Pdu, event_type: &StateEventType, state_key: &str) -> bool {
    event.state_key() == Some(state_key) && StateEventType::from(event.type_str()) == *event_type
}

/// Second and third question: does this state allow it? With the state before the event (on refusal
/// it is rejected), then with the room's current state (on refusal it is soft-failed).
///
/// # Errors
/// With the rule that refuses it.
pub fn check_against(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    state: impl Fn(&StateEventType, &str) -> Option<Pdu>,
) -> Result<(), Refused> {
    check_state_dependent_auth_rules(&rules.authorization, pdu, state).map_err(Refused::new)
}

/// What the rules ask of one state, read once: made when a room's head is loaded, and good until a
/// create, power levels or join rules event changes. Members come from a lookup, so that a room
/// with 100,000 of them costs no more than one with two.
#[derive(Clone, Debug)]
pub struct AuthState {
    create: Pdu,
    power_levels: Option<Pdu>,
    join_rules: Option<Pdu>,
    power: PowerLevels,
    federate: bool,
}

impl AuthState {
    /// From the state events the rules ask for again and again.
    ///
    /// # Errors
    /// When the create or power levels event has a form the room version does not allow.
    pub fn new(
        create: Pdu,
        power_levels: Option<Pdu>,
        join_rules: Option<Pdu>,
        rules: &RoomVersionRules,
    ) -> Result<Self, Refused> {
        let power = PowerLevels::new(&create, power_levels.as_ref(), rules)?;
        let federate = RoomCreateEvent::new(&create).federate().map_err(Refused::new)?;
        Ok(Self { create, power_levels, join_rules, power, federate })
    }

    /// The create event.
    #[must_use]
    pub fn create(&self) -> &Pdu {
        &self.create
    }

    /// The power levels.
    #[must_use]
    pub fn power(&self) -> &PowerLevels {
        &self.power
    }

    /// Whether users of other servers may take part.
    #[must_use]
    pub fn federate(&self) -> bool {
        self.federate
    }

    /// Whether this state allows the event.
    ///
    /// `other` finds the state events that are not held here: memberships (by user ID) and
    /// third-party invites (by token). Ordinary events are decided from what is already read; only
    /// those with rules of their own go through all rules.
    ///
    /// # Errors
    /// With the rule that refuses it.
    pub fn check(
        &self,
        pdu: &Pdu,
        rules: &RoomVersionRules,
        other: impl Fn(&StateEventType, &str) -> Option<Pdu>,
    ) -> Result<(), Refused> {
        if !has_own_rules(pdu, rules) {
            return self.check_ordinary(pdu, &other);
        }
        check_against(pdu, rules, |event_type, state_key| match (event_type, state_key) {
            (StateEventType::RoomCreate, "") => Some(self.create.clone()),
            (StateEventType::RoomPowerLevels, "") => self.power_levels.clone(),
            (StateEventType::RoomJoinRules, "") => self.join_rules.clone(),
            _ => other(event_type, state_key),
        })
    }

    /// Whether this state allows an event of ours.
    ///
    /// # Errors
    /// With the rule that refuses it.
    pub fn authorize_own(
        &self,
        pdu: SignedPdu,
        rules: &RoomVersionRules,
        other: impl Fn(&StateEventType, &str) -> Option<Pdu>,
    ) -> Result<AuthorizedPdu, Refused> {
        let pdu = pdu.into_pdu();
        self.check(&pdu, rules, other)?;
        Ok(AuthorizedPdu(pdu))
    }

    /// The rules for events without rules of their own, in the specification's order.
    fn check_ordinary(&self, pdu: &Pdu, other: &impl Fn(&StateEventType, &str) -> Option<Pdu>) -> Result<(), Refused> {
        let sender = pdu.sender();
        if !self.federate && self.create.sender().server_name() != sender.server_name() {
            return Err(Refused::new("the room is not federated and the sender is of another server"));
        }
        let member = other(&StateEventType::RoomMember, sender.as_str());
        let membership = member.as_ref().map(|event| RoomMemberEvent::new(event).membership());
        match membership {
            Some(Ok(MembershipState::Join)) => {}
            Some(Err(reason)) => return Err(Refused::new(reason)),
            _ => return Err(Refused::new("the sender is not joined")),
        }
        if !self.power.can_send(sender, pdu.event_type(), pdu.is_state()) {
            return Err(Refused::new(format!(
                "the sender's power level is too low for events of type {}",
                pdu.type_str()
            )));
        }
        match pdu.state_key() {
            Some(key) if key.starts_with('@') && key != sender.as_str() => {
                Err(Refused::new("the state key is another user's ID"))
            }
            _ => Ok(()),
        }
    }
}

fn has_own_rules(pdu: &Pdu, rules: &RoomVersionRules) -> bool {
    match pdu.event_type() {
        TimelineEventType::RoomCreate
        | TimelineEventType::RoomMember
        | TimelineEventType::RoomPowerLevels
        | TimelineEventType::RoomThirdPartyInvite => true,
        TimelineEventType::RoomRedaction => rules.authorization.special_case_room_redaction,
        _ => rules.authorization.special_case_room_aliases && pdu.type_str() == "m.room.aliases",
    }
}

/// A state map held in memory, for tests and for small sets of stripped or fetched state.
#[derive(Clone, Debug, Default)]
pub struct StateEvents(HashMap<(String, String), Pdu>);

impl StateEvents {
    /// The state event of this type and state key.
    #[must_use]
    pub fn get(&self, event_type: &StateEventType, state_key: &str) -> Option<Pdu> {
        self.0.get(&(event_type.to_string(), state_key.to_owned())).cloned()
    }

    /// Put a state event; anything else is ignored. Gives the one it replaced.
    pub fn insert(&mut self, pdu: Pdu) -> Option<Pdu> {
        let key = (pdu.type_str().to_owned(), pdu.state_key()?.to_owned());
        self.0.insert(key, pdu)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Pdu> {
        self.0.values()
    }
}

impl FromIterator<Pdu> for StateEvents {
    fn from_iter<I: IntoIterator<Item = Pdu>>(events: I) -> Self {
        let mut state = Self::default();
        for event in events {
            state.insert(event);
        }
        state
    }
}
