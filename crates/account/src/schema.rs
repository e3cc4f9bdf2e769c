//! The tables.

use samtal_db::{Migration, Schema};

/// The tables of this crate. All of them but `account_registration_token` hold personal data.
///
/// Growth: tokens end with their device; `account_refresh` keeps spent tokens for a week; `account_uia`,
/// `account_login_token` and `account_openid` rows expire and are swept; account data is bounded per user by
/// [`crate::Options`].
pub const SCHEMA: Schema = Schema::new(
    "account",
    &[
        Migration::Both(
            "CREATE TABLE account_user (
        user_id TEXT PRIMARY KEY,
        kind BIGINT NOT NULL,
        password TEXT,
        admin BIGINT NOT NULL,
        locked BIGINT NOT NULL,
        suspended BIGINT NOT NULL,
        deactivated BIGINT NOT NULL,
        erased BIGINT NOT NULL,
        service TEXT,
        terms TEXT,
        created_ms BIGINT NOT NULL,
        position BIGINT NOT NULL
     ) WITHOUT ROWID;
     CREATE TABLE account_device (
        user_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        display_name TEXT,
        created_ms BIGINT NOT NULL,
        seen_ms BIGINT,
        seen_ip TEXT,
        seen_agent TEXT,
        PRIMARY KEY (user_id, device_id)
     ) WITHOUT ROWID;
     CREATE TABLE account_access (
        hash BLOB PRIMARY KEY,
        user_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        expires_ms BIGINT,
        fresh BIGINT NOT NULL
     ) WITHOUT ROWID;
     CREATE INDEX account_access_device ON account_access (user_id, device_id);
     CREATE TABLE account_refresh (
        hash BLOB PRIMARY KEY,
        user_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        access BLOB NOT NULL,
        next BLOB,
        spent_ms BIGINT,
        created_ms BIGINT NOT NULL
     ) WITHOUT ROWID;
     CREATE INDEX account_refresh_device ON account_refresh (user_id, device_id);
     CREATE INDEX account_refresh_access ON account_refresh (access);
     CREATE TABLE account_login_token (
        hash BLOB PRIMARY KEY,
        user_id TEXT NOT NULL,
        expires_ms BIGINT NOT NULL
     ) WITHOUT ROWID;
     CREATE TABLE account_openid (
        hash BLOB PRIMARY KEY,
        user_id TEXT NOT NULL,
        expires_ms BIGINT NOT NULL
     ) WITHOUT ROWID;
     CREATE TABLE account_registration_token (
        token TEXT PRIMARY KEY,
        uses_allowed BIGINT,
        pending BIGINT NOT NULL,
        completed BIGINT NOT NULL,
        expires_ms BIGINT
     ) WITHOUT ROWID;
     CREATE TABLE account_uia (
        session TEXT PRIMARY KEY,
        endpoint TEXT NOT NULL,
        user_id TEXT,
        intent BLOB NOT NULL,
        body TEXT NOT NULL,
        completed TEXT NOT NULL,
        created_ms BIGINT NOT NULL
     ) WITHOUT ROWID;
     CREATE TABLE account_profile (
        user_id TEXT NOT NULL,
        field TEXT NOT NULL,
        value TEXT NOT NULL,
        position BIGINT NOT NULL,
        PRIMARY KEY (user_id, field)
     ) WITHOUT ROWID;
     CREATE TABLE account_data (
        user_id TEXT NOT NULL,
        room_id TEXT NOT NULL,
        type TEXT NOT NULL,
        content TEXT NOT NULL,
        position BIGINT NOT NULL,
        PRIMARY KEY (user_id, room_id, type)
     ) WITHOUT ROWID;
     CREATE INDEX account_data_position ON account_data (user_id, position);
     CREATE TABLE account_filter (
        user_id TEXT NOT NULL,
        filter_id TEXT NOT NULL,
        content TEXT NOT NULL,
        PRIMARY KEY (user_id, filter_id)
     ) WITHOUT ROWID;
     CREATE TABLE account_threepid (
        medium TEXT NOT NULL,
        address TEXT NOT NULL,
        user_id TEXT NOT NULL,
        validated_ms BIGINT NOT NULL,
        added_ms BIGINT NOT NULL,
        PRIMARY KEY (medium, address)
     ) WITHOUT ROWID;
     CREATE INDEX account_threepid_user ON account_threepid (user_id);",
        ),
        Migration::Both(
            "CREATE TABLE account_validation (
        sid TEXT PRIMARY KEY,
        address TEXT NOT NULL,
        secret TEXT NOT NULL,
        purpose BIGINT NOT NULL,
        token TEXT NOT NULL,
        attempt BIGINT NOT NULL,
        next_link TEXT,
        validated_ms BIGINT,
        created_ms BIGINT NOT NULL,
        UNIQUE (address, secret, purpose)
     ) WITHOUT ROWID;",
        ),
    ],
);
