//! Who has which power in a room.

use std::collections::{BTreeMap, HashSet};

use ruma::{
    OwnedUserId, UserId,
    events::{TimelineEventType, room::power_levels::UserPowerLevel},
    room_version_rules::RoomVersionRules,
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField as Field},
};
use samtal_event::Pdu;

use crate::authorize::Refused;

/// The power levels of a room at one state, read once and asked often.
///
/// Knows the forms each room version allows (numbers as strings, floats), the defaults with and
/// without an `m.room.power_levels` event, and from room version 12 creators above all numbers.
#[derive(Clone, Debug)]
pub struct PowerLevels {
    creators: HashSet<OwnedUserId>,
    creators_infinite: bool,
    has_event: bool,
    users: BTreeMap<OwnedUserId, i64>,
    events: BTreeMap<TimelineEventType, i64>,
    notifications: BTreeMap<String, i64>,
    users_default: i64,
    events_default: i64,
    state_default: i64,
    ban: i64,
    redact: i64,
    kick: i64,
    invite: i64,
}

/// Level of a room's creator before room version 12 when there is no power levels event.
const CREATOR_LEVEL: i64 = 100;

impl PowerLevels {
    /// Read the levels from the room's create event and its power levels event, if it has one.
    ///
    /// # Errors
    /// When either has a form the room version does not allow.
    pub fn new(create: &Pdu, power_levels: Option<&Pdu>, rules: &RoomVersionRules) -> Result<Self, Refused> {
        let auth = &rules.authorization;
        let creators = RoomCreateEvent::new(create).creators(auth).map_err(Refused::new)?;
        let event = power_levels.map(RoomPowerLevelsEvent::new);
        let level = |field: Field| -> Result<i64, Refused> {
            match &event {
                Some(event) => event.get_as_int_or_default(field, auth).map(i64::from),
                None => Ok(i64::from(field.default_value())),
            }
            .map_err(Refused::new)
        };
        let mut users = BTreeMap::new();
        let mut events = BTreeMap::new();
        let mut notifications = BTreeMap::new();
        if let Some(event) = &event {
            if let Some(levels) = event.users(auth).map_err(Refused::new)? {
                users = levels.iter().map(|(user, level)| (user.clone(), (*level).into())).collect();
            }
            if let Some(levels) = event.events(auth).map_err(Refused::new)? {
                events = levels.into_iter().map(|(kind, level)| (kind, level.into())).collect();
            }
            // Not part of the rules before room version 6, and no reason to refuse in any.
            let levels = event.notifications(auth).ok().flatten().unwrap_or_default();
            notifications = levels.into_iter().map(|(key, level)| (key, level.into())).collect();
        }
        Ok(Self {
            creators_infinite: auth.explicitly_privilege_room_creators,
            has_event: event.is_some(),
            users_default: level(Field::UsersDefault)?,
            events_default: level(Field::EventsDefault)?,
            state_default: level(Field::StateDefault)?,
            ban: level(Field::Ban)?,
            redact: level(Field::Redact)?,
            kick: level(Field::Kick)?,
            invite: level(Field::Invite)?,
            creators,
            users,
            events,
            notifications,
        })
    }

    /// The room's creators: one before room version 12, there also the additional ones.
    #[must_use]
    pub fn creators(&self) -> &HashSet<OwnedUserId> {
        &self.creators
    }

    /// A user's level.
    #[must_use]
    pub fn user_level(&self, user: &UserId) -> UserPowerLevel {
        if self.creators_infinite && self.creators.contains(user) {
            return UserPowerLevel::Infinite;
        }
        let level = match self.users.get(user) {
            Some(level) => *level,
            None if !self.has_event && self.creators.contains(user) => CREATOR_LEVEL,
            None => self.users_default,
        };
        int_level(level)
    }

    /// The level needed to send events of this type, as state or as message.
    #[must_use]
    pub fn event_level(&self, event_type: &TimelineEventType, is_state: bool) -> i64 {
        let default = if is_state { self.state_default } else { self.events_default };
        self.events.get(event_type).copied().unwrap_or(default)
    }

    fn has(&self, user: &UserId, level: i64) -> bool {
        self.user_level(user) >= int_level(level)
    }

    /// Whether the user's level allows to send events of this type.
    #[must_use]
    pub fn can_send(&self, user: &UserId, event_type: &TimelineEventType, is_state: bool) -> bool {
        self.has(user, self.event_level(event_type, is_state))
    }

    /// Whether the user's level allows to invite.
    #[must_use]
    pub fn can_invite(&self, user: &UserId) -> bool {
        self.has(user, self.invite)
    }

    /// Whether the user's level allows to kick the target.
    #[must_use]
    pub fn can_kick(&self, user: &UserId, target: &UserId) -> bool {
        self.has(user, self.kick) && self.user_level(user) > self.user_level(target)
    }

    /// Whether the user's level allows to ban the target.
    #[must_use]
    pub fn can_ban(&self, user: &UserId, target: &UserId) -> bool {
        self.has(user, self.ban) && self.user_level(user) > self.user_level(target)
    }

    /// Whether a redaction by this user takes effect on an event of that sender: own events and
    /// those of the same server always (room version 3 and later), others with the redact level.
    #[must_use]
    pub fn can_redact(&self, user: &UserId, sender_of_target: &UserId) -> bool {
        user.server_name() == sender_of_target.server_name() || self.has(user, self.redact)
    }

    /// Whether the user's level reaches `redact`.
    #[must_use]
    pub fn can_redact_others(&self, user: &UserId) -> bool {
        self.has(user, self.redact)
    }

    /// Whether the user may notify the whole room, or another key of `notifications`.
    #[must_use]
    pub fn can_notify(&self, user: &UserId, key: &str) -> bool {
        self.has(user, self.notifications.get(key).copied().unwrap_or(50))
    }

    /// The users with a level of their own in the event.
    pub fn users(&self) -> impl Iterator<Item = (&UserId, i64)> {
        self.users.iter().map(|(user, level)| (&**user, *level))
    }

    /// The level of users without one of their own.
    #[must_use]
    pub fn users_default(&self) -> i64 {
        self.users_default
    }
}

fn int_level(level: i64) -> UserPowerLevel {
    UserPowerLevel::Int(ruma::Int::new_saturating(level))
}
