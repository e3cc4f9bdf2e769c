//! The operator's commands, by running them: beside a server that runs, and without one.

#[expect(dead_code, reason = "made for the test of crashes, which uses more of it")]
#[path = "../crash/server.rs"]
mod server;

use std::process::Stdio;

use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::server::{Api, Failure, Home, escape};

/// How a command ended.
struct Ended {
    success: bool,
    out: String,
    err: String,
}

async fn samtal(home: &Home, line: &[&str], input: &str) -> Ended {
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_samtal"))
        .arg("--config")
        .arg(home.config())
        .args(line)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that reads nothing may be gone already.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let ended = child.wait_with_output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { success: ended.status.success(), out: text(ended.stdout), err: text(ended.stderr) }
}

#[track_caller]
fn done(ended: Ended) -> String {
    assert!(ended.success, "{}{}", ended.out, ended.err);
    ended.out
}

/// What a command complains about: one line, under the name of the program.
#[track_caller]
fn refused(ended: Ended) -> String {
    assert!(!ended.success && ended.out.is_empty(), "{}", ended.out);
    let lines: Vec<&str> = ended.err.lines().filter(|line| line.starts_with("samtal: ")).collect();
    assert_eq!(lines.len(), 1, "{}", ended.err);
    lines[0].to_owned()
}

async fn register(api: &Api, name: &str) -> (String, String) {
    let body = json!({
        "username": name, "password": "a long enough pass phrase", "device_id": "DEVICE",
        "auth": { "type": "m.login.dummy" },
    });
    let answer = api.call(Method::POST, "/register", "", Some(body)).await.unwrap();
    (answer["user_id"].as_str().unwrap().to_owned(), answer["access_token"].as_str().unwrap().to_owned())
}

async fn room(api: &Api, token: &str, body: Value) -> String {
    let answer = api.call(Method::POST, "/createRoom", token, Some(body)).await.unwrap();
    answer["room_id"].as_str().unwrap().to_owned()
}

async fn whoami(api: &Api, token: &str) -> Result<Value, String> {
    match api.call(Method::GET, "/account/whoami", token, None).await {
        Ok(answer) => Ok(answer),
        Err(Failure::Refused(_, body)) => Err(body["errcode"].as_str().unwrap().to_owned()),
        Err(Failure::Silence) => panic!("no answer"),
    }
}

#[tokio::test]
async fn the_help_names_every_command() {
    let home = Home::new(None);
    let help = done(samtal(&home, &["--help"], "").await);
    for verb in ["serve", "config", "user", "tenant", "room", "report", "audit", "backup", "restore", "federation"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{verb} "))), "{verb}: {help}");
        done(samtal(&home, &[verb, "--help"], "").await);
    }
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
}

#[tokio::test]
async fn accounts_are_looked_after_with_and_without_a_server() {
    let home = Home::new(None);
    // Nothing runs yet.
    let made = done(samtal(&home, &["user", "create", "root", "--admin"], "").await);
    assert!(made.contains("@root:crash.example created") && made.contains("password: "), "{made}");
    let again = refused(samtal(&home, &["user", "create", "root"], "").await);
    assert!(again.contains("taken") || again.contains("in use"), "{again}");
    let server = home.start().await;
    let api = server.api();
    let (bob, token) = register(&api, "bob").await;
    let list = done(samtal(&home, &["user", "list"], "").await);
    assert_eq!(list, "@bob:crash.example\n@root:crash.example\tadmin\n");
    assert!(done(samtal(&home, &["user", "show", "bob"], "").await).contains("DEVICE"));
    done(samtal(&home, &["user", "lock", &bob], "").await);
    assert_eq!(whoami(&api, &token).await, Err("M_USER_LOCKED".to_owned()));
    done(samtal(&home, &["user", "unlock", "bob"], "").await);
    whoami(&api, &token).await.unwrap();
    done(samtal(&home, &["user", "suspend", "bob"], "").await);
    let create = api.call(Method::POST, "/createRoom", &token, Some(json!({}))).await;
    assert!(matches!(create, Err(Failure::Refused(_, body)) if body["errcode"] == "M_USER_SUSPENDED"));
    done(samtal(&home, &["user", "unsuspend", "bob"], "").await);
    // A new password ends the sessions, unless they are to be kept.
    let reset = ["user", "reset-password", "bob", "--password-stdin", "--keep-sessions"];
    done(samtal(&home, &reset, "the second pass phrase\n").await);
    whoami(&api, &token).await.unwrap();
    let weak = refused(samtal(&home, &["user", "reset-password", "bob", "--password-stdin"], "short\n").await);
    assert!(weak.contains("characters"), "{weak}");
    let reset =
        done(samtal(&home, &["user", "reset-password", "bob", "--password-stdin"], "the third pass phrase\n").await);
    assert!(reset.contains("1 session ended"), "{reset}");
    assert_eq!(whoami(&api, &token).await, Err("M_UNKNOWN_TOKEN".to_owned()));
    let log_in = async |password: &str| {
        let identifier = json!({ "type": "m.id.user", "user": "bob" });
        let body = json!({ "type": "m.login.password", "identifier": identifier, "password": password });
        api.call(Method::POST, "/login", "", Some(body)).await
    };
    let token = log_in("the third pass phrase").await.unwrap()["access_token"].as_str().unwrap().to_owned();
    done(samtal(&home, &["user", "log-out", "bob"], "").await);
    assert_eq!(whoami(&api, &token).await, Err("M_UNKNOWN_TOKEN".to_owned()));
    done(samtal(&home, &["user", "deactivate", "bob"], "").await);
    assert!(log_in("the third pass phrase").await.is_err());
    done(samtal(&home, &["user", "reactivate", "bob", "--password-stdin"], "the fourth pass phrase\n").await);
    log_in("the fourth pass phrase").await.unwrap();
    done(samtal(&home, &["user", "promote", "bob"], "").await);
    assert!(done(samtal(&home, &["user", "list"], "").await).contains("@bob:crash.example\tadmin"));
    done(samtal(&home, &["user", "demote", "bob"], "").await);
    assert_eq!(
        refused(samtal(&home, &["user", "lock", "nobody"], "").await),
        "samtal: there is no @nobody:crash.example"
    );
    assert_eq!(
        refused(samtal(&home, &["user", "lock", "@bob:elsewhere.example"], "").await),
        "samtal: elsewhere.example is not served here"
    );
    let audit = done(samtal(&home, &["audit"], "").await);
    assert!(audit.contains("user reset-password") && audit.contains("operator"), "{audit}");
    assert!(!audit.contains("pass phrase"), "{audit}");
    server.kill().await;
}

/// Connections on which an answer has come, and which stay open; fewer where no more are taken.
async fn connections(address: &str, count: usize) -> Vec<tokio::net::TcpStream> {
    let mut open = Vec::new();
    for _ in 0..count {
        let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
        connection.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        open.push(connection);
    }
    open
}

#[tokio::test]
async fn a_low_limit_of_open_files_is_raised_where_it_may_be() {
    let mut home = Home::new(None);
    home.start_through(["sh", "-c", "ulimit -S -n 64; exec \"$@\"", "sh"].map(str::to_owned).to_vec());
    let server = home.start().await;
    for mut connection in connections(server.api().address(), 200).await {
        let mut answer = [0; 12];
        connection.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    server.kill().await;
}

#[tokio::test]
async fn connections_leave_files_for_what_they_ask_for() {
    let mut home = Home::new(None);
    home.start_through(["sh", "-c", "ulimit -n 160; exec \"$@\"", "sh"].map(str::to_owned).to_vec());
    let server = home.start().await;
    let api = server.api();
    let (_, token) = register(&api, "alice").await;
    let mut crowd = connections(api.address(), 300).await;
    // As many as are taken have their answer before the last of those does.
    let mut answer = [0; 12];
    crowd[100].read_exact(&mut answer).await.unwrap();
    let mut first = crowd.swap_remove(0);
    let upload = format!(
        "POST /_matrix/media/v3/upload HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-length: 3\r\n\r\nabc"
    );
    first.write_all(upload.as_bytes()).await.unwrap();
    let mut answers = String::new();
    first.read_to_string(&mut answers).await.unwrap();
    assert!(answers.contains("content_uri"), "{answers}");
    server.kill().await;
}

#[tokio::test]
async fn rooms_and_reports_are_looked_after() {
    let home = Home::new(None);
    let server = home.start().await;
    let api = server.api();
    let ((bob, bobs), (carol, carols)) = (register(&api, "bob").await, register(&api, "carol").await);
    let place = room(&api, &bobs, json!({ "name": "Place", "preset": "public_chat", "invite": [carol] })).await;
    let list = done(samtal(&home, &["room", "list"], "").await);
    assert!(list.starts_with("ROOM") && list.contains(&place) && list.contains("Place"), "{list}");
    assert!(done(samtal(&home, &["room", "show", &place], "").await).contains(&bob));
    let ended = done(samtal(&home, &["room", "refuse-invites", "--sender", &bob], "").await);
    assert_eq!(ended, "1 invite refused\n");
    done(samtal(&home, &["room", "block", &place], "").await);
    let join = format!("/join/{}", escape(&place));
    assert!(api.call(Method::POST, &join, &carols, Some(json!({}))).await.is_err());
    done(samtal(&home, &["room", "unblock", &place], "").await);
    api.call(Method::POST, &join, &carols, Some(json!({}))).await.unwrap();
    // Nobody governs the room any more.
    let leave = format!("/rooms/{}/leave", escape(&place));
    api.call(Method::POST, &leave, &bobs, Some(json!({}))).await.unwrap();
    let recovered = done(samtal(&home, &["room", "recover", &place, "--to", "carol"], "").await);
    assert!(recovered.contains(&carol) && recovered.contains(&bob), "{recovered}");
    let topic = format!("/rooms/{}/state/m.room.topic", escape(&place));
    api.call(Method::PUT, &topic, &carols, Some(json!({ "topic": "Ours" }))).await.unwrap();
    // Reports.
    assert_eq!(done(samtal(&home, &["report", "list"], "").await), "no reports wait\n");
    let report = format!("/users/{}/report", escape(&bob));
    api.call(Method::POST, &report, &carols, Some(json!({ "reason": "rude\nand loud" }))).await.unwrap();
    let list = done(samtal(&home, &["report", "list"], "").await);
    assert_eq!(list.lines().count(), 2, "one line for each: {list}");
    assert!(list.contains("open") && list.contains(&format!("user {bob}")) && list.contains("rude and loud"), "{list}");
    done(samtal(&home, &["report", "assign", "1", "--to", "carol"], "").await);
    assert!(done(samtal(&home, &["report", "list"], "").await).contains("assigned"));
    done(samtal(&home, &["report", "close", "1", "--note", "talked to him"], "").await);
    assert_eq!(done(samtal(&home, &["report", "list"], "").await), "no reports wait\n");
    assert!(done(samtal(&home, &["report", "show", "1"], "").await).contains("talked to him"));
    done(samtal(&home, &["report", "reopen", "1"], "").await);
    assert_eq!(refused(samtal(&home, &["report", "close", "9"], "").await), "samtal: there is no case 9");
    // A notice, and the end.
    done(samtal(&home, &["user", "notice", "carol", "The server moves."], "").await);
    let sync = api.call(Method::GET, "/sync", &carols, None).await.unwrap();
    assert_eq!(sync["rooms"]["invite"].as_object().unwrap().len(), 1);
    let deleted = done(samtal(&home, &["room", "delete", &place], "").await);
    assert!(deleted.contains("1 user put out") && deleted.contains("is deleted"), "{deleted}");
    assert!(refused(samtal(&home, &["room", "show", &place], "").await).contains("there is no room"));
    server.kill().await;
}

#[tokio::test]
async fn a_backup_is_made_while_the_server_runs_and_put_back_elsewhere() {
    let home = Home::new(None);
    let server = home.start().await;
    let api = server.api();
    let (bob, token) = register(&api, "bob").await;
    let place = room(&api, &token, json!({ "preset": "private_chat" })).await;
    let send = format!("/rooms/{}/send/m.room.message/1", escape(&place));
    let said =
        api.call(Method::PUT, &send, &token, Some(json!({ "msgtype": "m.text", "body": "kept" }))).await.unwrap();
    let file = api.upload(&token, b"a file").await;
    let key = json!({ "signed_curve25519:AAAA": { "key": "a key", "signatures": {} } });
    api.call(Method::POST, "/keys/upload", &token, Some(json!({ "one_time_keys": key }))).await.unwrap();
    let backups = tempfile::tempdir().unwrap();
    let directory = backups.path().to_str().unwrap();
    let made = done(samtal(&home, &["backup", directory], "").await);
    assert!(made.contains("crash.example: 1 file new, 1 in all"), "{made}");
    let again = done(samtal(&home, &["backup", directory], "").await);
    assert!(again.contains("0 files new, 1 in all"), "{again}");
    // Where something is, nothing is put back; and not while a server runs.
    let over = samtal(&home, &["restore", directory], "").await;
    assert!(!over.success && !over.err.is_empty());
    server.kill().await;
    assert!(refused(samtal(&home, &["restore", directory], "").await).contains("is there already"));
    let elsewhere = Home::new(None);
    let back = done(samtal(&elsewhere, &["restore", directory], "").await);
    assert!(back.contains("1 one-time keys forgotten"), "{back}");
    let server = elsewhere.start().await;
    let api = server.api();
    assert_eq!(whoami(&api, &token).await.unwrap()["user_id"], bob.as_str());
    let event = format!("/rooms/{}/event/{}", escape(&place), escape(said["event_id"].as_str().unwrap()));
    assert_eq!(api.call(Method::GET, &event, &token, None).await.unwrap()["content"]["body"], "kept");
    assert_eq!(api.download(&token, &file).await, b"a file");
    let sync = api.call(Method::GET, "/sync", &token, None).await.unwrap();
    assert_eq!(sync["device_one_time_keys_count"]["signed_curve25519"], 0, "the device uploads others");
    // It still signs as the same server.
    let send = format!("/rooms/{}/send/m.room.message/2", escape(&place));
    api.call(Method::PUT, &send, &token, Some(json!({ "msgtype": "m.text", "body": "goes on" }))).await.unwrap();
    server.kill().await;
}

#[tokio::test]
async fn tenants_come_and_go() {
    let home = Home::new(None);
    let added = done(
        samtal(&home, &["tenant", "add", "second.example", "--public-base-url", "https://m.second.example"], "").await,
    );
    assert!(added.starts_with("second.example added"), "{added}");
    assert!(refused(samtal(&home, &["tenant", "add", "second.example"], "").await).contains("there already"));
    assert!(refused(samtal(&home, &["tenant", "add", "not a name"], "").await).contains("not a server name"));
    let list = done(samtal(&home, &["tenant", "list"], "").await);
    assert!(list.contains("crash.example") && list.contains("https://m.second.example"), "{list}");
    // With two of them, names must say which.
    assert!(refused(samtal(&home, &["user", "create", "bob"], "").await).contains("several tenants"));
    done(samtal(&home, &["user", "create", "@bob:second.example"], "").await);
    assert_eq!(
        refused(samtal(&home, &["room", "list"], "").await),
        "samtal: there are several tenants: say which with --tenant NAME"
    );
    assert!(done(samtal(&home, &["room", "list", "--tenant", "second.example"], "").await).starts_with("ROOM"));
    done(samtal(&home, &["tenant", "remove", "second.example"], "").await);
    assert!(refused(samtal(&home, &["tenant", "remove", "second.example"], "").await).contains("is not there"));
}
