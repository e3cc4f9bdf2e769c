//! A whole server over real sockets on the loopback address.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use samtal_config::Source;
use samtal_http::{Client, ClientOptions, FetchLimits};
use samtal_kit::{Clock, Random};
use samtal_server::control::{self, Command, UserCommand};
use samtal_server::{Installation, Running, ServerError};
use samtal_telemetry::Metrics;

struct Server {
    running: Running,
    dir: tempfile::TempDir,
    client: Client,
}

fn source(dir: &Path, text: &str) -> Source {
    let file = dir.join("samtal.toml");
    let data = dir.join("data");
    let head = format!(
        "server.data_dir = '{}'\nlisteners = [{{ address = '127.0.0.1:0', serve = ['client', 'federation', 'metrics'] }}]\n",
        data.display()
    );
    std::fs::write(&file, head + text).unwrap();
    Source { file: Some(file), ..Source::default() }
}

async fn start(text: &str) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let installation = Installation::take(source(dir.path(), text), Clock::system(), Random::system()).unwrap();
    let running = Running::start(installation, Metrics::new(), None).await.unwrap();
    Server { running, dir, client: Client::new(&ClientOptions::default()).unwrap() }
}

impl Server {
    async fn get(&self, host: &str, path: &str) -> Response<Bytes> {
        let request = Request::get(format!("{}{path}", self.running.urls()[0]));
        let request = if host.is_empty() { request } else { request.header("host", host) };
        self.send(request.body(Bytes::new()).unwrap()).await
    }

    async fn send(&self, request: Request<Bytes>) -> Response<Bytes> {
        let limits = FetchLimits { time: Duration::from_secs(20), bytes_max: 1_000_000 };
        self.client.fetch(request, limits).await.unwrap()
    }
}

fn json(response: &Response<Bytes>) -> serde_json::Value {
    serde_json::from_slice(response.body()).unwrap()
}

#[tokio::test]
async fn a_server_with_a_name_only_answers_and_ends() {
    let server = start("server.name = 'a.example'").await;
    assert_eq!(server.get("", "/health").await.status(), 200);
    assert_eq!(server.get("", "/ready").await.status(), 200);
    let found = server.get("anything.example", "/.well-known/matrix/client").await;
    assert_eq!(json(&found)["m.homeserver"]["base_url"], "https://a.example");
    let metrics = server.get("", "/metrics").await;
    assert!(String::from_utf8_lossy(metrics.body()).contains("samtal_tenants 1"));
    server.running.end().await;
}

#[tokio::test]
async fn unknown_paths_and_methods_get_the_specifications_errors() {
    let server = start("server.name = 'a.example'").await;
    for path in [
        "/",
        "/_matrix/client/v3/nothing",
        "/_matrix/federation/v1/nothing",
        "/_matrix/unknown",
        "/_matrix/media/v3/nothing",
    ] {
        let answer = server.get("", path).await;
        assert_eq!(
            (answer.status(), json(&answer)["errcode"].as_str()),
            (StatusCode::NOT_FOUND, Some("M_UNRECOGNIZED")),
            "{path}"
        );
        assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    }
    let request = Request::delete(format!("{}/_matrix/client/versions", server.running.urls()[0]));
    let answer = server.send(request.body(Bytes::new()).unwrap()).await;
    // 404 as long as the endpoint is not there at all
    assert!([404, 405].contains(&answer.status().as_u16()));
    assert_eq!(json(&answer)["errcode"], "M_UNRECOGNIZED");
    server.running.end().await;
}

#[tokio::test]
async fn tenants_are_told_apart_by_host() {
    let server = start("[[tenants]]\nname = 'a.example'\n[[tenants]]\nname = 'b.example:8448'\npublic_base_url = 'https://chat.b.example'\nfederation_address = 'fed.b.example:1'").await;
    let base = |answer: Response<Bytes>| json(&answer)["m.homeserver"]["base_url"].as_str().map(str::to_owned);
    for (host, url) in [
        ("a.example", Some("https://a.example")),
        ("A.example:1234", Some("https://a.example")),
        ("b.example:8448", Some("https://chat.b.example")),
        ("b.example", Some("https://chat.b.example")),
        ("chat.b.example", Some("https://chat.b.example")),
        ("fed.b.example:1", Some("https://chat.b.example")),
        ("c.example", None),
    ] {
        assert_eq!(base(server.get(host, "/.well-known/matrix/client").await).as_deref(), url, "{host}");
    }
    assert_eq!(json(&server.get("b.example", "/.well-known/matrix/server").await)["m.server"], "fed.b.example:1");
    assert_eq!(server.get("a.example", "/.well-known/matrix/server").await.status(), 404);
    server.running.end().await;
}

#[tokio::test]
async fn two_processes_never_share_a_data_directory() {
    let server = start("server.name = 'a.example'").await;
    let second =
        Installation::take(source(server.dir.path(), "server.name = 'a.example'"), Clock::system(), Random::system());
    assert!(matches!(second, Err(ServerError::InUse(_))), "{second:?}");
    server.running.end().await;
    Installation::take(source(server.dir.path(), "server.name = 'a.example'"), Clock::system(), Random::system())
        .unwrap();
}

#[tokio::test]
async fn a_reload_takes_in_tenants_and_addresses_and_refuses_what_is_wrong() {
    let mut server = start("server.name = 'a.example'\ncontact.email = 'x@a.example'").await;
    assert_eq!(
        json(&server.get("", "/.well-known/matrix/support").await)["contacts"][0]["email_address"],
        "x@a.example"
    );
    source(
        server.dir.path(),
        "server.name = 'a.example'\nserver.public_base_url = 'http://here/'\n[[tenants]]\nname = 'b.example'",
    );
    server.running.reload().await.unwrap();
    assert_eq!(
        json(&server.get("a.example", "/.well-known/matrix/client").await)["m.homeserver"]["base_url"],
        "http://here"
    );
    assert_eq!(
        json(&server.get("b.example", "/.well-known/matrix/client").await)["m.homeserver"]["base_url"],
        "https://b.example"
    );
    assert_eq!(server.get("a.example", "/.well-known/matrix/support").await.status(), 404);
    source(server.dir.path(), "server.name = 'a.example'\n[rums]");
    assert!(server.running.reload().await.is_err());
    assert_eq!(server.get("b.example", "/.well-known/matrix/client").await.status(), 200);
    source(server.dir.path(), "server.name = 'a.example'");
    server.running.reload().await.unwrap();
    assert_eq!(
        json(&server.get("b.example", "/.well-known/matrix/client").await)["m.homeserver"]["base_url"],
        "https://a.example"
    );
    server.running.end().await;
}

#[tokio::test]
async fn a_backup_is_taken_while_the_server_runs_and_when_it_does_not() {
    let server = start("server.name = 'a.example'").await;
    let source = source(server.dir.path(), "server.name = 'a.example'");
    for name in ["first", "second"] {
        let directory = server.dir.path().join(name);
        let lines = control::run(&source, Command::Backup { directory: directory.clone() }).await.unwrap().unwrap();
        assert_eq!(lines.len(), 1);
        assert!(std::fs::metadata(directory.join("a.example/samtal.db")).unwrap().len() > 0);
    }
    let dir = server.dir;
    server.running.end().await;
    let directory = dir.path().join("third");
    control::run(&source, Command::Backup { directory: directory.clone() }).await.unwrap().unwrap();
    assert!(directory.join("a.example/samtal.db").exists());
}

#[tokio::test]
async fn users_are_made_listed_locked_and_given_passwords() {
    let server = start("[[tenants]]\nname = 'a.example'\n[[tenants]]\nname = 'b.example'").await;
    let source = source(server.dir.path(), "[[tenants]]\nname = 'a.example'\n[[tenants]]\nname = 'b.example'");
    let ask = async |command| control::run(&source, Command::User(command)).await.unwrap();
    let create = |user: &str, admin| UserCommand::Create { user: user.to_owned(), password: None, admin };
    let made = ask(create("@Alice:a.example", true)).await.unwrap();
    assert_eq!(made[0], "@alice:a.example created");
    assert!(made[1].starts_with("password: "));
    ask(create("@bob:b.example", false)).await.unwrap();
    assert!(ask(create("@bob:b.example", false)).await.unwrap_err().contains("taken"));
    assert!(ask(create("bob", false)).await.unwrap_err().contains("several tenants"));
    assert!(ask(create("@x:c.example", false)).await.unwrap_err().contains("not served here"));
    let bob = || "@bob:b.example".to_owned();
    ask(UserCommand::Lock { user: bob(), on: true }).await.unwrap();
    ask(UserCommand::Suspend { user: bob(), on: true }).await.unwrap();
    let list = |tenant: Option<&str>| UserCommand::List { tenant: tenant.map(str::to_owned) };
    assert_eq!(ask(list(None)).await.unwrap(), ["@alice:a.example\tadmin", "@bob:b.example\tlocked,suspended"]);
    assert_eq!(ask(list(Some("a.example"))).await.unwrap().len(), 1);
    ask(UserCommand::Lock { user: bob(), on: false }).await.unwrap();
    ask(UserCommand::ResetPassword { user: bob(), password: Some("a good one".to_owned()) }).await.unwrap();
    let nobody = UserCommand::ResetPassword { user: "@nobody:b.example".to_owned(), password: None };
    assert_eq!(ask(nobody).await.unwrap_err(), "there is no @nobody:b.example");
    let homeservers = server.running.tenants().homeservers();
    let bob = ruma::UserId::parse(bob()).unwrap();
    assert!(homeservers[1].accounts.password_matches(&bob, "a good one").await.unwrap());
    server.running.end().await;
}

#[tokio::test]
async fn a_server_without_a_name_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let taken = Installation::take(source(dir.path(), ""), Clock::system(), Random::system());
    assert!(matches!(taken, Err(ServerError::NoTenant)));
}
