//! The tables of this crate and their queries. They hold names of servers; `held_invite` holds user ids and what people wrote.

use samtal_db::{Migration::Both, Schema, Sql, sql};

/// The tables of this crate.
///
/// Growth: rules and held invitations are bounded when they are stored, settings are a handful, and of refusals the newest are kept.
pub const SCHEMA: Schema = Schema::new(
    "policy",
    &[
        Both(
            // direction and action are empty where a rule is for all of them.
            "CREATE TABLE federation_rule (
            server TEXT NOT NULL,
            direction TEXT NOT NULL,
            action TEXT NOT NULL,
            effect TEXT NOT NULL,
            reason TEXT NOT NULL,
            since_ms BIGINT NOT NULL,
            PRIMARY KEY (server, direction, action)
         ) WITHOUT ROWID;
         CREATE TABLE federation_setting (
            name TEXT PRIMARY KEY,
            value TEXT NOT NULL
         ) WITHOUT ROWID;
         CREATE TABLE federation_refusal (
            server TEXT NOT NULL,
            direction TEXT NOT NULL,
            action TEXT NOT NULL,
            rule TEXT NOT NULL,
            words TEXT NOT NULL,
            count BIGINT NOT NULL,
            first_ms BIGINT NOT NULL,
            last_ms BIGINT NOT NULL,
            PRIMARY KEY (server, direction, action, rule)
         ) WITHOUT ROWID;
         CREATE INDEX federation_refusal_last ON federation_refusal (last_ms);",
        ),
        Both(
            "CREATE TABLE held_invite (
            room_id TEXT NOT NULL,
            target TEXT NOT NULL,
            sender TEXT NOT NULL,
            server TEXT NOT NULL,
            version TEXT NOT NULL,
            event TEXT NOT NULL,
            stripped TEXT NOT NULL,
            since_ms BIGINT NOT NULL,
            PRIMARY KEY (room_id, target)
         ) WITHOUT ROWID;",
        ),
    ],
);

pub(crate) const RULES: Sql = sql!(
    "SELECT server, direction, action, effect, reason, since_ms FROM federation_rule ORDER BY server, direction, action"
);
pub(crate) const RULE_COUNT: Sql = sql!("SELECT COUNT(*) FROM federation_rule");
pub(crate) const RULE_SET: Sql = sql!(
    "INSERT INTO federation_rule (server, direction, action, effect, reason, since_ms) VALUES ($1, $2, $3, $4, $5, $6)
     ON CONFLICT (server, direction, action) DO UPDATE SET
        effect = excluded.effect, reason = excluded.reason, since_ms = excluded.since_ms"
);
pub(crate) const RULE_DELETE: Sql =
    sql!("DELETE FROM federation_rule WHERE server = $1 AND direction = $2 AND action = $3");
pub(crate) const RULES_DELETE: Sql = sql!("DELETE FROM federation_rule WHERE server = $1");
pub(crate) const SETTINGS: Sql = sql!("SELECT name, value FROM federation_setting");
pub(crate) const SETTING_SET: Sql = sql!(
    "INSERT INTO federation_setting (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
);
pub(crate) const SETTING_DELETE: Sql = sql!("DELETE FROM federation_setting WHERE name = $1");
pub(crate) const REFUSALS: Sql = sql!(
    "SELECT server, direction, action, rule, words, count, first_ms, last_ms FROM federation_refusal
     ORDER BY last_ms DESC, server, direction, action, rule LIMIT $1"
);
pub(crate) const REFUSALS_OF: Sql = sql!(
    "SELECT server, direction, action, rule, words, count, first_ms, last_ms FROM federation_refusal
     WHERE server = $1 ORDER BY last_ms DESC, direction, action, rule LIMIT $2"
);
pub(crate) const REFUSAL_ADD: Sql = sql!(
    "INSERT INTO federation_refusal (server, direction, action, rule, words, count, first_ms, last_ms)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
     ON CONFLICT (server, direction, action, rule) DO UPDATE SET
        words = excluded.words, count = federation_refusal.count + excluded.count, last_ms = excluded.last_ms"
);
pub(crate) const REFUSALS_PRUNE: Sql = sql!(
    "DELETE FROM federation_refusal
     WHERE last_ms < (SELECT last_ms FROM federation_refusal ORDER BY last_ms DESC LIMIT 1 OFFSET $1)"
);
