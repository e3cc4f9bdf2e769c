//! One text for both engines.

use std::borrow::Cow;

/// A statement. Both engines understand the text: `$1` placeholders that first appear in ascending order, `ON CONFLICT`,
/// `RETURNING`, BIGINT, TEXT and BLOB values. A list parameter is written `x IN list($1)` or `x NOT IN list($1)`.
#[derive(Clone, Copy, Debug)]
pub struct Sql {
    sqlite: &'static str,
    postgres: &'static str,
}

/// Makes a [`Sql`] of one text for both engines.
#[macro_export]
macro_rules! sql {
    ($text:expr) => {
        $crate::Sql::new($text)
    };
}

/// A parameter list: `params![room_id, 5, None::<i64>]`.
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        vec![$($crate::Value::from($value)),*]
    };
}

impl Sql {
    /// One text for both engines; see [`sql!`](crate::sql!).
    pub const fn new(text: &'static str) -> Self {
        Self { sqlite: text, postgres: text }
    }

    /// A named, small difference between the engines.
    pub const fn each(sqlite: &'static str, postgres: &'static str) -> Self {
        Self { sqlite, postgres }
    }

    /// The beginning of the text, to name the statement in errors.
    pub(crate) fn name(&self) -> &'static str {
        let text = self.sqlite.trim_start();
        text.get(..60).unwrap_or(text)
    }

    pub(crate) fn for_sqlite(&self) -> Cow<'static, str> {
        if self.sqlite.contains(" list(") {
            Cow::Owned(self.sqlite.replace(" list(", " rarray("))
        } else {
            Cow::Borrowed(self.sqlite)
        }
    }

    pub(crate) fn for_postgres(&self) -> Cow<'static, str> {
        if self.postgres.contains("IN list(") {
            Cow::Owned(self.postgres.replace("NOT IN list(", "<> ALL(").replace("IN list(", "= ANY("))
        } else {
            Cow::Borrowed(self.postgres)
        }
    }
}
