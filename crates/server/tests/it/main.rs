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
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

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

/// The status of the answer to what is written as it stands.
async fn status_of(server: &Server, request: &str) -> String {
    let url = server.running.urls().remove(0);
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.unwrap();
    line.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_request_names_one_host_or_is_refused() {
    let server = start("server.name = 'a.example'\n[[tenants]]\nname = 'b.example'").await;
    for (request, status) in [
        ("GET /_matrix/client/versions HTTP/1.1\r\nHost: a.example\r\n\r\n", "200"),
        ("GET /_matrix/client/versions HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n", "404"),
        ("GET /_matrix/client/versions HTTP/1.1\r\n\r\n", "400"),
        ("GET http://a.example/_matrix/client/versions HTTP/1.1\r\n\r\n", "400"),
        ("GET /_matrix/client/versions HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n", "400"),
        ("GET /_matrix/client/versions HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", "400"),
    ] {
        assert_eq!(status_of(&server, request).await, status, "{request:?}");
    }
}

#[tokio::test]
async fn a_browser_is_told_what_this_is_and_where_clients_connect() {
    let server =
        start("server.name = 'a.example'\n[[tenants]]\nname = 'b.example'\npublic_base_url = 'https://b/?<&'").await;
    let page = async |host| {
        let answer = server.get(host, "/").await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
        assert!(answer.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
        String::from_utf8(answer.body().to_vec()).unwrap()
    };
    let (a, b) = (page("a.example").await, page("b.example").await);
    assert!(a.contains("Matrix homeserver") && a.contains("<code>a.example</code>"), "{a}");
    assert!(!a.contains("https://a.example"), "nobody said that clients reach it there: {a}");
    assert!(b.contains("<code>https://b/?&lt;&amp;</code>"), "{b}");
}

#[tokio::test]
async fn who_logs_in_is_sent_to_another_address_only_if_the_operator_gave_one() {
    let text = "registration.open = true\nserver.name = 'a.example'\n[[tenants]]\nname = 'b.example'\npublic_base_url = 'https://b'";
    let server = start(text).await;
    let base_url = async |host| {
        let body = r#"{"username":"kim","password":"a-long-password","auth":{"type":"m.login.dummy"}}"#;
        let request = Request::post(format!("{}/_matrix/client/v3/register", server.running.urls()[0]));
        let answer = server.send(request.header("host", host).body(Bytes::from_static(body.as_bytes())).unwrap()).await;
        assert_eq!(answer.status(), StatusCode::OK);
        json(&answer)["well_known"]["m.homeserver"]["base_url"].clone()
    };
    assert_eq!(base_url("a.example").await, serde_json::Value::Null);
    assert_eq!(base_url("b.example").await, "https://b");
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
        "/nothing",
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
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
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
    let of_two = Request::get(format!("{}/_matrix/client/versions", server.running.urls()[0]));
    let of_two = of_two.header("host", "a.example").header("host", "b.example").body(Bytes::new()).unwrap();
    assert_eq!(server.send(of_two).await.status(), 400);
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
    source(server.dir.path(), "server.name = 'a.example'\nhttp.idle_ms = 1000\n[[tenants]]\nname = 'b.example'");
    for _ in 0..2 {
        let waiting = server.running.reload().await.unwrap();
        assert!(waiting.contains(&"http.idle_ms".to_owned()), "{waiting:?}");
    }
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
        assert!(lines.iter().any(|line| line.contains("a.example")), "{lines:?}");
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
    ask(UserCommand::ResetPassword { user: bob(), password: Some("a good one".to_owned()), keep_sessions: false })
        .await
        .unwrap();
    let nobody =
        UserCommand::ResetPassword { user: "@nobody:b.example".to_owned(), password: None, keep_sessions: false };
    assert_eq!(ask(nobody).await.unwrap_err(), "there is no @nobody:b.example");
    let homeservers = server.running.tenants().homeservers();
    let bob = ruma::UserId::parse(bob()).unwrap();
    assert!(homeservers[1].accounts.password_matches(&bob, "a good one").await.unwrap());
    server.running.end().await;
}

#[test]
fn a_mistyped_name_does_not_start_an_empty_server_beside_the_data() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("data/tenants/example.org")).unwrap();
    let take = |text: &str| Installation::take(source(dir.path(), text), Clock::system(), Random::system());
    let refused = take("server.name = 'exmaple.org'").unwrap_err();
    assert!(matches!(refused, ServerError::OtherNames { .. }), "{refused}");
    assert!(refused.to_string().contains("holds the data of example.org, and none of exmaple.org"), "{refused}");
    take("server.name = 'example.org'").unwrap();
    take("server.name = 'other.example'\n[[tenants]]\nname = 'example.org'").unwrap();
}

#[test]
fn a_clock_that_cannot_be_right_is_told_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(12_000);
    let refused = Installation::take(source(dir.path(), "server.name = 'a.example'"), clock, Random::system());
    assert!(refused.unwrap_err().to_string().contains("says 1970"));
    assert!(!dir.path().join("data").exists());
}

#[test]
fn files_that_cannot_be_used_are_found_before_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = |name: &str| {
        let signed = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        std::fs::write(dir.path().join(format!("{name}.crt")), signed.cert.pem()).unwrap();
        std::fs::write(dir.path().join(format!("{name}.key")), signed.signing_key.serialize_pem()).unwrap();
    };
    certificate("a");
    certificate("b");
    let wrong = |certificate: &str, key: &str| {
        let path = |file: &str| dir.path().join(file).display().to_string();
        let text = format!(
            "server.name = 'a.example'\noutgoing.trusted_certificates = ['{}']\nlisteners = [{{ tls = {{ certificate = \
             '{}', private_key = '{}' }} }}]",
            path("a.crt"),
            path(certificate),
            path(key)
        );
        let config = samtal_config::Config::from_text(&text).unwrap();
        let wrong = Installation::examine(&config).err().unwrap_or_default();
        wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(wrong("a.crt", "a.key"), "");
    assert!(wrong("a.crt", "b.key").contains("does not belong to"), "{}", wrong("a.crt", "b.key"));
    assert!(wrong("a.crt", "a.crt").contains("no private key in"), "{}", wrong("a.crt", "a.crt"));
    assert!(wrong("a.key", "a.key").contains("no certificate in"), "{}", wrong("a.key", "a.key"));
    assert!(wrong("none.crt", "a.key").contains("No such file"), "{}", wrong("none.crt", "a.key"));
}

#[tokio::test]
async fn an_address_that_is_taken_is_told_with_a_hint() {
    let server = start("server.name = 'a.example'").await;
    let dir = tempfile::tempdir().unwrap();
    let taken = server.running.urls()[0].replace("http://", "");
    let text = format!("server.name = 'b.example'\nlisteners = [{{ address = '{taken}' }}]");
    let data = dir.path().join("data");
    let file = dir.path().join("samtal.toml");
    std::fs::write(&file, format!("server.data_dir = '{}'\n{text}", data.display())).unwrap();
    let source = Source { file: Some(file), ..Source::default() };
    let installation = Installation::take(source, Clock::system(), Random::system()).unwrap();
    let error = Running::start(installation, Metrics::new(), None).await.map(|_| ()).unwrap_err();
    assert!(
        error.to_string().starts_with(&format!("cannot listen on {taken}: another program listens there")),
        "{error}"
    );
    server.running.end().await;
}

#[tokio::test]
async fn a_server_without_a_name_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let taken = Installation::take(source(dir.path(), ""), Clock::system(), Random::system());
    assert!(matches!(taken, Err(ServerError::NoTenant)));
}
