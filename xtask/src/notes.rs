//! Points that homeservers often get wrong: each one in `docs/notes.md` has a test with its number in the name, and each
//! such test has its point there.

use std::collections::BTreeSet;

use crate::tree::Tree;

const PAGE: &str = "docs/notes.md";

/// Complains about points without a test, and tests without a point.
pub(crate) fn check(tree: &Tree) -> Vec<String> {
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
