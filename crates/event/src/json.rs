//! JSON as the hashes need it: sorted keys, shortest form, numbers kept as they were written.
//!
//! Room versions 6 and later allow only canonical numbers (integers of ±(2^53−1)); before that, any
//! number may stand in an event, and its hash covers the digits as written. `serde_json` and ruma's
//! canonical JSON would lose those, hence this small reader. Where a key stands twice, the last one
//! counts, as in other servers.

mod reader;

use std::borrow::Cow;

/// Greatest integer of canonical JSON.
pub const INT_MAX: i64 = 9_007_199_254_740_991;

/// Which numbers are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Canonical JSON (room version 6 and later, and everything our users send).
    Strict,
    /// Any JSON number, kept digit by digit (room versions 1 to 5).
    Lax,
}

/// A JSON value that borrows from the text it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number as written.
    Number(Cow<'a, str>),
    /// A string, unescaped.
    String(Cow<'a, str>),
    /// An array.
    Array(Vec<Value<'a>>),
    /// An object.
    Object(Object<'a>),
}

/// A JSON object: entries sorted by key, each key once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

/// Why a text is not (canonical) JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON at all.
    #[error("malformed JSON at byte {0}")]
    Syntax(usize),
    /// JSON, but not an object where one is needed.
    #[error("not a JSON object")]
    NotAnObject,
    /// A number that canonical JSON forbids.
    #[error("number not allowed in canonical JSON at byte {0}")]
    Number(usize),
    /// Nested deeper than we read.
    #[error("nested too deeply")]
    Nesting,
    /// Not UTF-8.
    #[error("not UTF-8")]
    Utf8,
}

impl<'a> Value<'a> {
    /// The string, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The object, if it is one.
    #[must_use]
    pub fn as_object(&self) -> Option<&Object<'a>> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The array, if it is one.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Value<'a>]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The number, if it is a whole one that fits.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Number(digits) => digits.parse().ok(),
            _ => None,
        }
    }

    /// Append the canonical form.
    pub fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(true) => out.push_str("true"),
            Self::Bool(false) => out.push_str("false"),
            Self::Number(digits) => out.push_str(digits),
            Self::String(text) => write_string(text, out),
            Self::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(object) => object.write(out),
        }
    }

    /// The canonical form.
    #[must_use]
    pub fn to_canonical(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Number(Cow::Owned(number.to_string()))
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::String(Cow::Borrowed(text))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::String(Cow::Owned(text))
    }
}

impl<'a> From<Object<'a>> for Value<'a> {
    fn from(object: Object<'a>) -> Self {
        Self::Object(object)
    }
}

impl<'a> Object<'a> {
    /// An empty object.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(own, _)| own.as_ref().cmp(key))
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        let index = self.find(key).ok()?;
        self.0.get(index).map(|(_, value)| value)
    }

    /// The value of a key, to change.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value<'a>> {
        let index = self.find(key).ok()?;
        self.0.get_mut(index).map(|(_, value)| value)
    }

    /// The string under a key.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// Set a key.
    pub fn insert(&mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Value<'a>>) {
        let (key, value) = (key.into(), value.into());
        match self.find(&key) {
            Ok(index) => self.0[index].1 = value,
            Err(index) => self.0.insert(index, (key, value)),
        }
    }

    /// Remove a key.
    pub fn remove(&mut self, key: &str) -> Option<Value<'a>> {
        let index = self.find(key).ok()?;
        Some(self.0.remove(index).1)
    }

    /// The object under a key, put there (empty) if there is none.
    pub fn object_mut(&mut self, key: &str) -> Option<&mut Object<'a>> {
        if self.find(key).is_err() {
            self.insert(key.to_owned(), Object::new());
        }
        match self.get_mut(key) {
            Some(Value::Object(object)) => Some(object),
            _ => None,
        }
    }

    /// Entries in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value))
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Append the canonical form.
    pub fn write(&self, out: &mut String) {
        out.push('{');
        let mut first = true;
        for (key, value) in &self.0 {
            if !first {
                out.push(',');
            }
            first = false;
            write_string(key, out);
            out.push(':');
            value.write(out);
        }
        out.push('}');
    }

    /// The canonical form.
    #[must_use]
    pub fn to_canonical(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn from_unsorted(mut entries: Vec<(Cow<'a, str>, Value<'a>)>) -> Self {
        if !entries.windows(2).all(|pair| pair[0].0 < pair[1].0) {
            // Stable, so that of equal keys the last written stands last; it is the one to keep.
            entries.sort_by(|one, other| one.0.cmp(&other.0));
            entries.reverse();
            entries.dedup_by(|later, earlier| later.0 == earlier.0);
            entries.reverse();
        }
        Self(entries)
    }
}

/// Append a JSON string in canonical form.
pub fn write_string(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push('"');
    let mut from = 0;
    for (index, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            0x09 => "\\t",
            0x0A => "\\n",
            0x0C => "\\f",
            0x0D => "\\r",
            0x00..=0x1F => "",
            _ => continue,
        };
        out.push_str(&text[from..index]);
        from = index + 1;
        if escape.is_empty() {
            out.push_str("\\u00");
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        } else {
            out.push_str(escape);
        }
    }
    out.push_str(&text[from..]);
    out.push('"');
}

/// Read a JSON text.
///
/// # Errors
/// When it is not JSON, nested too deeply, or (strict) holds a number canonical JSON forbids.
pub fn parse(text: &str, numbers: Numbers) -> Result<Value<'_>, JsonError> {
    reader::read(text, numbers)
}

/// Read a JSON text which must be an object.
///
/// # Errors
/// As [`parse`], and when it is another value.
pub fn parse_object(text: &str, numbers: Numbers) -> Result<Object<'_>, JsonError> {
    match parse(text, numbers)? {
        Value::Object(object) => Ok(object),
        _ => Err(JsonError::NotAnObject),
    }
}
