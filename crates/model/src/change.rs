//! The kinds of rows in the change log.

/// What a row of the change log says. The numbers are stored: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i64)]
pub enum ChangeKind {
    /// An event entered a room's timeline. room: its id; user: the sender; reference: the event id.
    Event = 1,
    /// A user's membership in a room changed. room; user: whose; reference: the new membership (`join`, `leave`, …).
    /// Written beside the row of the member event, and alone for invites and knocks of rooms we are not in.
    Membership = 2,
    /// A room's current state changed without a timeline event (state resolution, a healed gap). room.
    State = 3,
    /// A read receipt moved. room; user: whose.
    Receipt = 4,
    /// Global account data or push rules changed. user; reference: the type.
    AccountData = 5,
    /// A room's account data or tags changed. room; user; reference: the type.
    RoomAccountData = 6,
    /// A message to a device of ours was stored. user: to whom; reference: device id.
    ToDevice = 7,
    /// A user's devices, device keys or cross-signing keys changed. user: whose (ours or remote).
    DeviceList = 8,
    /// One-time or fallback keys of a device were added or claimed. user; reference: device id.
    OneTimeKeys = 9,
    /// A profile changed. user.
    Profile = 10,
    /// A device was deleted or its token revoked. user; reference: device id.
    Logout = 11,
    /// A user was created, locked, suspended, deactivated. user.
    Account = 12,
    /// A room was forgotten by a user. room; user.
    Forget = 13,
    /// A user's pushers changed. user.
    Pusher = 14,
    /// Presence changed. user.
    Presence = 15,
    /// A setting of the tenant changed. reference: which.
    Setting = 16,
    /// An event was redacted. room; reference: the redacted event's id.
    Redaction = 17,
    /// Room directory or alias changed. room; reference: alias.
    Alias = 18,
    /// A thread subscription changed. room; user; reference: thread root.
    ThreadSubscription = 19,
    /// An EDU to other servers was stored. reference: destination.
    OutgoingEdu = 20,
    /// Backfilled events entered a room behind its oldest. room.
    Backfill = 21,
    /// An event that another server made here (a join, leave or knock through us) goes to the room's other servers. room; user: the
    /// sender; reference: the event id.
    Relay = 22,
    /// Events of a room were deleted, or all of the room. room.
    Purge = 23,
    /// A room was entered with a part of its state, or its state has become whole, or need not any more. room.
    Partial = 24,
    /// A server turned out to have been in a room, when its state became whole, that was not known to be. room; reference: the server.
    Missed = 25,
    /// An event that was here already got its place in the graph, or another one, without being news: nodes that have it at hand read
    /// it again. room; reference: the event id.
    Placed = 26,
}

impl ChangeKind {
    const ALL: [Self; 26] = [
        Self::Event,
        Self::Membership,
        Self::State,
        Self::Receipt,
        Self::AccountData,
        Self::RoomAccountData,
        Self::ToDevice,
        Self::DeviceList,
        Self::OneTimeKeys,
        Self::Profile,
        Self::Logout,
        Self::Account,
        Self::Forget,
        Self::Pusher,
        Self::Presence,
        Self::Setting,
        Self::Redaction,
        Self::Alias,
        Self::ThreadSubscription,
        Self::OutgoingEdu,
        Self::Backfill,
        Self::Relay,
        Self::Purge,
        Self::Partial,
        Self::Missed,
        Self::Placed,
    ];

    /// The stored number.
    pub const fn code(self) -> i64 {
        self as i64
    }

    /// The kind with this number, if this version knows it.
    pub fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

impl From<ChangeKind> for i64 {
    fn from(kind: ChangeKind) -> Self {
        kind.code()
    }
}
