//! The documentation: links between its files lead somewhere.
//!
//! That generated pages are fresh is tested where they are generated from (`cargo test -p samtal-config`).

use std::path::Path;

use crate::tree::Tree;

/// Complains about relative links to what is not there.
pub(crate) fn check(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        let folder = tree.root.join(&file.path).parent().map(Path::to_path_buf).unwrap_or_default();
        for (number, line) in file.text.lines().enumerate() {
            for target in links(line) {
                let path = target.split('#').next().unwrap_or_default();
                if !path.is_empty()
                    && !path.contains("://")
                    && !path.starts_with("mailto:")
                    && !folder.join(path).exists()
                {
                    complaints.push(format!("{}:{}: {target} is not there", file.path, number + 1));
                }
            }
        }
    }
    complaints
}

/// The targets of `[text](target)` in a line.
fn links(line: &str) -> Vec<&str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.trim()).collect()
}
