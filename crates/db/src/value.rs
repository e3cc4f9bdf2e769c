//! Parameters and rows: integers, texts, bytes, lists.

use crate::DbError;

/// A parameter of a statement, or a column of a row (rows hold no lists and no positions).
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// BIGINT.
    Int(i64),
    /// TEXT.
    Text(Box<str>),
    /// BLOB or BYTEA.
    Blob(Box<[u8]>),
    /// A list of integers for `IN list($n)`.
    Ints(Vec<i64>),
    /// A list of texts for `IN list($n)`.
    Texts(Vec<String>),
    /// A list of byte strings for `IN list($n)`.
    Blobs(Vec<Vec<u8>>),
    /// The position so far behind the batch's first, given at commit: what [`Batch::log`](crate::Batch::log) returns.
    Position(i64),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Int(_) => "an integer",
            Self::Text(_) => "a text",
            Self::Blob(_) => "bytes",
            Self::Ints(_) | Self::Texts(_) | Self::Blobs(_) => "a list",
            Self::Position(_) => "a position",
        }
    }
}

macro_rules! from {
    ($($type:ty => |$value:ident| $make:expr;)*) => {$(
        impl From<$type> for Value {
            fn from($value: $type) -> Self {
                $make
            }
        }
    )*};
}

from! {
    i64 => |value| Self::Int(value);
    i32 => |value| Self::Int(value.into());
    u32 => |value| Self::Int(value.into());
    u64 => |value| Self::Int(i64::try_from(value).unwrap_or(i64::MAX));
    usize => |value| Self::Int(i64::try_from(value).unwrap_or(i64::MAX));
    bool => |value| Self::Int(value.into());
    &str => |value| Self::Text(value.into());
    String => |value| Self::Text(value.into());
    &String => |value| Self::Text(value.as_str().into());
    Box<str> => |value| Self::Text(value);
    Vec<u8> => |value| Self::Blob(value.into());
    &Vec<u8> => |value| Self::Blob(value.as_slice().into());
    &[u8] => |value| Self::Blob(value.into());
    Vec<i64> => |value| Self::Ints(value);
    Vec<String> => |value| Self::Texts(value);
    Vec<Vec<u8>> => |value| Self::Blobs(value);
}

impl<const N: usize> From<[u8; N]> for Value {
    fn from(value: [u8; N]) -> Self {
        Self::Blob(Box::from(value.as_slice()))
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// What a column can be read as.
pub trait FromValue: Sized {
    /// For the error message.
    const EXPECTED: &'static str;
    /// The value, or nothing when the column holds something else.
    fn from_value(value: &Value) -> Option<Self>;
}

impl FromValue for i64 {
    const EXPECTED: &'static str = "an integer";
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Int(int) = value { Some(*int) } else { None }
    }
}

impl FromValue for u64 {
    const EXPECTED: &'static str = "an integer from 0";
    fn from_value(value: &Value) -> Option<Self> {
        i64::from_value(value).and_then(|int| Self::try_from(int).ok())
    }
}

impl FromValue for bool {
    const EXPECTED: &'static str = "0 or 1";
    fn from_value(value: &Value) -> Option<Self> {
        i64::from_value(value).map(|int| int != 0)
    }
}

impl FromValue for String {
    const EXPECTED: &'static str = "a text";
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Text(text) = value { Some(text.to_string()) } else { None }
    }
}

impl FromValue for Vec<u8> {
    const EXPECTED: &'static str = "bytes";
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Blob(bytes) = value { Some(bytes.to_vec()) } else { None }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn from_value(value: &Value) -> Option<Self> {
        if *value == Value::Null { Some(None) } else { T::from_value(value).map(Some) }
    }
}

/// One row of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Row(pub(crate) Vec<Value>);

impl Row {
    fn at(&self, column: usize) -> &Value {
        self.0.get(column).unwrap_or(&Value::Null)
    }

    fn wrong(&self, column: usize, expected: &'static str) -> DbError {
        DbError::Decode { column, expected, found: self.at(column).kind() }
    }

    /// The column as `T`: `i64`, `u64`, `bool`, `String`, `Vec<u8>` or an `Option` of these.
    pub fn get<T: FromValue>(&self, column: usize) -> Result<T, DbError> {
        T::from_value(self.at(column)).ok_or_else(|| self.wrong(column, T::EXPECTED))
    }

    /// The column as an integer.
    pub fn int(&self, column: usize) -> Result<i64, DbError> {
        self.get(column)
    }

    /// The column as an integer, or nothing for NULL.
    pub fn opt_int(&self, column: usize) -> Result<Option<i64>, DbError> {
        self.get(column)
    }

    /// The column as a text, borrowed.
    pub fn text(&self, column: usize) -> Result<&str, DbError> {
        if let Value::Text(text) = self.at(column) { Ok(text) } else { Err(self.wrong(column, "a text")) }
    }

    /// The column as a text, borrowed, or nothing for NULL.
    pub fn opt_text(&self, column: usize) -> Result<Option<&str>, DbError> {
        if *self.at(column) == Value::Null { Ok(None) } else { self.text(column).map(Some) }
    }

    /// The column as bytes, borrowed.
    pub fn blob(&self, column: usize) -> Result<&[u8], DbError> {
        if let Value::Blob(bytes) = self.at(column) { Ok(bytes) } else { Err(self.wrong(column, "bytes")) }
    }

    /// The column as bytes, borrowed, or nothing for NULL.
    pub fn opt_blob(&self, column: usize) -> Result<Option<&[u8]>, DbError> {
        if *self.at(column) == Value::Null { Ok(None) } else { self.blob(column).map(Some) }
    }
}
