//! The tables of this crate. Bounds: events and state grow with what is said; purging a room or its history shrinks them.
//! Personal data: `event`, `membership`, `alias`, `invite_state`, `room_block` and `room_case` hold user ids and what people wrote.

use samtal_db::{Migration, Schema};

/// The tables.
pub const SCHEMA: Schema = Schema::new(
    "room",
    &[
        Migration::Both(
            "CREATE TABLE room_secret (id BIGINT PRIMARY KEY, secret BLOB NOT NULL);
     CREATE TABLE number_block (name TEXT PRIMARY KEY, next BIGINT NOT NULL) WITHOUT ROWID;

     CREATE TABLE room (
        nid BIGINT PRIMARY KEY,
        room_id TEXT NOT NULL UNIQUE,
        version TEXT NOT NULL,
        blocked BIGINT NOT NULL DEFAULT 0,
        published BIGINT NOT NULL DEFAULT 0
     );
     CREATE INDEX room_published ON room (published) WHERE published <> 0;

     CREATE TABLE room_head (
        room BIGINT PRIMARY KEY,
        turn BIGINT NOT NULL,
        snapshot BLOB NOT NULL,
        extremities TEXT NOT NULL,
        depth BIGINT NOT NULL,
        oldest BIGINT NOT NULL,
        partial BIGINT NOT NULL DEFAULT 0
     );

     CREATE TABLE event (
        nid BIGINT PRIMARY KEY,
        event_id TEXT NOT NULL UNIQUE,
        room BIGINT NOT NULL,
        position BIGINT,
        flags BIGINT NOT NULL,
        before BLOB,
        redacted_by TEXT,
        txn TEXT,
        packed BLOB NOT NULL
     );
     CREATE UNIQUE INDEX event_timeline ON event (room, position) WHERE position IS NOT NULL;
     CREATE UNIQUE INDEX event_txn ON event (txn) WHERE txn IS NOT NULL;

     CREATE TABLE backward_extremity (
        room BIGINT NOT NULL,
        event_id TEXT NOT NULL,
        PRIMARY KEY (room, event_id)
     ) WITHOUT ROWID;

     CREATE TABLE state_node (hash BLOB PRIMARY KEY, bytes BLOB NOT NULL) WITHOUT ROWID;
     CREATE TABLE room_state_log (
        room BIGINT NOT NULL,
        position BIGINT NOT NULL,
        snapshot BLOB NOT NULL,
        PRIMARY KEY (room, position)
     ) WITHOUT ROWID;

     CREATE TABLE membership (
        user_id TEXT NOT NULL,
        room BIGINT NOT NULL,
        membership TEXT NOT NULL,
        event_id TEXT NOT NULL,
        sender TEXT NOT NULL,
        position BIGINT NOT NULL,
        forgotten BIGINT NOT NULL DEFAULT 0,
        server TEXT NOT NULL,
        local BIGINT NOT NULL,
        PRIMARY KEY (user_id, room)
     ) WITHOUT ROWID;
     CREATE INDEX membership_room ON membership (room, membership, server);
     CREATE INDEX membership_position ON membership (user_id, position);

     CREATE TABLE room_server (
        room BIGINT NOT NULL,
        server TEXT NOT NULL,
        joined BIGINT NOT NULL,
        PRIMARY KEY (room, server)
     ) WITHOUT ROWID;
     CREATE INDEX room_server_server ON room_server (server, room);

     CREATE TABLE room_count (
        room BIGINT PRIMARY KEY,
        joined BIGINT NOT NULL,
        invited BIGINT NOT NULL
     );

     CREATE TABLE invite_state (
        user_id TEXT NOT NULL,
        room_id TEXT NOT NULL,
        state TEXT NOT NULL,
        PRIMARY KEY (user_id, room_id)
     ) WITHOUT ROWID;

     CREATE TABLE relation (
        room BIGINT NOT NULL,
        target TEXT NOT NULL,
        child BIGINT NOT NULL,
        rel_type TEXT NOT NULL,
        event_type TEXT NOT NULL,
        sender TEXT NOT NULL,
        position BIGINT NOT NULL,
        aggregation_key TEXT,
        PRIMARY KEY (room, target, child)
     ) WITHOUT ROWID;
     CREATE INDEX relation_thread ON relation (room, rel_type, position);
     CREATE INDEX relation_child ON relation (child);

     CREATE TABLE pending_redaction (
        room BIGINT NOT NULL,
        target TEXT NOT NULL,
        redaction TEXT NOT NULL,
        PRIMARY KEY (room, target, redaction)
     ) WITHOUT ROWID;

     CREATE TABLE alias (
        alias TEXT PRIMARY KEY,
        room_id TEXT NOT NULL,
        creator TEXT NOT NULL
     ) WITHOUT ROWID;
     CREATE INDEX alias_room ON alias (room_id);",
        ),
        Migration::Both(
            "CREATE TABLE room_block (
        room_id TEXT PRIMARY KEY,
        blocked_by TEXT NOT NULL,
        blocked_ms BIGINT NOT NULL
     ) WITHOUT ROWID;

     CREATE TABLE room_case (
        id BIGINT PRIMARY KEY,
        reporter TEXT NOT NULL,
        room_id TEXT,
        event_id TEXT,
        user_id TEXT,
        reason TEXT NOT NULL,
        reported_ms BIGINT NOT NULL,
        closed BIGINT NOT NULL
     );
     CREATE INDEX room_case_reporter ON room_case (reporter, closed);",
        ),
        // Who works on a case, what came of it, and when.
        Migration::Both(
            "ALTER TABLE room_case ADD COLUMN assignee TEXT;
     ALTER TABLE room_case ADD COLUMN note TEXT;
     ALTER TABLE room_case ADD COLUMN closed_by TEXT;
     ALTER TABLE room_case ADD COLUMN closed_ms BIGINT;",
        ),
        Migration::Both(
            // claimed: said to be in the room by the server that let us in, while the state is not whole.
            // since: when the server came into the room with its first user.
            "ALTER TABLE room_server ADD COLUMN claimed BIGINT NOT NULL DEFAULT 0;
     ALTER TABLE room_server ADD COLUMN since BIGINT NOT NULL DEFAULT 0;

     CREATE TABLE room_partial (
        room BIGINT PRIMARY KEY,
        room_id TEXT NOT NULL,
        join_event TEXT NOT NULL,
        through TEXT NOT NULL,
        completed BIGINT
     );

     CREATE TABLE partial_event (
        room BIGINT NOT NULL,
        nid BIGINT NOT NULL,
        PRIMARY KEY (room, nid)
     ) WITHOUT ROWID;",
        ),
        Migration::Both(
            // Where the history is missing: right before the event of this position; 0 is before all that is here.
            "ALTER TABLE backward_extremity ADD COLUMN position BIGINT NOT NULL DEFAULT 0;
     CREATE INDEX backward_extremity_position ON backward_extremity (room, position);",
        ),
        // sticky: events that must reach everybody until they expire; position 0 while current state refuses them. At most
        // 100 of one sender in a room; expired ones go when the next comes.
        Migration::Both(
            "CREATE TABLE sticky (
        room BIGINT NOT NULL,
        nid BIGINT NOT NULL,
        sender TEXT NOT NULL,
        position BIGINT NOT NULL,
        expires_ms BIGINT NOT NULL,
        PRIMARY KEY (room, nid)
     ) WITHOUT ROWID;
     CREATE INDEX sticky_expires ON sticky (expires_ms);",
        ),
        // Forward extremities of rooms that have too many of them for the head's row; rooms whose state was not worked out from
        // all of theirs yet.
        Migration::Both(
            "CREATE TABLE forward_extremity (
        room BIGINT NOT NULL,
        nid BIGINT NOT NULL,
        PRIMARY KEY (room, nid)
     ) WITHOUT ROWID;
     CREATE TABLE unsettled_room (room BIGINT PRIMARY KEY);",
        ),
    ],
);
