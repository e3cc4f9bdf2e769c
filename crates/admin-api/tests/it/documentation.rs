//! The list of endpoints in the documentation is what there is.

use std::collections::BTreeMap;

/// The table: each path with its methods.
fn table() -> String {
    let mut paths: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let routes = samtal_admin_api::synapse_routes().list();
    for (method, path) in &routes {
        paths.entry(path).or_default().push(method.to_string());
    }
    let mut table = String::from("| method | path |\n| --- | --- |\n");
    for (path, mut methods) in paths {
        methods.sort();
        let path = path.trim_start_matches("/_synapse/admin");
        table.push_str(&format!("| {} | `{path}` |\n", methods.join(", ")));
    }
    table
}

#[test]
fn every_endpoint_for_tools_is_in_the_documentation() {
    let file = "../../docs/admin.md";
    let text = std::fs::read_to_string(file).unwrap();
    let (before, rest) = text.split_once("calls.\n\n").unwrap();
    let (_, after) = rest.split_once("\n\nNot offered").unwrap();
    let written = format!("{before}calls.\n\nBelow `/_synapse/admin`:\n\n{}\nNot offered{after}", table());
    if std::env::var_os("SAMTAL_WRITE_DOCS").is_some() {
        std::fs::write(file, &written).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(file).unwrap(),
        written,
        "docs/admin.md is out of date: SAMTAL_WRITE_DOCS=1 cargo test -p samtal-admin-api --test it documentation"
    );
}
