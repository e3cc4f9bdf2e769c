//! The full-text index: which document holds which tokens.
//!
//! A document is an event's text. Its number grows with the time at which the event was sent, so that the newest come first
//! without sorting.

use std::collections::{BTreeSet, HashMap, HashSet};

use samtal_db::{Batch, Db, DbError, Row, Sql, params, sql};
use samtal_room::{EventNid, RoomNid};

use crate::{
    Key,
    query::{ROOM, SENDER},
};

const KNOWN: Sql = sql!("SELECT nid, id FROM search_event WHERE nid IN list($1)");
const EDITED_BY: Sql = sql!("SELECT nid FROM search_event WHERE edit IN list($1)");
const TAKEN: Sql = sql!("SELECT id FROM search_event WHERE id IN list($1)");
const EVENT_INSERT: Sql =
    sql!("INSERT INTO search_event (id, nid, room, key, edit) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING");
const EVENT_DELETE: Sql = sql!("DELETE FROM search_event WHERE id = $1");
const TEXT_INSERT: Sql = Sql::each(
    "INSERT INTO search_text (rowid, words) VALUES ($1, $2)",
    "INSERT INTO search_text (id, words) VALUES ($1, array_to_tsvector(string_to_array($2::text, ' ')))",
);
const TEXT_DELETE: Sql = Sql::each("DELETE FROM search_text WHERE rowid = $1", "DELETE FROM search_text WHERE id = $1");
const OF_ROOM: Sql = sql!("SELECT id, nid, room FROM search_event WHERE room = $1 AND id > $2 ORDER BY id LIMIT $3");
// SQLite reads the documents in the order of their numbers and stops at the limit: CROSS and + keep it from beginning with
// the rooms.
pub(crate) const FIND: Sql = Sql::each(
    "SELECT e.id, e.nid, e.room FROM search_text CROSS JOIN search_event e ON e.id = search_text.rowid
     WHERE search_text MATCH $1 AND search_text.rowid < $2 AND +e.room IN list($3) AND e.key IN list($4)
     ORDER BY search_text.rowid DESC LIMIT $5",
    "WITH matched AS MATERIALIZED (SELECT id FROM search_text WHERE words @@ ($1::text)::tsquery)
     SELECT e.id, e.nid, e.room FROM (SELECT id FROM matched WHERE id < $2 ORDER BY id DESC) t
     CROSS JOIN LATERAL (SELECT id, nid, room, key FROM search_event s WHERE s.id = t.id OFFSET 0) e
     WHERE e.room IN list($3) AND e.key IN list($4) ORDER BY t.id DESC LIMIT $5",
);
// PostgreSQL reads all that its index has of a word before it sorts. Of a common word there is enough among the newest
// documents, which are read without the index.
pub(crate) const FIND_NEAR: Sql = Sql::each(
    "SELECT 0, 0, 0 WHERE 0",
    "SELECT e.id, e.nid, e.room FROM (SELECT id, words FROM search_text WHERE id < $1 ORDER BY id DESC LIMIT 5000) t
     CROSS JOIN LATERAL (SELECT id, nid, room, key FROM search_event s WHERE s.id = t.id OFFSET 0) e
     WHERE t.words @@ ($2::text)::tsquery AND e.room IN list($3) AND e.key IN list($4) ORDER BY t.id DESC LIMIT $5",
);
const ROOM_OLDEST: Sql = sql!("SELECT oldest FROM search_room WHERE room = $1");
const ROOM_OLDEST_SET: Sql = sql!(
    "INSERT INTO search_room (room, oldest) VALUES ($1, $2)
     ON CONFLICT (room) DO UPDATE SET oldest = excluded.oldest WHERE excluded.oldest < search_room.oldest"
);
const ROOM_FORGET: Sql = sql!("DELETE FROM search_room WHERE room = $1");

/// Bits of a document's number below the time.
const BELOW_TIME: u32 = 20;

/// A text that is to be found.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) nid: EventNid,
    pub(crate) room: RoomNid,
    pub(crate) key: Key,
    /// The edit that the text is from.
    pub(crate) edit: Option<EventNid>,
    /// When it was sent, in milliseconds, at most now.
    pub(crate) sent_ms: i64,
    /// What tells documents of one millisecond apart, most likely.
    pub(crate) salt: u64,
    pub(crate) tokens: BTreeSet<String>,
}

/// A document that was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) id: i64,
    pub(crate) nid: EventNid,
    pub(crate) room: RoomNid,
}

impl Candidate {
    pub(crate) fn from_row(row: &Row) -> Result<Self, DbError> {
        Ok(Self { id: row.int(0)?, nid: EventNid(row.int(1)?), room: RoomNid(row.int(2)?) })
    }
}

/// The mark of a room.
pub(crate) fn room_mark(room: RoomNid) -> String {
    format!("{ROOM}{}", room.0)
}

/// The mark of a sender.
pub(crate) fn sender_mark(sender: &str) -> String {
    format!("{SENDER}{:016x}", salt(sender))
}

/// A number for a text (FNV-1a): the same on every node and in every version.
pub(crate) fn salt(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Adds the rows of documents, in place of what is there of the same events.
pub(crate) async fn put(db: &Db, batch: &mut Batch, documents: &[Document]) -> Result<(), DbError> {
    let nids: Vec<i64> = documents.iter().map(|document| document.nid.0).collect();
    let mut known: HashMap<i64, i64> = HashMap::new();
    for row in db.query(&KNOWN, params![nids]).await? {
        known.insert(row.int(0)?, row.int(1)?);
    }
    let first = |document: &Document| {
        let below = (1_i64 << BELOW_TIME) - 1;
        (document.sent_ms << BELOW_TIME) | (i64::try_from(document.salt >> 1).unwrap_or(0) & below)
    };
    let wished: Vec<i64> = documents.iter().map(first).collect();
    let mut taken: HashSet<i64> = HashSet::new();
    for row in db.query(&TAKEN, params![wished]).await? {
        taken.insert(row.int(0)?);
    }
    for document in documents {
        let id = match known.get(&document.nid.0) {
            Some(id) => {
                batch.exec(&EVENT_DELETE, params![*id]);
                batch.exec(&TEXT_DELETE, params![*id]);
                *id
            }
            None => {
                let mut id = first(document);
                while !taken.insert(id) {
                    id += 1;
                }
                id
            }
        };
        let mut tokens: Vec<&str> = document.tokens.iter().map(String::as_str).collect();
        let room = room_mark(document.room);
        tokens.push(&room);
        let edit = document.edit.map(|edit| edit.0);
        batch.exec(&EVENT_INSERT, params![id, document.nid.0, document.room.0, document.key.code(), edit]);
        batch.exec(&TEXT_INSERT, params![id, tokens.join(" ")]);
    }
    Ok(())
}

/// Adds the removal of what is there of these events. Answers the events that were known by one of them as their edit.
pub(crate) async fn remove(db: &Db, batch: &mut Batch, nids: &[i64]) -> Result<Vec<EventNid>, DbError> {
    for row in db.query(&KNOWN, params![nids.to_vec()]).await? {
        let id = row.int(1)?;
        batch.exec(&EVENT_DELETE, params![id]);
        batch.exec(&TEXT_DELETE, params![id]);
    }
    let edited = db.query(&EDITED_BY, params![nids.to_vec()]).await?;
    edited.iter().map(|row| row.int(0).map(EventNid)).collect()
}

/// Some documents of a room behind `after`, in order.
pub(crate) async fn of_room(db: &Db, room: RoomNid, after: i64, limit: usize) -> Result<Vec<Candidate>, DbError> {
    db.query(&OF_ROOM, params![room.0, after, limit]).await?.iter().map(Candidate::from_row).collect()
}

/// Adds that nothing is known of how far back a room is indexed.
pub(crate) fn forget_oldest(batch: &mut Batch, room: RoomNid) {
    batch.exec(&ROOM_FORGET, params![room.0]);
}

/// The oldest position of a room up to which history from before is indexed.
pub(crate) async fn oldest(db: &Db, room: RoomNid) -> Result<i64, DbError> {
    db.query_opt(&ROOM_OLDEST, params![room.0]).await?.map_or(Ok(0), |row| row.int(0))
}

/// Adds that a room's history is indexed from `position` on.
pub(crate) fn set_oldest(batch: &mut Batch, room: RoomNid, position: i64) {
    batch.exec(&ROOM_OLDEST_SET, params![room.0, position]);
}
