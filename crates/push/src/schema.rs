//! The tables of this crate. They hold personal data: which apps a user has, and which events wait to be told to them.

use samtal_db::{
    Migration::{self, Both},
    Schema, Sql, sql,
};

const MIGRATIONS: &[Migration] = &[
    Both(
        // pusher: what a device's app registered; goes with the device or when its gateway rejects it. At most PUSHERS_MAX a user.
        // push_pending: what a gateway has not taken yet, in order; event_id '' for a new badge only. At most PENDING_MAX a pusher.
        "CREATE TABLE pusher (
        user_id TEXT NOT NULL,
        app_id TEXT NOT NULL,
        pushkey TEXT NOT NULL,
        kind TEXT NOT NULL,
        device_id TEXT,
        app_display_name TEXT NOT NULL,
        device_display_name TEXT NOT NULL,
        profile_tag TEXT,
        lang TEXT NOT NULL,
        data TEXT NOT NULL,
        created_ms BIGINT NOT NULL,
        PRIMARY KEY (user_id, app_id, pushkey)
     ) WITHOUT ROWID;
     CREATE INDEX pusher_key ON pusher (app_id, pushkey);
     CREATE TABLE push_pending (
        user_id TEXT NOT NULL,
        app_id TEXT NOT NULL,
        pushkey TEXT NOT NULL,
        position BIGINT NOT NULL,
        room TEXT NOT NULL,
        event_id TEXT NOT NULL,
        PRIMARY KEY (user_id, app_id, pushkey, position)
     ) WITHOUT ROWID;",
    ),
    // push_mail: how far the letters of a pusher have got, and by which word they are ended; goes with the pusher.
    Both(
        "CREATE TABLE push_mail (
        user_id TEXT NOT NULL,
        app_id TEXT NOT NULL,
        pushkey TEXT NOT NULL,
        token TEXT NOT NULL UNIQUE,
        sent_ms BIGINT NOT NULL,
        pause_ms BIGINT NOT NULL,
        PRIMARY KEY (user_id, app_id, pushkey)
     ) WITHOUT ROWID;",
    ),
];

/// The tables of this crate.
pub const SCHEMA: Schema = Schema::new("push", MIGRATIONS);

pub(crate) const PUSHERS: Sql = sql!(
    "SELECT user_id, app_id, pushkey, kind, device_id, app_display_name, device_display_name, profile_tag, lang, data,
        created_ms FROM pusher ORDER BY user_id, app_id, pushkey"
);
pub(crate) const PUSHERS_OF: Sql = sql!(
    "SELECT user_id, app_id, pushkey, kind, device_id, app_display_name, device_display_name, profile_tag, lang, data,
        created_ms FROM pusher WHERE user_id = $1 ORDER BY app_id, pushkey"
);
pub(crate) const PUSHER_SET: Sql = sql!(
    "INSERT INTO pusher (user_id, app_id, pushkey, kind, device_id, app_display_name, device_display_name, profile_tag,
        lang, data, created_ms)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
     ON CONFLICT (user_id, app_id, pushkey) DO UPDATE SET kind = excluded.kind, device_id = excluded.device_id,
        app_display_name = excluded.app_display_name, device_display_name = excluded.device_display_name,
        profile_tag = excluded.profile_tag, lang = excluded.lang, data = excluded.data, created_ms = excluded.created_ms"
);
pub(crate) const PUSHER_USERS: Sql = sql!("SELECT user_id FROM pusher WHERE app_id = $1 AND pushkey = $2");
pub(crate) const PUSHER_DELETE: Sql = sql!("DELETE FROM pusher WHERE user_id = $1 AND app_id = $2 AND pushkey = $3");
pub(crate) const PENDING_INSERT: Sql = sql!(
    "INSERT INTO push_pending (user_id, app_id, pushkey, position, room, event_id) VALUES ($1, $2, $3, $4, $5, $6)
     ON CONFLICT (user_id, app_id, pushkey, position) DO NOTHING"
);
pub(crate) const PENDING: Sql = sql!(
    "SELECT position, room, event_id FROM push_pending WHERE user_id = $1 AND app_id = $2 AND pushkey = $3
     ORDER BY position LIMIT $4"
);
pub(crate) const PENDING_KEYS: Sql = sql!("SELECT DISTINCT user_id, app_id, pushkey FROM push_pending");
pub(crate) const PENDING_DONE: Sql =
    sql!("DELETE FROM push_pending WHERE user_id = $1 AND app_id = $2 AND pushkey = $3 AND position <= $4");
pub(crate) const PENDING_DELETE: Sql =
    sql!("DELETE FROM push_pending WHERE user_id = $1 AND app_id = $2 AND pushkey = $3");
/// All but the newest so many.
pub(crate) const PENDING_TRIM: Sql = sql!(
    "DELETE FROM push_pending WHERE user_id = $1 AND app_id = $2 AND pushkey = $3 AND position <= COALESCE(
        (SELECT position FROM push_pending WHERE user_id = $1 AND app_id = $2 AND pushkey = $3
         ORDER BY position DESC LIMIT 1 OFFSET $4), -1)"
);
/// So many at once are all that wait.
pub(crate) const PENDING_ALL: i64 = 1_000;
pub(crate) const MAIL: Sql =
    sql!("SELECT token, sent_ms, pause_ms FROM push_mail WHERE user_id = $1 AND app_id = $2 AND pushkey = $3");
pub(crate) const MAIL_OF_TOKEN: Sql = sql!("SELECT user_id, app_id, pushkey FROM push_mail WHERE token = $1");
pub(crate) const MAIL_INSERT: Sql = sql!(
    "INSERT INTO push_mail (user_id, app_id, pushkey, token, sent_ms, pause_ms) VALUES ($1, $2, $3, $4, 0, 0)
     ON CONFLICT (user_id, app_id, pushkey) DO NOTHING"
);
pub(crate) const MAIL_SENT: Sql =
    sql!("UPDATE push_mail SET sent_ms = $1, pause_ms = $2 WHERE user_id = $3 AND app_id = $4 AND pushkey = $5");
pub(crate) const MAIL_PAUSE: Sql =
    sql!("UPDATE push_mail SET pause_ms = $1 WHERE user_id = $2 AND app_id = $3 AND pushkey = $4");
pub(crate) const MAIL_DELETE: Sql = sql!("DELETE FROM push_mail WHERE user_id = $1 AND app_id = $2 AND pushkey = $3");
