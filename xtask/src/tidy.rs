//! What a reader would stumble over: files without a first sentence, things left for later, paths of somebody's machine.

use crate::tree::{File, Tree};

/// A Rust file over this is two files; over the other it is listed but let through.
const LINES_MAX: usize = 1_200;

/// What has no place in any file that is kept. Written in two parts, so that this file passes.
const LEFT_BEHIND: &[(&str, &str, &str)] = &[
    ("TO", "DO", "work left undone belongs into an issue"),
    ("FIX", "ME", "work left undone belongs into an issue"),
    ("XX", "X:", "work left undone belongs into an issue"),
    ("todo", "!(", "an endpoint that is not built answers M_UNRECOGNIZED"),
    ("unimplemented", "!(", "an endpoint that is not built answers M_UNRECOGNIZED"),
    ("dbg", "!(", "left over from looking for a fault"),
    ("/wo", "rk/", "a path of one machine"),
    ("/ro", "ot/", "a path of one machine"),
    ("/ho", "me/", "a path of one machine"),
    ("registry.np", "mjs", "a registry's host"),
    ("files.python", "hosted", "a registry's host"),
    ("static.cra", "tes.io", "a registry's host"),
    ("proxy.gol", "ang", "a registry's host"),
];

/// Complains about headers, leftovers and overlong files.
pub(crate) fn check(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in &tree.files {
        if file.path.ends_with(".rs") {
            complaints.extend(header(file));
            let lines = file.text.lines().count();
            if lines > LINES_MAX {
                complaints.push(format!("{}: {lines} lines, more than {LINES_MAX}", file.path));
            }
        }
        if !file.path.ends_with(".lock") && !file.path.ends_with("package-lock.json") {
            complaints.extend(left_behind(file));
        }
    }
    complaints
}

fn header(file: &File) -> Option<String> {
    let first = file.text.lines().next().unwrap_or_default();
    (!first.starts_with("//!")).then(|| format!("{}: does not open with `//!` and what it holds", file.path))
}

fn left_behind(file: &File) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for (a, b, why) in LEFT_BEHIND {
            let word = format!("{a}{b}");
            if line.match_indices(&word).any(|(at, _)| stands_alone(line, at, &word)) {
                complaints.push(format!("{}:{}: `{word}`: {why}", file.path, number + 1));
            }
        }
    }
    complaints
}

/// Whether the text before and after is no part of the same word.
fn stands_alone(line: &str, at: usize, word: &str) -> bool {
    let letter = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let (before, after) = (line[..at].chars().next_back(), line[at + word.len()..].chars().next());
    if word.starts_with('/') {
        return !matches!(before, Some('.' | '}' | ')'));
    }
    let whole = !word.ends_with(|c: char| c.is_ascii_alphanumeric()) || !letter(after);
    whole && !letter(before)
}
