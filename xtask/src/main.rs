//! Checks of the source that neither the compiler nor clippy makes: `cargo xtask floors|sql|docs|notes|tidy|all`.
//!
//! Each check is a function from the tree to a list of complaints, one line each.

mod docs;
mod floors;
mod notes;
mod sql;
mod tidy;
mod tree;

use std::process::ExitCode;

use tree::Tree;

/// A check: its name, what it sees to, and what it finds wrong.
type Check = (&'static str, &'static str, fn(&Tree) -> Vec<String>);

const CHECKS: &[Check] = &[
    ("floors", "imports point down, without cycles", floors::check),
    ("sql", "parameters come in order, tables stay with their owner", sql::check),
    ("docs", "links lead somewhere", docs::check),
    ("notes", "each point of docs/notes.md, and each test that the map names, is there", notes::check),
    ("tidy", "files say what they are, and nothing is left behind", tidy::check),
];

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let checks: Vec<&Check> = CHECKS.iter().filter(|(name, ..)| wanted == "all" || wanted == *name).collect();
    if checks.is_empty() {
        eprintln!("cargo xtask CHECK, or `all`:");
        for (name, about, _) in CHECKS {
            eprintln!("  {name:<8}{about}");
        }
        return ExitCode::from(2);
    }
    let tree = match Tree::read() {
        Ok(tree) => tree,
        Err(error) => {
            eprintln!("the source cannot be read: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut code = ExitCode::SUCCESS;
    for (name, about, check) in checks {
        let complaints = check(&tree);
        println!("{name}: {about}: {}", if complaints.is_empty() { "yes" } else { "no" });
        for complaint in &complaints {
            println!("  {complaint}");
            code = ExitCode::FAILURE;
        }
    }
    code
}
