//! The tables of this crate. All hold personal data (who owns which devices) but no message content in clear, apart from
//! what clients send to devices unencrypted.

use samtal_db::{Migration, Schema};

const MIGRATIONS: &[Migration] = &[
    Migration::Both(
        // device_key: one row a device that uploaded keys; `display_name` only for users of other servers.
        // one_time_key: `claimed_ms` 0 while it can be had; claimed ones stay a week (as empty rows), so that a repeated upload
        //   cannot give a key out twice. At most ONE_TIME_KEYS_MAX a device.
        // fallback_key: at most one a device and algorithm, for FALLBACK_ALGORITHMS_MAX algorithms.
        "CREATE TABLE device_key (
        user_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        keys_json TEXT NOT NULL,
        display_name TEXT,
        position BIGINT NOT NULL,
        PRIMARY KEY (user_id, device_id)
     ) WITHOUT ROWID;
     CREATE TABLE one_time_key (
        user_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        algorithm TEXT NOT NULL,
        key_id TEXT NOT NULL,
        key_json TEXT NOT NULL,
        position BIGINT NOT NULL,
        place BIGINT NOT NULL,
        claimed_ms BIGINT NOT NULL,
        PRIMARY KEY (user_id, device_id, algorithm, key_id)
     ) WITHOUT ROWID;
     CREATE INDEX one_time_key_next ON one_time_key (user_id, device_id, algorithm, claimed_ms, position, place);
     CREATE TABLE fallback_key (
        user_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        algorithm TEXT NOT NULL,
        key_id TEXT NOT NULL,
        key_json TEXT NOT NULL,
        used BIGINT NOT NULL,
        PRIMARY KEY (user_id, device_id, algorithm)
     ) WITHOUT ROWID;",
    ),
    Migration::Both(
        // cross_signing_key: at most three a user, ours and others'. `usage` is master, self_signing or user_signing.
        // key_signature: who signed which device (key_id is its id) or cross-signing key (key_id is its public key).
        "CREATE TABLE cross_signing_key (
        user_id TEXT NOT NULL,
        key_usage TEXT NOT NULL,
        public_key TEXT NOT NULL,
        key_json TEXT NOT NULL,
        position BIGINT NOT NULL,
        PRIMARY KEY (user_id, key_usage)
     ) WITHOUT ROWID;
     CREATE TABLE key_signature (
        user_id TEXT NOT NULL,
        key_id TEXT NOT NULL,
        signer_id TEXT NOT NULL,
        signer_key TEXT NOT NULL,
        signature TEXT NOT NULL,
        PRIMARY KEY (user_id, key_id, signer_id, signer_key)
     ) WITHOUT ROWID;
     CREATE INDEX key_signature_signer ON key_signature (signer_id, user_id);",
    ),
    Migration::Both(
        // device_list_change: `viewer` NULL for what all may see (the last CHANGES_PER_USER of each user are kept), else for
        //   that user alone (one row a pair). `device_id` NULL for cross-signing keys.
        // remote_device_list: whose devices, of users elsewhere, are held in device_key; `stale` 1 when they must be asked for.
        "CREATE TABLE device_list_change (
        position BIGINT PRIMARY KEY,
        user_id TEXT NOT NULL,
        device_id TEXT,
        viewer TEXT
     );
     CREATE INDEX device_list_change_user ON device_list_change (user_id, position);
     CREATE TABLE remote_device_list (
        user_id TEXT PRIMARY KEY,
        stream_id BIGINT,
        stale BIGINT NOT NULL
     ) WITHOUT ROWID;
     CREATE INDEX remote_device_list_stale ON remote_device_list (stale, user_id);",
    ),
    Migration::Both(
        // to_device: at most INBOX_MESSAGES_MAX and INBOX_BYTES_MAX a device, the oldest go first.
        // to_device_inbox: what to_device holds for a device, and how many were dropped.
        // to_device_sent, to_device_received: transactions of devices and message ids of servers, for a day.
        "CREATE TABLE to_device (
        user_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        position BIGINT NOT NULL,
        event_json TEXT NOT NULL,
        bytes BIGINT NOT NULL,
        PRIMARY KEY (user_id, device_id, position)
     ) WITHOUT ROWID;
     CREATE TABLE to_device_inbox (
        user_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        messages BIGINT NOT NULL,
        bytes BIGINT NOT NULL,
        dropped BIGINT NOT NULL,
        PRIMARY KEY (user_id, device_id)
     ) WITHOUT ROWID;
     CREATE TABLE to_device_sent (
        user_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        transaction_id TEXT NOT NULL,
        sent_ms BIGINT NOT NULL,
        PRIMARY KEY (user_id, device_id, transaction_id)
     ) WITHOUT ROWID;
     CREATE INDEX to_device_sent_ms ON to_device_sent (sent_ms);
     CREATE TABLE to_device_received (
        origin TEXT NOT NULL,
        message_id TEXT NOT NULL,
        received_ms BIGINT NOT NULL,
        PRIMARY KEY (origin, message_id)
     ) WITHOUT ROWID;
     CREATE INDEX to_device_received_ms ON to_device_received (received_ms);",
    ),
    Migration::Both(
        // key_backup: one row a version, at most VERSIONS_MAX; of deleted ones only the newest stays, so that no version is given twice.
        // key_backup_session: at most SESSIONS_MAX a version. The session data are encrypted by the client.
        // dehydrated_device: one a user.
        "CREATE TABLE key_backup (
        user_id TEXT NOT NULL,
        version BIGINT NOT NULL,
        algorithm TEXT NOT NULL,
        auth_data TEXT NOT NULL,
        etag BIGINT NOT NULL,
        sessions BIGINT NOT NULL,
        deleted BIGINT NOT NULL,
        PRIMARY KEY (user_id, version)
     ) WITHOUT ROWID;
     CREATE TABLE key_backup_session (
        user_id TEXT NOT NULL,
        version BIGINT NOT NULL,
        room_id TEXT NOT NULL,
        session_id TEXT NOT NULL,
        first_message_index BIGINT NOT NULL,
        forwarded_count BIGINT NOT NULL,
        is_verified BIGINT NOT NULL,
        session_data TEXT NOT NULL,
        PRIMARY KEY (user_id, version, room_id, session_id)
     ) WITHOUT ROWID;
     CREATE TABLE dehydrated_device (
        user_id TEXT PRIMARY KEY,
        device_id TEXT NOT NULL,
        display_name TEXT,
        device_data TEXT NOT NULL
     ) WITHOUT ROWID;",
    ),
];

/// The tables of this crate.
pub const SCHEMA: Schema = Schema::new("e2ee", MIGRATIONS);
