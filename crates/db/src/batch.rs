//! A write as a value.

use std::sync::Arc;

use crate::{DbError, Row, Sql, Value, schema};

/// Statements that become durable together or not at all, built from what was read before.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(crate) steps: Vec<Step>,
    /// With how far each stands behind the batch's first position.
    pub(crate) changes: Vec<(i64, Change)>,
    /// How many positions the batch takes.
    pub(crate) positions: i64,
    returning: usize,
    pub(crate) hooks: Vec<Hook>,
}

/// What is done when a batch is durable, before anyone hears of it.
#[derive(Clone)]
pub(crate) struct Hook(pub(crate) Arc<dyn Fn(&Committed) + Send + Sync>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) sql: Sql,
    pub(crate) params: Vec<Value>,
    pub(crate) expect: Expect,
}

/// What a statement of a batch answered.
pub(crate) enum Answered {
    Rows(Vec<Row>),
    Changed(u64),
}

impl Step {
    /// The step that writes a row of the change log at this position.
    pub(crate) fn logged(change: &Change, position: i64) -> Self {
        let params = vec![
            position.into(),
            change.kind.into(),
            change.room.clone().into(),
            change.user.clone().into(),
            change.reference.clone().into(),
        ];
        Self { sql: schema::CHANGE_INSERT, params, expect: Expect::Any }
    }

    /// The rows that the committer gets, if it asked for any; a conflict if the statement did not do what it must.
    pub(crate) fn outcome(&self, answered: Answered) -> Result<Option<Vec<Row>>, DbError> {
        let refused = |what: &str| Err(DbError::Conflict(format!("{}: {what}", self.sql.name())));
        match (self.expect, answered) {
            (Expect::Returning, Answered::Rows(rows)) => Ok(Some(rows)),
            (Expect::Some, Answered::Rows(rows)) if rows.is_empty() => refused("no row"),
            (Expect::None, Answered::Rows(rows)) if !rows.is_empty() => refused("a row"),
            (Expect::Changed(expected), Answered::Changed(changed)) if changed != expected => {
                refused(&format!("{changed} rows changed, expected {expected}"))
            }
            _ => Ok(None),
        }
    }
}

/// What must hold for the batch to be kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Expect {
    /// Any number of rows.
    Any,
    /// Exactly so many rows changed.
    Changed(u64),
    /// The statement answers rows, which the committer gets.
    Returning,
    /// The query answers at least one row.
    Some,
    /// The query answers no row.
    None,
}

/// A row for the change log. What its fields hold for each kind is said in `samtal_model::ChangeKind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The kind's number.
    pub kind: i64,
    /// A room id.
    pub room: Option<Box<str>>,
    /// A user id.
    pub user: Option<Box<str>>,
    /// Whatever else the kind refers to.
    pub reference: Option<Box<str>>,
}

impl Change {
    /// A change of this kind that names nothing yet.
    pub fn new(kind: impl Into<i64>) -> Self {
        Self { kind: kind.into(), room: None, user: None, reference: None }
    }

    /// Names the room.
    #[must_use]
    pub fn room(mut self, room: impl AsRef<str>) -> Self {
        self.room = Some(room.as_ref().into());
        self
    }

    /// Names the user.
    #[must_use]
    pub fn user(mut self, user: impl AsRef<str>) -> Self {
        self.user = Some(user.as_ref().into());
        self
    }

    /// Names what else it refers to.
    #[must_use]
    pub fn reference(mut self, reference: impl AsRef<str>) -> Self {
        self.reference = Some(reference.as_ref().into());
        self
    }
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.changes.is_empty()
    }

    /// How many statements and rows for the change log there are so far.
    pub fn len(&self) -> usize {
        self.steps.len() + self.changes.len()
    }

    fn step(&mut self, sql: &Sql, params: Vec<Value>, expect: Expect) {
        self.steps.push(Step { sql: *sql, params, expect });
    }

    /// Adds a statement that may change any number of rows.
    pub fn exec(&mut self, sql: &Sql, params: Vec<Value>) {
        self.step(sql, params, Expect::Any);
    }

    /// Adds a statement that must change exactly `rows` rows, else the batch is refused as a conflict.
    pub fn expect(&mut self, sql: &Sql, params: Vec<Value>, rows: u64) {
        self.step(sql, params, Expect::Changed(rows));
    }

    /// Adds a query that must answer at least one row, else the batch is refused as a conflict.
    pub fn require(&mut self, sql: &Sql, params: Vec<Value>) {
        self.step(sql, params, Expect::Some);
    }

    /// Adds a query that must answer no row, else the batch is refused as a conflict.
    pub fn forbid(&mut self, sql: &Sql, params: Vec<Value>) {
        self.step(sql, params, Expect::None);
    }

    /// Adds a statement whose rows (`RETURNING`, or a query) the committer gets: the index into [`Committed::rows`].
    pub fn returning(&mut self, sql: &Sql, params: Vec<Value>) -> usize {
        self.step(sql, params, Expect::Returning);
        self.returning += 1;
        self.returning - 1
    }

    /// Appends a row to the change log. The answer is a parameter that stands for the row's position, given at commit.
    pub fn log(&mut self, change: Change) -> Value {
        self.changes.push((self.positions, change));
        self.positions += 1;
        Value::Position(self.positions - 1)
    }

    /// Leaves `count` positions out of the log, between what is logged so far and what is logged next: room for what will turn out
    /// to belong there. Log something behind it in the same batch, else readers may come to stand within.
    pub fn skip(&mut self, count: i64) {
        self.positions += count.max(0);
    }

    /// Has `done` called when the batch is durable, before readers of the change log hear of it: so caches hold what they are about to
    /// ask for. It must be quick.
    pub fn before_announcing(&mut self, done: impl Fn(&Committed) + Send + Sync + 'static) {
        self.hooks.push(Hook(Arc::new(done)));
    }

    /// How many rows for the change log there are so far.
    pub fn logged(&self) -> usize {
        self.changes.len()
    }

    /// Moves the named cursor to `position`, never backwards.
    pub fn cursor(&mut self, name: &str, position: i64) {
        self.exec(&CURSOR_SET, vec![name.into(), position.into()]);
    }

    /// Removes the named cursor: nobody reads from it any more, so it holds nothing back.
    pub fn cursor_drop(&mut self, name: &str) {
        self.exec(&CURSOR_DROP, vec![name.into()]);
    }

    /// Adds all of `other` behind what is here. Positions and returned rows of `other` count on from here.
    pub fn append(&mut self, other: Self) {
        let offset = self.positions;
        self.returning += other.returning;
        self.hooks.extend(other.hooks);
        self.positions += other.positions;
        self.changes.extend(other.changes.into_iter().map(|(at, change)| (at + offset, change)));
        self.steps.extend(other.steps.into_iter().map(|mut step| {
            for param in &mut step.params {
                if let Value::Position(behind) = param {
                    *behind += offset;
                }
            }
            step
        }));
    }
}

const CURSOR_SET: Sql = crate::sql!(
    "INSERT INTO cursor (name, position) VALUES ($1, $2)
     ON CONFLICT (name) DO UPDATE SET position = excluded.position WHERE excluded.position > cursor.position"
);

const CURSOR_DROP: Sql = crate::sql!("DELETE FROM cursor WHERE name = $1");

/// What a commit gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Committed {
    /// Position of the batch's first change; meaningless for a batch without changes.
    pub first_position: i64,
    /// Position of the last change of the batch, or of the log before it for a batch without changes.
    pub last_position: i64,
    /// For each returning statement, in order, its rows.
    pub rows: Vec<Vec<Row>>,
}

/// What a refused batch takes with it.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Undo {
    /// The whole transaction.
    Group,
    /// Only itself: it runs in a savepoint.
    Batch,
}

/// Calls what wanted to be called before anyone hears of these batches.
pub(crate) fn call_hooks<'a>(done: impl Iterator<Item = (&'a Batch, &'a Result<Committed, DbError>)>) {
    for (batch, result) in done {
        if let Ok(committed) = result {
            batch.hooks.iter().for_each(|hook| (hook.0)(committed));
        }
    }
}

impl Committed {
    /// The position that stands for what [`Batch::log`] returned.
    pub fn position_of(&self, value: &Value) -> i64 {
        match value {
            Value::Position(offset) => self.first_position + offset,
            _ => self.last_position,
        }
    }
}
