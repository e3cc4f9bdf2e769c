//! The real binary as a child process, and requests to it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use samtal_db::{Options, testing::drop_schema};
use samtal_http::{Client, ClientOptions, FetchLimits};
use samtal_kit::Random;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

const LIMITS: FetchLimits = FetchLimits { time: Duration::from_secs(60), bytes_max: 16 << 20 };

/// Where a server's data lie: they outlive the process.
pub(crate) struct Home {
    directory: tempfile::TempDir,
    data: PathBuf,
    /// What the server is started through.
    through: Vec<String>,
}

/// A PostgreSQL schema that the tenant's name leads to.
pub(crate) struct Database {
    url: String,
    name: String,
}

/// A running process.
pub(crate) struct Server {
    child: Child,
    api: Api,
}

/// Requests to one process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    url: String,
    http: Client,
}

/// Why an answer is not a success.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server said no.
    Refused(StatusCode, Value),
    /// There was no answer.
    Silence,
}

impl Database {
    /// In the database at `url`; no other run uses the same schema.
    pub(crate) fn at(url: String) -> Self {
        Self { url, name: format!("crash-{}.example", Random::system().alphanumeric(12).to_lowercase()) }
    }

    /// Removes the schema.
    pub(crate) async fn remove(self) {
        let schema = format!("samtal_{}", self.name.replace('.', "_").replace('-', "_x2d_"));
        drop_schema(&Options::Postgres { url: self.url, schema, connections_max: 1 }).await;
    }
}

impl Home {
    /// A place for a server on SQLite, or on PostgreSQL.
    pub(crate) fn new(database: Option<&Database>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let rate = "{ per_second = 100000, burst = 100000 }";
        let mut config = format!(
            "server.name = '{}'\nserver.data_dir = '{}'\nregistration.open = true\n\
             listeners = [{{ address = '127.0.0.1:0', serve = ['client'] }}]\n[limits]\n",
            database.map_or("crash.example", |database| &database.name),
            data.display()
        );
        for limit in ["login", "registration", "messages", "joins"] {
            config += &format!("{limit} = {rate}\n");
        }
        if let Some(database) = database {
            config += &format!("[database]\nurl = '{}'\n", database.url);
        }
        std::fs::write(directory.path().join("samtal.toml"), config).unwrap();
        Self { directory, data, through: Vec::new() }
    }

    /// Where its data lie.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.directory.path().join("samtal.toml")
    }

    /// Has the server started through another command, which gets it as its last arguments.
    pub(crate) fn start_through(&mut self, command: Vec<String>) {
        self.through = command;
    }

    /// Starts the server and waits until it answers.
    pub(crate) async fn start(&self) -> Server {
        let mut line = self.through.clone();
        line.push(env!("CARGO_BIN_EXE_samtal").to_owned());
        let mut child = Command::new(&line[0])
            .args(&line[1..])
            .arg("serve")
            .arg("--config")
            .arg(self.config())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().expect("the server says that it is ready");
        let url = line.split_whitespace().last().unwrap().to_owned();
        Server { child, api: Api { url, http: Client::new(&ClientOptions::default()).unwrap() } }
    }
}

impl Server {
    pub(crate) fn api(&self) -> Api {
        self.api.clone()
    }

    /// Ends the process at once (SIGKILL): nothing in it gets to put anything away.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

impl Api {
    /// Where it listens: address and port.
    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// One request.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> Result<Value, Failure> {
        let mut request = Request::builder().method(method).uri(format!("{}/_matrix/client/v3{path}", self.url));
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let Ok(answer) = self.http.fetch(request.body(body).unwrap(), LIMITS).await else {
            return Err(Failure::Silence);
        };
        let value = serde_json::from_slice(answer.body()).unwrap_or_default();
        if answer.status().is_success() { Ok(value) } else { Err(Failure::Refused(answer.status(), value)) }
    }

    /// Uploads a file. Its server and id, as they stand in paths.
    pub(crate) async fn upload(&self, token: &str, bytes: &'static [u8]) -> String {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/_matrix/media/v3/upload", self.url))
            .header("authorization", format!("Bearer {token}"))
            .body(Bytes::from_static(bytes));
        let answer = self.http.fetch(request.unwrap(), LIMITS).await.unwrap();
        let answer: Value = serde_json::from_slice(answer.body()).unwrap();
        answer["content_uri"].as_str().unwrap().trim_start_matches("mxc://").to_owned()
    }

    /// Downloads a file.
    pub(crate) async fn download(&self, token: &str, file: &str) -> Vec<u8> {
        let request = Request::builder()
            .uri(format!("{}/_matrix/client/v1/media/download/{file}", self.url))
            .header("authorization", format!("Bearer {token}"))
            .body(Bytes::new());
        let answer = self.http.fetch(request.unwrap(), LIMITS).await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        answer.body().to_vec()
    }
}

/// Percent-encodes an id for a path.
pub(crate) fn escape(id: &str) -> String {
    id.replace('%', "%25").replace('/', "%2F").replace('#', "%23").replace('+', "%2B")
}
