//! Every SQL text: parameters first appear in ascending order, and tables are touched by their owner only.
//!
//! SQLite numbers parameters by first appearance, PostgreSQL by what they are called; one text serves both only if
//! the two agree. A table's owner is the crate whose schema creates it.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{File, Tree};

/// Tables of the engine itself, which any crate's statement may name.
const SHARED_OWNER: &str = "db";

/// Complains about parameters out of order and about foreign tables.
pub(crate) fn check(tree: &Tree) -> Vec<String> {
    let sources: Vec<(&File, String)> = tree
        .rust()
        .filter_map(|file| Some((file, file.path.strip_prefix("crates/")?.split('/').next()?.to_owned())))
        .collect();
    let mut owners: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, name) in &sources {
        for table in words_after(&file.text, &["CREATE TABLE IF NOT EXISTS", "CREATE TABLE", "CREATE VIRTUAL TABLE"]) {
            owners.entry(table).or_default().insert(name.clone());
        }
    }
    let mut complaints = Vec::new();
    for (table, by) in owners.iter().filter(|(_, by)| by.len() > 1) {
        if !by.contains(SHARED_OWNER) {
            complaints.push(format!("table {table} is created by several crates: {by:?}"));
        }
    }
    for (file, name) in &sources {
        for (line, text) in statements(&file.text) {
            if let Some(wrong) = out_of_order(&text) {
                complaints.push(format!("{}:{line}: ${wrong} appears before ${}", file.path, wrong - 1));
            }
            let own: BTreeSet<String> = common_tables(&text);
            for table in words_after(&text, &["FROM", "JOIN", "INTO", "UPDATE"]) {
                if own.contains(&table) {
                    continue;
                }
                if let Some(by) = owners.get(&table)
                    && !by.contains(name)
                    && !by.contains(SHARED_OWNER)
                {
                    complaints.push(format!("{}:{line}: {name} touches {table}, a table of {by:?}", file.path));
                }
            }
        }
    }
    complaints
}

/// The first parameter whose predecessor has not appeared yet.
fn out_of_order(text: &str) -> Option<u32> {
    let mut highest = 0;
    for part in text.split('$').skip(1) {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        let Ok(number) = digits.parse::<u32>() else { continue };
        if number > highest + 1 {
            return Some(number);
        }
        highest = highest.max(number);
    }
    None
}

/// Names that a statement defines itself, by `WITH name AS (` or `name(columns) AS (`.
fn common_tables(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices(" AS (") {
        let before = text[..at].trim_end();
        let before = match before.strip_suffix(')') {
            Some(columns) => columns.rsplit_once('(').map_or(columns, |(name, _)| name),
            None => before,
        };
        names.extend(before.rsplit(|c: char| !is_name(c)).next().map(str::to_lowercase));
    }
    names
}

/// The identifiers that directly follow any of the keywords.
fn words_after(text: &str, keywords: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for keyword in keywords {
        for (at, _) in text.match_indices(keyword) {
            let rest = &text[at + keyword.len()..];
            if !rest.starts_with([' ', '\n']) || text[..at].ends_with(is_name) {
                continue;
            }
            let rest = rest.trim_start().trim_start_matches("IF NOT EXISTS ");
            let word: String = rest.chars().take_while(|c| is_name(*c)).collect();
            if !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
                found.insert(word);
            }
        }
    }
    found
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Each `sql!(…)` with its line and all string literals in it put together; each literal of `Sql::each(…)` alone.
fn statements(source: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (start, together) in [("sql!(", true), ("Sql::each(", false)] {
        for (at, _) in source.match_indices(start) {
            let line = source[..at].matches('\n').count() + 1;
            let literals = literals_in_parentheses(&source[at + start.len()..]);
            if together {
                found.push((line, literals.concat()));
            } else {
                found.extend(literals.into_iter().map(|text| (line, text)));
            }
        }
    }
    found
}

/// The string literals up to the parenthesis that closes the one before `source`.
fn literals_in_parentheses(source: &str) -> Vec<String> {
    let mut literals = Vec::new();
    let mut depth = 1;
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            '"' => literals.push(literal(&mut chars)),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    literals
}

fn literal(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut text = String::new();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next() {
                Some('\n') => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => break,
            },
            _ => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_may_come_again_but_not_early() {
        assert_eq!(out_of_order("a = $1 AND b = $2 AND c = $1"), None);
        assert_eq!(out_of_order("a = $2 AND b = $1"), Some(2));
    }

    #[test]
    fn literals_are_put_together_and_lines_told() {
        let source = "x\nsql!(concat!(\"SELECT a \\\n   FROM t \", COLUMNS, \"WHERE (b = $1)\"));";
        assert_eq!(statements(source), [(2, "SELECT a FROM t WHERE (b = $1)".to_owned())]);
    }

    #[test]
    fn tables_that_a_statement_defines_are_its_own() {
        let text = "WITH RECURSIVE chain(id) AS (SELECT 1), other AS (SELECT 2) SELECT * FROM chain JOIN other";
        let own = common_tables(text);
        assert!(own.contains("chain") && own.contains("other"));
        assert_eq!(words_after("INSERT INTO account (a) SELECT b FROM device", &["FROM", "INTO"]).len(), 2);
    }
}
