//! The table of endpoints in the documentation, compared with the routers both ways.
//!
//! `docs/endpoints.tsv` has each endpoint of the specification, with what is planned for those that are not built.
//! `docs/endpoints.md` is written from it and from the routers: `SAMTAL_WRITE_DOCS=1 cargo test -p samtal-server`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use samtal_edge::without_names;

/// Paths that no ruma type has: the assembly answers them.
const OWN: &[(&str, &str)] = &[
    ("GET", "/.well-known/matrix/client"),
    ("GET", "/.well-known/matrix/support"),
    ("GET", "/.well-known/matrix/server"),
];

const APIS: &[(&str, &str)] = &[
    ("client-server", "Client-Server API"),
    ("server-server", "Server-Server API"),
    ("application-service", "Application Service API (asked of application services)"),
    ("push-gateway", "Push Gateway API (asked of gateways)"),
    ("identity", "Identity Service API"),
];

struct Row {
    api: String,
    method: String,
    path: String,
    since: String,
    deprecated: bool,
    plan: String,
}

fn docs(name: &str) -> PathBuf {
    Path::new("../../docs").join(name)
}

fn rows() -> Vec<Row> {
    let text = std::fs::read_to_string(docs("endpoints.tsv")).unwrap();
    text.lines()
        .skip(1)
        .map(|line| {
            let mut cells = line.split('\t').map(str::to_owned);
            let mut cell = || cells.next().unwrap();
            Row { api: cell(), method: cell(), path: cell(), since: cell(), deprecated: cell() == "y", plan: cell() }
        })
        .collect()
}

/// What is served, with the parameters' names taken out.
fn served() -> BTreeSet<(String, String)> {
    samtal_client_api::routes()
        .list()
        .into_iter()
        .chain(samtal_federation_api::endpoints())
        .map(|(method, path)| (method.to_string(), path))
        .chain(OWN.iter().map(|(method, path)| ((*method).to_owned(), *path)))
        .map(|(method, path)| (method, plain(path)))
        .collect()
}

fn plain(path: &str) -> String {
    without_names(path.trim_end_matches('/')).replace("{*}", "{}")
}

/// Whether a path is an older or a proposal's form of what is in the specification.
fn is_other_form(path: &str) -> bool {
    let older = ["/_matrix/client/r0/", "/_matrix/client/api/", "/_matrix/media/r0/", "/_matrix/media/v1/"];
    let once = [
        "/_matrix/client/v1/refresh",
        "/_matrix/key/v2/server/{}",
        "/_matrix/client/v3/rooms/{}/send/{}",
        "/_matrix/client/v3/rooms/{}/redact/{}",
    ];
    // Without the empty state key; by key id; a service's withdrawal; as the accepted proposal of sliding sync has it; as
    // before v1.18; and what one suite posts.
    let further = [
        "/_matrix/client/v3/rooms/{}/state/{}",
        "/_matrix/key/v2/query/{}/{}",
        "/_matrix/client/v3/directory/list/appservice/{}/{}",
        "/_matrix/client/v4/sync",
        "/_matrix/federation/v1/send_join/{}/{}",
        "/_matrix/federation/v1/send_leave/{}/{}",
        "/_matrix/federation/v1/3pid/onbind",
    ];
    older.iter().any(|start| path.starts_with(start))
        || further.contains(&path)
        || once.contains(&path)
        || path.contains("/unstable/")
}

/// Endpoints that the specification does not have: another vendor's that tools use, and pages of ours that letters lead to.
fn is_of_a_vendor(path: &str) -> bool {
    path.starts_with("/_synapse/") || path.starts_with("/_samtal/client/")
}

#[test]
fn each_endpoint_of_the_specification_is_built_or_has_a_plan() {
    let served = served();
    let mut complaints = String::new();
    for row in rows() {
        let is_served = served.contains(&(row.method.clone(), plain(&row.path)));
        if !is_served && row.plan.is_empty() {
            let _ = writeln!(complaints, "{} {} is neither served nor planned", row.method, row.path);
        }
        if is_served && !row.plan.is_empty() {
            let _ = writeln!(complaints, "{} {} is served, but the table says: {}", row.method, row.path, row.plan);
        }
    }
    assert!(complaints.is_empty(), "docs/endpoints.tsv:\n{complaints}");
}

#[test]
fn each_endpoint_that_is_served_is_in_the_table() {
    let known: BTreeSet<(String, String)> = rows().into_iter().map(|row| (row.method, plain(&row.path))).collect();
    let unknown: Vec<_> = served()
        .into_iter()
        .filter(|(method, path)| {
            !known.contains(&(method.clone(), path.clone())) && !is_other_form(path) && !is_of_a_vendor(path)
        })
        .collect();
    assert!(unknown.is_empty(), "not in docs/endpoints.tsv: {unknown:#?}");
}

#[test]
fn the_page_is_fresh() {
    let fresh = page();
    if std::env::var_os("SAMTAL_WRITE_DOCS").is_some() {
        std::fs::write(docs("endpoints.md"), &fresh).unwrap();
    }
    let kept = std::fs::read_to_string(docs("endpoints.md")).unwrap_or_default();
    assert!(
        kept == fresh,
        "docs/endpoints.md is stale: SAMTAL_WRITE_DOCS=1 cargo test -p samtal-server --test endpoints"
    );
}

fn page() -> String {
    let (rows, served) = (rows(), served());
    let mut page = String::from(
        "# Endpoints\n\n\
         Every endpoint of the Matrix specification 1.19, and what Samtal does with it. This page is generated from\n\
         [endpoints.tsv](endpoints.tsv) and the routers; a test compares them both ways.\n",
    );
    for (api, heading) in APIS {
        let of_api: Vec<&Row> = rows.iter().filter(|row| row.api == *api).collect();
        let state = |row: &Row| {
            if served.contains(&(row.method.clone(), plain(&row.path))) { "done".to_owned() } else { row.plan.clone() }
        };
        let done = of_api.iter().filter(|row| state(row) == "done").count();
        let _ = write!(page, "\n## {heading}\n\n{done} of {} are served.\n\n", of_api.len());
        page.push_str("| method | path | since | state |\n| --- | --- | --- | --- |\n");
        for row in of_api {
            let deprecated = if row.deprecated { " (deprecated)" } else { "" };
            let _ = writeln!(page, "| {} | `{}` | {}{deprecated} | {} |", row.method, row.path, row.since, state(row));
        }
    }
    let mut more: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (method, path) in served.into_iter().filter(|(_, path)| is_of_a_vendor(path) || path.contains("/unstable/")) {
        more.entry(path).or_default().insert(method);
    }
    page.push_str("\n## Beyond the specification\n\nProposals by their unstable names, and other vendors' endpoints that tools use.\n\n");
    page.push_str("| methods | path |\n| --- | --- |\n");
    for (path, methods) in more {
        let methods: Vec<String> = methods.into_iter().collect();
        let _ = writeln!(page, "| {} | `{path}` |", methods.join(", "));
    }
    page
}
