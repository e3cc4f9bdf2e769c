//! A client that knows only what the scenarios need.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Why a request did not do what the scenario needs.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A server under load. Cheap to clone.
///
/// It speaks no more HTTP than it must: the load is made on the machine that is measured.
#[derive(Clone)]
pub(crate) struct Server {
    base: String,
    host: String,
    idle: Arc<Mutex<Vec<Connection>>>,
}

/// A connection that is kept open.
struct Connection {
    stream: TcpStream,
    read: BytesMut,
}

/// A user that is logged in.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) server: Server,
    pub(crate) token: String,
}

impl Connection {
    async fn open(host: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: BytesMut::with_capacity(8_192) })
    }

    /// Whether the server has not closed it meanwhile: one that nobody asked over for a while, servers close.
    fn is_open(&self) -> bool {
        let mut byte = [0];
        matches!(self.stream.try_read(&mut byte), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
    }

    async fn more(&mut self) -> Result<(), Failure> {
        self.read.reserve(4_096);
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err("the server closed the connection".into()),
            _ => Ok(()),
        }
    }

    /// Reads up to and with `end`, which is given back too.
    async fn until(&mut self, end: &[u8]) -> Result<Bytes, Failure> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end) {
                return Ok(self.read.split_to(at + end.len()).freeze());
            }
            self.more().await?;
        }
    }

    async fn exactly(&mut self, length: usize) -> Result<Bytes, Failure> {
        self.read.reserve(length.saturating_sub(self.read.len()));
        while self.read.len() < length {
            self.more().await?;
        }
        Ok(self.read.split_to(length).freeze())
    }

    /// One request; status, body, and whether the connection stays open.
    async fn ask(&mut self, request: &[u8]) -> Result<(u16, Bytes, bool), Failure> {
        self.stream.write_all(request).await?;
        let head = self.until(b"\r\n\r\n").await?;
        let head = std::str::from_utf8(&head)?.to_ascii_lowercase();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).ok_or("no status")?.parse()?;
        let (mut length, mut chunked, mut stays) = (0, false, true);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            match (name, value.trim()) {
                ("content-length", value) => length = value.parse()?,
                ("transfer-encoding", value) => chunked = value == "chunked",
                ("connection", value) => stays = value != "close",
                _ => {}
            }
        }
        let body = if chunked { self.chunks().await? } else { self.exactly(length).await? };
        Ok((status, body, stays))
    }

    async fn chunks(&mut self) -> Result<Bytes, Failure> {
        let mut body = BytesMut::new();
        loop {
            let line = self.until(b"\r\n").await?;
            let length = usize::from_str_radix(std::str::from_utf8(&line)?.trim(), 16)?;
            body.extend_from_slice(&self.exactly(length).await?);
            self.until(b"\r\n").await?;
            if length == 0 {
                return Ok(body.freeze());
            }
        }
    }
}

impl Server {
    pub(crate) fn new(base: &str) -> Result<Self, Failure> {
        let base = base.trim_end_matches('/').to_owned();
        let host = base.strip_prefix("http://").ok_or("only plain HTTP is spoken")?.to_owned();
        Ok(Self { base, host, idle: Arc::default() })
    }

    /// One request; the answer's JSON, or a failure for any status but 200.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let bytes = self.raw(method, path, token, body).await?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// As [`Server::call`], without reading the answer.
    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Bytes, Failure> {
        use std::fmt::Write as _;
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut request = String::with_capacity(256 + path.len() + body.len());
        write!(request, "{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.host)?;
        if let Some(token) = token {
            write!(request, "authorization: Bearer {token}\r\n")?;
        }
        if method != Method::GET {
            write!(request, "content-type: application/json\r\ncontent-length: {}\r\n", body.len())?;
        }
        request.push_str("\r\n");
        request.push_str(&body);
        // The server may close a connection while the request is under way to it. What may be asked twice, is.
        let again = method == Method::GET || method == Method::PUT;
        let (status, bytes) = match self.take_idle() {
            None => self.ask(Connection::open(&self.host).await?, request.as_bytes()).await?,
            Some(idle) => match self.ask(idle, request.as_bytes()).await {
                Err(_) if again => self.ask(Connection::open(&self.host).await?, request.as_bytes()).await?,
                asked => asked?,
            },
        };
        if (200..300).contains(&status) {
            Ok(bytes)
        } else {
            Err(format!("{}{path}: {status}: {}", self.base, String::from_utf8_lossy(&bytes)).into())
        }
    }

    /// A connection that is open and not in use.
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock();
        std::iter::from_fn(|| idle.pop()).find(Connection::is_open)
    }

    /// Status and body; keeps the connection for the next request if the server does.
    async fn ask(&self, mut connection: Connection, request: &[u8]) -> Result<(u16, Bytes), Failure> {
        let (status, bytes, stays) = connection.ask(request).await?;
        if stays {
            self.idle.lock().push(connection);
        }
        Ok((status, bytes))
    }

    /// Registers a user with a name that starts with `prefix`, by open registration with the dummy stage.
    pub(crate) async fn register(&self, prefix: &str, number: usize) -> Result<User, Failure> {
        let stamp = crate::measure::stamp();
        let name = format!("{prefix}-{stamp}-{number}");
        let password = "a long enough pass phrase";
        let body = json!({
            "username": name, "password": password, "auth": { "type": "m.login.dummy" },
            "initial_device_display_name": "bench",
        });
        let answer = self.call(Method::POST, "/_matrix/client/v3/register", None, Some(&body)).await?;
        let text = |key: &str| answer.get(key).and_then(Value::as_str).map(str::to_owned).ok_or("no such key");
        Ok(User { server: self.clone(), token: text("access_token")? })
    }

    /// Registers several users, a few at a time.
    pub(crate) async fn register_all(&self, prefix: &str, count: usize) -> Result<Vec<User>, Failure> {
        use futures_util::{StreamExt, TryStreamExt, stream};
        stream::iter(0..count).map(|number| self.register(prefix, number)).buffer_unordered(8).try_collect().await
    }
}

impl User {
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        self.server.call(method, path, Some(&self.token), body.as_ref()).await
    }

    /// Makes a public room and gives its id.
    pub(crate) async fn create_room(&self) -> Result<String, Failure> {
        let body = json!({ "preset": "public_chat", "name": "Bench" });
        let answer = self.call(Method::POST, "/_matrix/client/v3/createRoom", Some(body)).await?;
        Ok(answer.get("room_id").and_then(Value::as_str).ok_or("no room id")?.to_owned())
    }

    /// Uploads a file; gives its `mxc` address.
    pub(crate) async fn upload(&self, content_type: &str, file: &[u8]) -> Result<String, Failure> {
        let head = format!(
            "POST /_matrix/media/v3/upload HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: \
             {content_type}\r\ncontent-length: {}\r\n\r\n",
            self.server.host,
            self.token,
            file.len()
        );
        let connection = Connection::open(&self.server.host).await?;
        let (status, bytes) = self.server.ask(connection, &[head.as_bytes(), file].concat()).await?;
        if status != 200 {
            return Err(format!("upload: {status}: {}", String::from_utf8_lossy(&bytes)).into());
        }
        text_after(&bytes, b"\"content_uri\"").ok_or_else(|| "no content_uri".into())
    }

    pub(crate) async fn join(&self, room: &str) -> Result<(), Failure> {
        self.call(Method::POST, &format!("/_matrix/client/v3/rooms/{}/join", escape(room)), Some(json!({}))).await?;
        Ok(())
    }

    pub(crate) async fn send(&self, room: &str, txn: &str, text: &str) -> Result<(), Failure> {
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{txn}", escape(room));
        let body = json!({ "msgtype": "m.text", "body": text });
        self.server.raw(Method::PUT, &path, Some(&self.token), Some(&body)).await?;
        Ok(())
    }

    /// One `/sync`, waiting up to `timeout_ms`; gives the bytes and the next token.
    pub(crate) async fn sync(&self, since: Option<&str>, timeout_ms: u32) -> Result<(Bytes, String), Failure> {
        let since = since.map(|since| format!("&since={since}")).unwrap_or_default();
        let path = format!("/_matrix/client/v3/sync?timeout={timeout_ms}{since}");
        let bytes = self.server.raw(Method::GET, &path, Some(&self.token), None).await?;
        let next = text_after(&bytes, b"\"next_batch\"").ok_or("no next_batch")?;
        Ok((bytes, next))
    }
}

/// The text behind a key, in JSON whose texts need no unescaping.
fn text_after(json: &[u8], key: &[u8]) -> Option<String> {
    let at = json.windows(key.len()).position(|window| window == key)? + key.len();
    let mut parts = json.get(at..)?.splitn(3, |byte| *byte == b'"');
    parts.next()?;
    parts.next().and_then(|text| String::from_utf8(text.to_vec()).ok())
}

/// Percent-encodes what may stand in a room or user id.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
