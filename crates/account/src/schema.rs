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
        // account_thread: how a user stands to a thread; automatic is null for one unsubscribed. At most 20,000 a user.
        Migration::Both(
            "CREATE TABLE account_thread (
        user_id TEXT NOT NULL,
        room_id TEXT NOT NULL,
        root TEXT NOT NULL,
        automatic BIGINT,
        position BIGINT NOT NULL,
        PRIMARY KEY (user_id, room_id, root)
     ) WITHOUT ROWID;
     CREATE INDEX account_thread_position ON account_thread (user_id, position);",
        ),
        // account_binding: what identity servers give out as a user's. At most 100 a user.
        Migration::Both(
            "CREATE TABLE account_binding (
        user_id TEXT NOT NULL,
        medium TEXT NOT NULL,
        address TEXT NOT NULL,
        id_server TEXT NOT NULL,
        PRIMARY KEY (user_id, medium, address, id_server)
     ) WITHOUT ROWID;",
        ),
        // account_audit: what administrators did; the newest 200,000. account_rate: users with a rate of their own.
        Migration::Both(
            "CREATE TABLE account_audit (
        id BIGINT PRIMARY KEY,
        at_ms BIGINT NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        subject TEXT NOT NULL,
        outcome TEXT NOT NULL
     );
     CREATE TABLE account_rate (
        user_id TEXT PRIMARY KEY,
        per_second BIGINT NOT NULL,
        burst BIGINT NOT NULL
     ) WITHOUT ROWID;",
        ),
    ],
);
