//! Sliding sync of large accounts: what a client of today's asks for when it starts, and then all day.

use std::{process::Stdio, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::{
    client::{Failure, Server, User},
    measure::{Process, Spread, Stopwatch},
    scenario::{TEXT, settled},
};

const PATH: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0";
/// Rooms of the first answer, and by how many the list then grows.
const FIRST: usize = 20;
const GROWTH: usize = 100;
const FRESH: usize = 20;
const INCREMENTS: usize = 200;
const GIVE_UP: Duration = Duration::from_secs(60);

/// One list of all rooms, as the clients on matrix-sdk-ui ask for it.
fn request(connection: usize, last: usize) -> Value {
    let state = [
        ("m.room.name", ""),
        ("m.room.encryption", ""),
        ("m.room.member", "$LAZY"),
        ("m.room.member", "$ME"),
        ("m.room.topic", ""),
        ("m.room.avatar", ""),
        ("m.room.canonical_alias", ""),
        ("m.room.power_levels", ""),
        ("org.matrix.msc3401.call.member", "*"),
        ("m.room.join_rules", ""),
        ("m.room.tombstone", ""),
        ("m.room.create", ""),
        ("m.room.history_visibility", ""),
        ("io.element.functional_members", ""),
        ("m.space.parent", "*"),
        ("m.space.child", "*"),
        ("org.matrix.msc3672.beacon_info", "*"),
    ];
    json!({
        "conn_id": format!("list-{connection}"),
        "lists": { "all_rooms": {
            "ranges": [[0, last]], "timeline_limit": 1, "required_state": state,
        } },
        "extensions": {
            "account_data": { "enabled": true },
            "receipts": { "enabled": true, "rooms": ["*"] },
            "typing": { "enabled": true },
        },
    })
}

struct Answer {
    pos: String,
    rooms: usize,
    bytes: usize,
    took: Duration,
}

async fn ask(user: &User, connection: usize, last: usize, pos: Option<&str>) -> Result<Answer, Failure> {
    let path = pos.map_or_else(|| PATH.to_owned(), |pos| format!("{PATH}&pos={pos}"));
    let body = request(connection, last);
    let watch = Stopwatch::start();
    let bytes = user.server.raw(Method::POST, &path, Some(&user.token), Some(&body)).await?;
    let took = watch.elapsed();
    let answer: Value = serde_json::from_slice(&bytes)?;
    let pos = answer.get("pos").and_then(Value::as_str).ok_or("no pos")?.to_owned();
    let rooms = answer.get("rooms").and_then(Value::as_object).map_or(0, serde_json::Map::len);
    Ok(Answer { pos, rooms, bytes: bytes.len(), took })
}

/// An account in `rooms` rooms, and somebody who writes in the one that it came into last.
async fn account(server: &Server, rooms: usize) -> Result<(User, User, String), Failure> {
    let (reader, writer) = (server.register("list", 0).await?, server.register("writer", 0).await?);
    let made = stream::iter(0..rooms).map(|_| reader.create_room()).buffer_unordered(8);
    let made: Vec<String> = made.try_collect().await?;
    let last = made.last().cloned().ok_or("no rooms")?;
    writer.join(&last).await?;
    Ok((reader, writer, last))
}

/// The first window, the growth of the list to all rooms, and what each message costs from then on.
pub(crate) async fn sliding(server: &Server, process: &Process, rooms: usize) -> Result<(), Failure> {
    let (reader, writer, last) = account(server, rooms).await?;
    settled(process).await;
    let mut times = Vec::new();
    let (mut pos, mut bytes) = (String::new(), 0);
    for connection in 0..FRESH {
        let answer = ask(&reader, connection, FIRST - 1, None).await?;
        if answer.rooms != FIRST.min(rooms) {
            return Err(format!("{} rooms in the first window", answer.rooms).into());
        }
        times.push(answer.took);
        (pos, bytes) = (answer.pos, answer.bytes);
    }
    println!("sliding sync of {rooms} rooms, first {FIRST}: {} ({bytes} bytes)", Spread::new(times));
    let connection = FRESH - 1;
    let (mut seen, mut times) = (FIRST.min(rooms), Vec::new());
    while seen < rooms {
        let wanted = rooms.min(seen + GROWTH);
        let answer = ask(&reader, connection, wanted - 1, Some(&pos)).await?;
        if answer.rooms < wanted - seen {
            return Err(format!("{} rooms where {} are new", answer.rooms, wanted - seen).into());
        }
        times.push(answer.took);
        (pos, seen) = (answer.pos, wanted);
    }
    println!("  growing by {GROWTH} up to all of them: {}", Spread::new(times));
    let cpu = process.cpu();
    for round in 0..INCREMENTS {
        writer.send(&last, &format!("s{round}"), TEXT).await?;
    }
    settled(process).await;
    let sends = process.cpu() - cpu;
    pos = ask(&reader, connection, rooms - 1, Some(&pos)).await?.pos;
    let cpu = process.cpu();
    let mut times = Vec::new();
    for round in 0..INCREMENTS {
        writer.send(&last, &format!("i{round}"), TEXT).await?;
        let answer = ask(&reader, connection, rooms - 1, Some(&pos)).await?;
        if answer.rooms != 1 {
            return Err(format!("{} rooms after one message", answer.rooms).into());
        }
        times.push(answer.took);
        pos = answer.pos;
    }
    settled(process).await;
    let cpu = (process.cpu() - cpu).saturating_sub(sends).as_secs_f64() * 1_000.0 / INCREMENTS as f64;
    println!("  one message: {}; {cpu:.2} ms of CPU without the send", Spread::new(times));
    Ok(())
}

async fn running(server: &Server, command: &str) -> Result<Child, Failure> {
    let mut words = command.split_whitespace();
    let program = words.next().ok_or("no command to start")?;
    let child =
        Command::new(program).args(words).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
    let watch = Stopwatch::start();
    while server.raw(Method::GET, "/_matrix/client/versions", None, None).await.is_err() {
        if watch.elapsed() > GIVE_UP {
            return Err("the server does not answer".into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(child)
}

/// The first answers of a server that has just been started, to an account in `rooms` rooms.
pub(crate) async fn cold(server: &Server, command: &str, rooms: usize) -> Result<(), Failure> {
    let mut child = running(server, command).await?;
    let (reader, _, _) = account(server, rooms).await?;
    settled(&Process::new(child.id(), None)).await;
    child.kill().await?;
    let mut times = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let mut child = running(server, command).await?;
        times.0.push(ask(&reader, 0, FIRST - 1, None).await?.took);
        times.1.push(ask(&reader, 1, FIRST - 1, None).await?.took);
        child.kill().await?;
    }
    println!("sliding sync of {rooms} rooms after a start, first {FIRST}: {}", Spread::new(times.0));
    println!("  of the next connection: {}", Spread::new(times.1));
    Ok(())
}
