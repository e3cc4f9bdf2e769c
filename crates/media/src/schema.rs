//! The tables of this crate. `media` says who uploaded what, which is personal data.

use samtal_db::{Migration, Schema};

/// The tables of this crate.
pub const SCHEMA: Schema = Schema::new(
    "media",
    &[
        Migration::Both(
            // media: one row a name (`mxc://server/media_id`). `sha256` NULL: reserved, not uploaded, until `expires_ms`.
            // media_file: one row a content, whatever the number of its names. `path` is its place in the store.
            // media_thumbnail: at most one row a content and preset.
            // media_unused: places in the store that belong to nothing: being written since, or to be deleted (since 0).
            "CREATE TABLE media (
        server TEXT NOT NULL,
        media_id TEXT NOT NULL,
        sha256 BLOB,
        content_type TEXT,
        file_name TEXT,
        uploader TEXT,
        created_ms BIGINT NOT NULL,
        accessed_ms BIGINT NOT NULL,
        expires_ms BIGINT,
        quarantined BIGINT NOT NULL,
        PRIMARY KEY (server, media_id)
     ) WITHOUT ROWID;
     CREATE INDEX media_sha256 ON media (sha256);
     CREATE INDEX media_uploader ON media (uploader, created_ms);
     CREATE INDEX media_expires ON media (expires_ms);
     CREATE TABLE media_file (
        sha256 BLOB PRIMARY KEY,
        path TEXT NOT NULL,
        bytes BIGINT NOT NULL
     ) WITHOUT ROWID;
     CREATE TABLE media_thumbnail (
        sha256 BLOB NOT NULL,
        width BIGINT NOT NULL,
        height BIGINT NOT NULL,
        method TEXT NOT NULL,
        content_type TEXT NOT NULL,
        path TEXT NOT NULL,
        bytes BIGINT NOT NULL,
        PRIMARY KEY (sha256, width, height, method)
     ) WITHOUT ROWID;
     CREATE TABLE media_unused (
        path TEXT PRIMARY KEY,
        since_ms BIGINT NOT NULL
     ) WITHOUT ROWID;",
        ),
        // What administrators protect passes quarantine and clearing by.
        Migration::Both("ALTER TABLE media ADD COLUMN protected BIGINT NOT NULL DEFAULT 0;"),
        // When a smaller picture was last asked for, to within a day: the longest unused go when there are too many.
        Migration::Both(
            "ALTER TABLE media_thumbnail ADD COLUMN used_ms BIGINT NOT NULL DEFAULT 0;
     CREATE INDEX media_thumbnail_used ON media_thumbnail (used_ms);",
        ),
    ],
);
