//! What the pages say of tests: each point of `docs/notes.md`, which homeservers often get wrong, has a test with its number
//! in the name, and each such test has its point there; each test that ARCHITECTURE.md names for an invariant, or
//! docs/federation.md for a kind of harm, exists.

use std::collections::BTreeSet;

use crate::tree::Tree;

const PAGE: &str = "docs/notes.md";
/// Pages whose tables name tests.
const TABLES: [&str; 2] = ["ARCHITECTURE.md", "docs/federation.md"];

/// Complains about points without a test, tests without a point, and tables that name a test which is gone.
pub(crate) fn check(tree: &Tree) -> Vec<String> {
    let mut complaints = points(tree);
    complaints.extend(TABLES.iter().flat_map(|page| table(tree, page)));
    complaints
}

/// Tests that a page's table names and that are not there.
fn table(tree: &Tree, page: &str) -> Vec<String> {
    let Some(file) = tree.files.iter().find(|file| file.path == page) else {
        return vec![format!("{page} is not there")];
    };
    let rows = file.text.lines().filter(|line| line.starts_with("| "));
    let named = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).filter(|name| is_test_name(name));
    named
        .filter(|name| !tree.rust().any(|file| file.text.contains(&format!("fn {name}("))))
        .map(|name| format!("{page}: no test is named {name}"))
        .collect()
}

/// A sentence in lower case: tests are named so, lints and files are not.
fn is_test_name(name: &str) -> bool {
    name.matches('_').count() > 2 && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn points(tree: &Tree) -> Vec<String> {
    let Some(page) = tree.files.iter().find(|file| file.path == PAGE) else {
        return vec![format!("{PAGE} is not there")];
    };
    let listed: BTreeSet<u32> = page.text.lines().filter_map(row).collect();
    let tested: BTreeSet<u32> =
        tree.rust().filter(|file| file.path.starts_with("crates/")).flat_map(|file| numbers(&file.text)).collect();
    let untested = listed.difference(&tested).map(|number| format!("{PAGE}: no test is named note_{number:02}_…"));
    let unlisted = tested.difference(&listed).map(|number| format!("{PAGE}: {number} is tested and not there"));
    untested.chain(unlisted).collect()
}

/// The number of a row in the page's table.
fn row(line: &str) -> Option<u32> {
    line.strip_prefix('|')?.split('|').next()?.trim().parse().ok()
}

/// The numbers in a file's names of tests: `note_13_…`, `note_13_and_14_…`.
fn numbers(text: &str) -> Vec<u32> {
    let names = text.split("fn note_").skip(1);
    names.flat_map(|name| name.split('_').filter(|word| *word != "and").map_while(|word| word.parse().ok())).collect()
}
