//! What is wrong with a configuration, told so that it can be put right.

use std::fmt;
use std::path::PathBuf;

use toml::Value;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what it should be; all problems that were found.
    #[error("{}", Lines(.0))]
    Wrong(Vec<Problem>),
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: a file, a variable of the environment, or an argument.
    pub place: String,
    /// Line and column in the file, both from 1.
    pub position: Option<(usize, usize)>,
    /// The option, as `server.name`; empty when the file as a whole is meant.
    pub option: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        if !self.option.is_empty() {
            write!(f, ": {}", self.option)?;
        }
        write!(f, ": {}", self.message)
    }
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// The word that is meant by a wrong one, as the end of a message.
pub(crate) fn choice_hint(words: &str, value: &Value) -> String {
    let Some(found) = value.as_str() else { return String::new() };
    match nearest(found, words.split('"').skip(1).step_by(2)) {
        Some(near) => format!("; is \"{near}\" meant?"),
        None => String::new(),
    }
}

/// A value for a message: never long, and never a table's content.
pub(crate) fn brief(value: &Value) -> String {
    match value {
        Value::Table(_) => "a table".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::String(text) if text.chars().count() > 40 => "a long text".to_owned(),
        other => other.to_string(),
    }
}

/// The known word that is nearest to a wrong one, if any is near.
pub(crate) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|word| (distance(wrong, word), word))
        .filter(|(distance, word)| *distance * 3 <= word.len().max(3))
        .min()
        .map(|(_, word)| word)
}

/// How many letters must be put in, taken out, changed, or exchanged with their neighbor.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    let mut previous = None;
    for (i, from) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let changed = at(&row, j) + usize::from(from != *to);
            let mut here = changed.min(at(&row, j + 1) + 1).min(at(&next, j) + 1);
            let neighbor = j.checked_sub(1).and_then(|before| b.get(before).copied());
            if previous == Some(*to) && neighbor == Some(from) {
                here = here.min(at(&before, j - 1) + 1);
            }
            next.push(here);
        }
        before = std::mem::replace(&mut row, next);
        previous = Some(from);
    }
    row.last().copied().unwrap_or_default()
}
