//! Relations: what later events say about earlier ones (CS API, "Aggregations of child events").

use std::{collections::HashMap, sync::Arc};

use ruma::{EventId, OwnedEventId, OwnedUserId, UserId};
use samtal_db::{Row, Sql, params, sql};
use samtal_event::{Unsigned, client_form};
use samtal_model::StreamPosition;

use crate::{
    Rooms,
    error::RoomError,
    graph::{Room, StoredEvent},
    ids::EventNid,
    reading::{Chunk, Direction},
    visibility::Viewer,
};

const CHILDREN_OF: Sql = sql!(
    "SELECT target, child, rel_type, sender, position FROM relation WHERE room = $1 AND target IN list($2)
     ORDER BY position"
);
const CHILDREN_BACK: Sql = sql!(
    "SELECT child, rel_type, event_type, position FROM relation
     WHERE room = $1 AND target = $2 AND position <= $3 ORDER BY position DESC"
);
const CHILDREN_FORWARD: Sql = sql!(
    "SELECT child, rel_type, event_type, position FROM relation
     WHERE room = $1 AND target = $2 AND position > $3 ORDER BY position"
);
const THREADS: Sql = sql!(
    "SELECT target, MAX(position) FROM relation WHERE room = $1 AND rel_type = 'm.thread'
     GROUP BY target HAVING MAX(position) <= $2 ORDER BY 2 DESC LIMIT $3"
);
const PARTICIPATED: Sql =
    sql!("SELECT 1 FROM relation WHERE room = $1 AND target = $2 AND rel_type = 'm.thread' AND sender = $3 LIMIT 1");

const ANNOTATED: Sql = sql!(
    "SELECT 1 FROM relation WHERE room = $1 AND target = $2 AND rel_type = 'm.annotation' AND sender = $3
        AND aggregation_key = $4 LIMIT 1"
);

/// Events one may hang below another by relations of relations.
const RECURSION_MAX: usize = 3;

/// The `m.relations` objects of some events.
#[derive(Debug, Default)]
pub struct Bundles(HashMap<OwnedEventId, String>);

impl Bundles {
    /// The object for an event, as JSON.
    pub fn of(&self, event: &StoredEvent) -> Option<&str> {
        self.0.get(event.pdu.event_id()).map(String::as_str)
    }
}

/// Which relations to list.
#[derive(Clone, Debug, Default)]
pub struct RelationFilter {
    /// Only this relation type.
    pub rel_type: Option<String>,
    /// Only children of this event type.
    pub event_type: Option<String>,
    /// Whether children of children count, up to three steps.
    pub recurse: bool,
}

struct Child {
    nid: EventNid,
    rel_type: String,
    sender: OwnedUserId,
}

impl Rooms {
    /// What is bundled with these events for a reader: the newest edit, the thread's summary, references. A redacted
    /// event has no edit any more; but what was said in its thread stays, and clients find it by the summary.
    pub async fn bundles(&self, viewer: &mut Viewer, events: &[Arc<StoredEvent>]) -> Result<Bundles, RoomError> {
        let targets: Vec<String> =
            events.iter().filter(|event| !event.pdu.is_state()).map(|event| event.pdu.event_id().to_string()).collect();
        if targets.is_empty() {
            return Ok(Bundles::default());
        }
        let rows = self.inner.store.db().query(&CHILDREN_OF, params![viewer.room().nid.0, targets]).await?;
        let mut children: HashMap<String, Vec<Child>> = HashMap::new();
        for row in &rows {
            let Ok(sender) = OwnedUserId::try_from(row.text(3)?) else { continue };
            let child = Child { nid: EventNid(row.int(1)?), rel_type: row.get(2)?, sender };
            children.entry(row.get(0)?).or_default().push(child);
        }
        let mut bundles = Bundles::default();
        for event in events {
            if let Some(children) = children.get(event.pdu.event_id().as_str())
                && let Some(bundle) = Box::pin(self.bundle(viewer, event, children)).await?
            {
                bundles.0.insert(event.pdu.event_id().to_owned(), bundle);
            }
        }
        Ok(bundles)
    }

    async fn bundle(
        &self,
        viewer: &mut Viewer,
        event: &StoredEvent,
        children: &[Child],
    ) -> Result<Option<String>, RoomError> {
        let mut parts = Vec::new();
        if let Some(edit) = self.newest_edit(viewer, event, children).await? {
            let unsigned = Unsigned { transaction_id: viewer.transaction_id(&edit), ..Unsigned::default() };
            let json = client_form(&edit.pdu, Some(edit.pdu.room_id()), &unsigned);
            parts.push(format!("\"m.replace\":{}", json.get()));
        }
        if let Some(thread) = self.thread_summary(viewer, event, children).await? {
            parts.push(format!("\"m.thread\":{thread}"));
        }
        let mut references = Vec::new();
        for child in children.iter().filter(|child| child.rel_type == "m.reference") {
            let child = self.inner.store.graph.event_by_nid(child.nid).await?;
            if viewer.can_see(&child).await? {
                references.push(format!("{{\"event_id\":{}}}", quoted(child.pdu.event_id().as_str())));
            }
        }
        if !references.is_empty() {
            parts.push(format!("\"m.reference\":{{\"chunk\":[{}]}}", references.join(",")));
        }
        Ok((!parts.is_empty()).then(|| format!("{{{}}}", parts.join(","))))
    }

    /// The newest valid edit: by the same sender, of the same type, of an event that is not itself an edit.
    async fn newest_edit(
        &self,
        viewer: &mut Viewer,
        event: &StoredEvent,
        children: &[Child],
    ) -> Result<Option<Arc<StoredEvent>>, RoomError> {
        if event.redacted_by.is_some() {
            return Ok(None);
        }
        let edits =
            children.iter().rev().filter(|child| child.rel_type == "m.replace" && child.sender == event.pdu.sender());
        let mut newest: Option<Arc<StoredEvent>> = None;
        for edit in edits {
            let edit = self.inner.store.graph.event_by_nid(edit.nid).await?;
            let newer = newest.as_ref().is_none_or(|newest| {
                (edit.pdu.origin_server_ts(), edit.pdu.event_id())
                    > (newest.pdu.origin_server_ts(), newest.pdu.event_id())
            });
            if newer && edit.pdu.type_str() == event.pdu.type_str() && viewer.can_see(&edit).await? {
                newest = Some(edit);
            }
        }
        Ok(newest)
    }

    /// The newest valid edit of each of these events that has one, by the event's id, whoever may see it: what their texts are now.
    pub async fn newest_edits(
        &self,
        events: &[Arc<StoredEvent>],
    ) -> Result<HashMap<OwnedEventId, Arc<StoredEvent>>, RoomError> {
        let mut rooms: HashMap<i64, HashMap<&str, &StoredEvent>> = HashMap::new();
        for event in events.iter().filter(|event| !event.pdu.is_state() && event.redacted_by.is_none()) {
            rooms.entry(event.room.0).or_default().insert(event.pdu.event_id().as_str(), event);
        }
        let graph = &self.inner.store.graph;
        let mut newest: HashMap<OwnedEventId, Arc<StoredEvent>> = HashMap::new();
        for (room, targets) in rooms {
            let ids: Vec<String> = targets.keys().map(|id| (*id).to_owned()).collect();
            for row in &self.inner.store.db().query(&CHILDREN_OF, params![room, ids]).await? {
                let Some(target) = targets.get(row.text(0)?) else { continue };
                if row.text(2)? != "m.replace" || row.text(3)? != target.pdu.sender().as_str() {
                    continue;
                }
                let edit = graph.event_by_nid(EventNid(row.int(1)?)).await?;
                let when = |event: &StoredEvent| (event.pdu.origin_server_ts(), event.pdu.event_id().to_owned());
                let is_newer = newest.get(target.pdu.event_id()).is_none_or(|known| when(&edit) > when(known));
                if is_newer && edit.is_visible() && edit.pdu.type_str() == target.pdu.type_str() {
                    newest.insert(target.pdu.event_id().to_owned(), edit);
                }
            }
        }
        Ok(newest)
    }

    async fn thread_summary(
        &self,
        viewer: &mut Viewer,
        event: &StoredEvent,
        children: &[Child],
    ) -> Result<Option<String>, RoomError> {
        let replies: Vec<&Child> = children.iter().filter(|child| child.rel_type == "m.thread").collect();
        let participated =
            event.pdu.sender() == viewer.user() || replies.iter().any(|child| child.sender == viewer.user());
        for reply in replies.iter().rev() {
            let latest = self.inner.store.graph.event_by_nid(reply.nid).await?;
            if !viewer.can_see(&latest).await? {
                continue;
            }
            let bundles = self.bundles(viewer, std::slice::from_ref(&latest)).await?;
            let transaction_id = viewer.transaction_id(&latest);
            let unsigned = Unsigned { relations_json: bundles.of(&latest), transaction_id, ..Unsigned::default() };
            let json = client_form(&latest.pdu, Some(latest.pdu.room_id()), &unsigned);
            return Ok(Some(format!(
                "{{\"count\":{},\"current_user_participated\":{participated},\"latest_event\":{}}}",
                replies.len(),
                json.get()
            )));
        }
        Ok(None)
    }

    /// Whether the user has annotated the event with this key already (CS API, "Avoiding duplicate annotations").
    pub async fn has_annotated(&self, room: &Room, user: &UserId, target: &str, key: &str) -> Result<bool, RoomError> {
        let row = self.inner.store.db().query_opt(&ANNOTATED, params![room.nid.0, target, user.as_str(), key]).await?;
        Ok(row.is_some())
    }

    /// The events that relate to `target`, that the reader may see.
    pub async fn relations(
        &self,
        viewer: &mut Viewer,
        target: &EventId,
        filter: &RelationFilter,
        from: StreamPosition,
        direction: Direction,
        limit: usize,
    ) -> Result<Chunk, RoomError> {
        let mut found: Vec<(StreamPosition, EventNid)> = Vec::new();
        let mut level = vec![target.to_owned()];
        for depth in 0..RECURSION_MAX {
            let mut next = Vec::new();
            for target in &level {
                for row in self.children(viewer.room(), target, from, direction).await? {
                    let nid = EventNid(row.int(0)?);
                    if filter.matches(row.text(1)?, row.text(2)?) {
                        found.push((StreamPosition(row.int(3)?), nid));
                    }
                    if filter.recurse && depth + 1 < RECURSION_MAX {
                        next.push(self.inner.store.graph.event_by_nid(nid).await?.pdu.event_id().to_owned());
                    }
                }
            }
            level = next;
        }
        found.sort_unstable();
        found.dedup();
        if direction == Direction::Backward {
            found.reverse();
        }
        let mut events = Vec::new();
        for (index, (position, nid)) in found.iter().enumerate() {
            let event = self.inner.store.graph.event_by_nid(*nid).await?;
            if viewer.can_see(&event).await? {
                events.push(event);
            }
            if events.len() == limit && index + 1 < found.len() {
                let next = match direction {
                    Direction::Backward => StreamPosition(position.0 - 1),
                    Direction::Forward => *position,
                };
                return Ok(Chunk { events, next: Some(next) });
            }
        }
        Ok(Chunk { events, next: None })
    }

    async fn children(
        &self,
        room: &Room,
        target: &EventId,
        from: StreamPosition,
        direction: Direction,
    ) -> Result<Vec<Row>, RoomError> {
        let query = match direction {
            Direction::Backward => &CHILDREN_BACK,
            Direction::Forward => &CHILDREN_FORWARD,
        };
        Ok(self.inner.store.db().query(query, params![room.nid.0, target.as_str(), from.0]).await?)
    }

    /// The roots of a room's threads, the one with the newest reply first.
    pub async fn threads(
        &self,
        viewer: &mut Viewer,
        participated_only: bool,
        from: StreamPosition,
        limit: usize,
    ) -> Result<Chunk, RoomError> {
        let room = viewer.room().nid;
        let rows = self.inner.store.db().query(&THREADS, params![room.0, from.0, limit + 1]).await?;
        let more = rows.len() > limit;
        let mut events = Vec::new();
        let mut last = None;
        for row in rows.iter().take(limit) {
            last = Some(StreamPosition(row.int(1)? - 1));
            let Ok(id) = OwnedEventId::try_from(row.text(0)?) else { continue };
            let Some(root) = self.inner.store.graph.event(&id).await? else { continue };
            if root.room != room || !viewer.can_see(&root).await? {
                continue;
            }
            if participated_only
                && root.pdu.sender() != viewer.user()
                && !self.has_participated(room.0, &id, viewer.user()).await?
            {
                continue;
            }
            events.push(root);
        }
        Ok(Chunk { events, next: last.filter(|_| more) })
    }

    async fn has_participated(&self, room: i64, root: &EventId, user: &UserId) -> Result<bool, RoomError> {
        let row = self.inner.store.db().query_opt(&PARTICIPATED, params![room, root.as_str(), user.as_str()]).await?;
        Ok(row.is_some())
    }
}

impl RelationFilter {
    /// With recursion the filters hold for the events themselves, at any depth.
    fn matches(&self, rel_type: &str, event_type: &str) -> bool {
        self.rel_type.as_deref().is_none_or(|wanted| wanted == rel_type)
            && self.event_type.as_deref().is_none_or(|wanted| wanted == event_type)
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
