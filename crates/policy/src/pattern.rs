//! Glob patterns over server names.

use std::fmt;

use ruma::ServerName;
use serde::{Deserialize, Serialize};

/// A glob over server names: `*` is any run of characters, `?` is one. Letters compare without case, and a port is never looked at.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Pattern(String);

impl Pattern {
    /// A pattern from its text.
    pub fn new(text: &str) -> Self {
        Self(text.to_lowercase())
    }

    /// Whether the server's name, without its port, matches.
    pub fn matches(&self, server: &ServerName) -> bool {
        self.matches_lower(&server.host().to_lowercase())
    }

    /// Whether the text, which is in lower case, matches.
    pub(crate) fn matches_lower(&self, text: &str) -> bool {
        glob(self.0.as_bytes(), text.as_bytes())
    }

    /// Whether the text matches as it is.
    pub(crate) fn matches_text(&self, text: &str) -> bool {
        glob(self.0.as_bytes(), text.to_lowercase().as_bytes())
    }

    /// The pattern's text, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Pattern {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Greedy matching with one point of return: time is at most pattern times text, whatever a stranger wrote.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                back = Some((p, t));
                p += 1;
            }
            Some(&expected) if expected == b'?' || expected == byte => {
                p += 1;
                t += 1;
            }
            _ => match back {
                Some((star, from)) => {
                    back = Some((star, from + 1));
                    p = star + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_match() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "a.example", true),
            ("*.example", "a.example", true),
            ("*.example", "example", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "xxaxxbxx", false),
            ("EXAMPLE.com", "example.COM", true),
        ] {
            assert_eq!(Pattern::new(pattern).matches_text(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_hostile_pattern_costs_little() {
        let pattern = Pattern::new(&"*a".repeat(2_000));
        assert!(!pattern.matches_text(&"a".repeat(1_999)));
    }
}
