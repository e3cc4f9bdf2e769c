//! The tables.

use samtal_db::{Migration, Schema};

/// The tables of this crate. All of them hold personal data.
///
/// `search_event` has one row for each event that can be found, `search_text` its tokens (SQLite keeps only which document has
/// which token); both go with the event's redaction or its room. `directory_entry` has one row for each local user and one for
/// each remote user in each room, `directory_word` a few for each of these; they go when the membership does.
pub const SCHEMA: Schema = Schema::new(
    "search",
    &[
        Migration::Both(
            "CREATE TABLE search_event (
                id BIGINT PRIMARY KEY,
                nid BIGINT NOT NULL UNIQUE,
                room BIGINT NOT NULL,
                key BIGINT NOT NULL,
                edit BIGINT
             ) WITHOUT ROWID;
             CREATE INDEX search_event_room ON search_event (room);
             CREATE INDEX search_event_edit ON search_event (edit) WHERE edit IS NOT NULL;
             CREATE TABLE search_room (room BIGINT PRIMARY KEY, oldest BIGINT NOT NULL);
             CREATE TABLE directory_entry (
                user_id TEXT NOT NULL,
                room BIGINT NOT NULL,
                display_name TEXT,
                avatar_url TEXT,
                public BIGINT NOT NULL,
                PRIMARY KEY (user_id, room)
             ) WITHOUT ROWID;
             CREATE INDEX directory_entry_room ON directory_entry (room);
             CREATE TABLE directory_room (room BIGINT PRIMARY KEY, public BIGINT NOT NULL);
             CREATE TABLE directory_hidden (user_id TEXT PRIMARY KEY) WITHOUT ROWID;",
        ),
        // The ASCII tokenizer takes every character beyond ASCII as part of a word, and our tokens are separated by spaces:
        // the index holds exactly what it is given. Words are compared by their bytes on both engines.
        Migration::Each {
            sqlite: "CREATE VIRTUAL TABLE search_text USING fts5 (
                words, tokenize = 'ascii', content = '', contentless_delete = 1, detail = none
             );
             CREATE TABLE directory_word (
                word TEXT NOT NULL,
                user_id TEXT NOT NULL,
                room BIGINT NOT NULL,
                PRIMARY KEY (word, user_id, room)
             ) WITHOUT ROWID;
             CREATE INDEX directory_word_user ON directory_word (user_id, room);
             CREATE INDEX directory_word_room ON directory_word (room) WHERE room <> 0;",
            postgres: "CREATE TABLE search_text (id BIGINT PRIMARY KEY, words TSVECTOR NOT NULL);
             CREATE INDEX search_text_words ON search_text USING GIN (words);
             CREATE TABLE directory_word (
                word TEXT COLLATE \"C\" NOT NULL,
                user_id TEXT COLLATE \"C\" NOT NULL,
                room BIGINT NOT NULL,
                PRIMARY KEY (word, user_id, room)
             );
             CREATE INDEX directory_word_user ON directory_word (user_id, room);
             CREATE INDEX directory_word_room ON directory_word (room) WHERE room <> 0;",
        },
    ],
);
