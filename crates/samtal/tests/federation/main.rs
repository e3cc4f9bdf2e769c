//! `samtal federation` against a running server: two tenants in one process, and rules that hold the moment the command ends.

mod partial;

use std::{path::Path, process::Stdio, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use samtal_db::{Options, testing::drop_schema};
use samtal_http::{Client, ClientOptions, FetchLimits};
use samtal_kit::Random;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

const LIMITS: FetchLimits = FetchLimits { time: Duration::from_secs(60), bytes_max: 16 << 20 };

/// A configuration with two tenants, and the process that serves them.
struct Hub {
    directory: tempfile::TempDir,
    names: [String; 2],
    database: Option<String>,
}

struct Serving {
    child: Child,
    url: String,
    http: Client,
}

impl Hub {
    fn new(database: Option<String>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let lot = Random::system().alphanumeric(10).to_lowercase();
        let names = [format!("north-{lot}.example"), format!("south-{lot}.example")];
        let mut config = format!(
            "server.data_dir = '{}'\nregistration.open = true\n\
             listeners = [{{ address = '127.0.0.1:0', serve = ['client', 'metrics'] }}]\n",
            directory.path().join("data").display()
        );
        if let Some(url) = &database {
            config += &format!("database.url = '{url}'\n");
        }
        for name in &names {
            config += &format!("[[tenants]]\nname = '{name}'\n");
        }
        std::fs::create_dir(directory.path().join("data")).unwrap();
        std::fs::write(directory.path().join("samtal.toml"), config).unwrap();
        Self { directory, names, database }
    }

    fn config(&self) -> std::path::PathBuf {
        self.directory.path().join("samtal.toml")
    }

    async fn start(&self) -> Serving {
        let mut child = command(&self.config(), &["serve"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().expect("the server says that it is ready");
        let url = line.split_whitespace().last().unwrap().to_owned();
        Serving { child, url, http: Client::new(&ClientOptions::default()).unwrap() }
    }

    /// `samtal federation --tenant NAME ARGS`: what it prints, or what it complains of.
    async fn federation(&self, tenant: &str, args: &[&str]) -> Result<String, String> {
        let args: Vec<&str> = ["federation", "--tenant", tenant].into_iter().chain(args.iter().copied()).collect();
        let output = command(&self.config(), &args).output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    async fn remove(self) {
        let Some(url) = self.database else { return };
        for name in &self.names {
            drop_schema(&Options::Postgres { url: url.clone(), schema: schema_of(name), connections_max: 1 }).await;
        }
    }
}

fn schema_of(tenant: &str) -> String {
    format!("samtal_{}", tenant.replace('.', "_").replace('-', "_x2d_"))
}

fn command(config: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_samtal"));
    command.arg("--config").arg(config).args(args).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

impl Serving {
    async fn call(&self, host: &str, method: Method, path: &str, token: &str, body: Value) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url)).header("host", host);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let answer = self.http.fetch(request.body(body).unwrap(), LIMITS).await.unwrap();
        (answer.status(), serde_json::from_slice(answer.body()).unwrap_or_default())
    }

    async fn register(&self, host: &str, name: &str) -> String {
        let body = json!({ "username": name, "password": "correct horse", "auth": { "type": "m.login.dummy" } });
        let (status, answer) = self.call(host, Method::POST, "/_matrix/client/v3/register", "", body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// Asks one tenant for a user of the other.
    async fn profile(&self, host: &str, token: &str, user: &str) -> StatusCode {
        let path = format!("/_matrix/client/v3/profile/{user}");
        self.call(host, Method::GET, &path, token, Value::Null).await.0
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_hold_at_once_in_a_running_server_on_sqlite() {
    rules_hold(Hub::new(None)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_hold_at_once_in_a_running_server_on_postgres() {
    let Ok(url) = std::env::var("SAMTAL_TEST_POSTGRES") else { return };
    rules_hold(Hub::new(Some(url))).await;
}

async fn rules_hold(hub: Hub) {
    let serving = hub.start().await;
    let [north, south] = &hub.names;
    let token = serving.register(north, "alice").await;
    serving.register(south, "bob").await;
    let bob = format!("@bob:{south}");
    assert_eq!(serving.profile(north, &token, &bob).await, StatusCode::OK);

    // South shuts its door to all names like North's.
    let said = hub.federation(south, &["deny", "north-*.example", "--reason", "spam"]).await.unwrap();
    assert!(said.contains("deny north-*.example (spam)"), "{said}");
    assert_ne!(serving.profile(north, &token, &bob).await, StatusCode::OK);
    let why = hub.federation(south, &["explain", north]).await.unwrap();
    assert!(why.contains("denied, the deny list names it as north-*.example (stored): spam"), "{why}");
    assert!(why.contains("1 × request inbound"), "{why}");

    // A kind of its own: the questions are let in again, the files are not.
    hub.federation(south, &["remove", "north-*.example"]).await.unwrap();
    hub.federation(south, &["deny", north, "--kind", "media", "--direction", "inbound"]).await.unwrap();
    assert_eq!(serving.profile(north, &token, &bob).await, StatusCode::OK);
    let path = format!("/_matrix/client/v1/media/download/{south}/nothing");
    serving.call(north, Method::GET, &path, &token, Value::Null).await;
    let refusals = hub.federation(south, &["refusals", "--json"]).await.unwrap();
    let refusals: Value = serde_json::from_str(&refusals).unwrap();
    let kinds: Vec<&str> =
        refusals["refusals"].as_array().unwrap().iter().map(|refusal| refusal["action"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["media", "request"], "the latest first");

    // Closed, and nobody is named: nobody.
    hub.federation(south, &["default", "closed"]).await.unwrap();
    assert_ne!(serving.profile(north, &token, &bob).await, StatusCode::OK);
    let explained = hub.federation(south, &["explain", "anybody.example", "--json"]).await.unwrap();
    let explained: Value = serde_json::from_str(&explained).unwrap();
    assert!(explained["decisions"].as_array().unwrap().iter().all(|decision| decision["rule"] == "closed"));
    let listed = hub.federation(south, &["list", "--json"]).await.unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["stored"]["default_inbound"], "closed");
    assert_eq!(listed["stored"]["rules"][0]["action"], "media");

    // What is wrong is said.
    assert!(hub.federation(south, &["remove", "nobody.example"]).await.unwrap_err().contains("no stored rule"));
    assert!(hub.federation(south, &["deny", "a.example:8448"]).await.unwrap_err().contains("without a port"));
    assert!(hub.federation("east.example", &["list"]).await.unwrap_err().contains("is not served here"));

    // The answers are counted.
    let request = Request::get(format!("{}/metrics", serving.url)).body(Bytes::new()).unwrap();
    let metrics = serving.http.fetch(request, LIMITS).await.unwrap();
    let metrics = String::from_utf8(metrics.body().to_vec()).unwrap();
    let line = metrics.lines().find(|line| {
        line.starts_with("samtal_federation_decisions_total")
            && ["inbound", "\"media\"", "deny"].iter().all(|word| line.contains(word))
    });
    assert!(line.is_some_and(|line| line.ends_with(" 1")), "{line:?}");

    // And it lasts: the same without a server, and after it has been killed.
    let Serving { mut child, .. } = serving;
    child.kill().await.unwrap();
    assert!(hub.federation(south, &["list"]).await.unwrap().contains("default closed"));
    let serving = hub.start().await;
    assert_ne!(serving.profile(north, &token, &bob).await, StatusCode::OK);
    hub.federation(south, &["default", "file"]).await.unwrap();
    assert_eq!(serving.profile(north, &token, &bob).await, StatusCode::OK);
    drop(serving);
    hub.remove().await;
}
