//! The reader itself: one pass over the text, borrowing what needs no unescaping.

use std::borrow::Cow;

use super::{INT_MAX, JsonError, Numbers, Object, Value};
use crate::limits::JSON_NESTING_MAX;

pub(super) fn read(text: &str, numbers: Numbers) -> Result<Value<'_>, JsonError> {
    let mut reader = Reader { text, at: 0, numbers };
    reader.space();
    let value = reader.value(JSON_NESTING_MAX)?;
    reader.space();
    if reader.at == text.len() { Ok(value) } else { Err(JsonError::Syntax(reader.at)) }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    numbers: Numbers,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn fail<T>(&self) -> Result<T, JsonError> {
        Err(JsonError::Syntax(self.at))
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, JsonError> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(value)
        } else {
            self.fail()
        }
    }

    fn value(&mut self, nesting: usize) -> Result<Value<'a>, JsonError> {
        match self.peek() {
            Some(b'{') => self.object(nesting),
            Some(b'[') => self.array(nesting),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.fail(),
        }
    }

    fn object(&mut self, nesting: usize) -> Result<Value<'a>, JsonError> {
        let inner = nesting.checked_sub(1).ok_or(JsonError::Nesting)?;
        self.at += 1;
        let mut entries = Vec::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(Object(entries)));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return self.fail();
            }
            let key = self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return self.fail();
            }
            self.at += 1;
            self.space();
            entries.push((key, self.value(inner)?));
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Object(Object::from_unsorted(entries)));
                }
                _ => return self.fail(),
            }
        }
    }

    fn array(&mut self, nesting: usize) -> Result<Value<'a>, JsonError> {
        let inner = nesting.checked_sub(1).ok_or(JsonError::Nesting)?;
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            self.space();
            items.push(self.value(inner)?);
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::Array(items));
                }
                _ => return self.fail(),
            }
        }
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == from { self.fail() } else { Ok(()) }
    }

    fn number(&mut self) -> Result<Value<'a>, JsonError> {
        let from = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let lexeme = &self.text[from..self.at];
        if self.numbers == Numbers::Strict {
            let in_range = |number: i64| (-INT_MAX..=INT_MAX).contains(&number);
            if !whole || lexeme == "-0" || !lexeme.parse().is_ok_and(in_range) {
                return Err(JsonError::Number(from));
            }
        }
        Ok(Value::Number(Cow::Borrowed(if lexeme == "-0" { "0" } else { lexeme })))
    }

    fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        self.at += 1;
        let from = self.at;
        let bytes = self.text.as_bytes();
        let mut owned: Option<String> = None;
        let mut plain_from = from;
        loop {
            match bytes.get(self.at) {
                Some(b'"') => {
                    let plain = &self.text[plain_from..self.at];
                    self.at += 1;
                    return Ok(match owned {
                        None => Cow::Borrowed(plain),
                        Some(mut text) => {
                            text.push_str(plain);
                            Cow::Owned(text)
                        }
                    });
                }
                Some(b'\\') => {
                    let text = owned.get_or_insert_with(String::new);
                    text.push_str(&self.text[plain_from..self.at]);
                    self.at += 1;
                    let letter = self.escape()?;
                    text.push(letter);
                    plain_from = self.at;
                }
                Some(0x00..=0x1F) | None => return self.fail(),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let letter = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let first = self.hex4()?;
                let code = if (0xD800..0xDC00).contains(&first) {
                    // The other half of a surrogate pair has to follow.
                    if !self.text.as_bytes()[self.at..].starts_with(b"\\u") {
                        return self.fail();
                    }
                    self.at += 2;
                    let second = self.hex4()?;
                    if !(0xDC00..0xE000).contains(&second) {
                        return self.fail();
                    }
                    0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00)
                } else {
                    first
                };
                return char::from_u32(code).ok_or(JsonError::Syntax(self.at));
            }
            _ => return self.fail(),
        };
        self.at += 1;
        Ok(letter)
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let mut code = 0;
        for digit in digits.ok_or(JsonError::Syntax(self.at))? {
            let digit = char::from(*digit).to_digit(16).ok_or(JsonError::Syntax(self.at))?;
            code = code * 16 + digit;
        }
        self.at += 4;
        Ok(code)
    }
}
