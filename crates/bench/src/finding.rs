//! Finding among many: messages by their words, people by their names.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};
use http::Method;
use serde_json::{Value, json};

use crate::{
    client::{Failure, Server, User, escape},
    measure::{Process, Spread, Stopwatch},
};

const ROOMS: usize = 64;
const QUESTIONS: usize = 100;
/// Words that are in many messages, and the others.
const COMMON: u64 = 20;
const RARE: u64 = 30_000;
const PATIENCE: Duration = Duration::from_secs(1_800);

/// Numbers that look random and are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// A word of the vocabulary; common ones are few.
    fn word(&mut self, common: bool) -> String {
        let number = if common { self.below(COMMON) } else { COMMON + self.below(RARE) };
        let mut letters = Self(number);
        (0..3 + number % 8).map(|_| char::from(b'a' + u8::try_from(letters.below(26)).unwrap_or(0))).collect()
    }

    fn text(&mut self) -> String {
        let words: Vec<String> = (0..12).map(|place| self.word(place % 4 == 0)).collect();
        words.join(" ")
    }
}

async fn search(user: &User, term: &str, order: &str, room: Option<&str>) -> Result<u64, Failure> {
    let filter = room.map_or_else(|| json!({ "limit": 10 }), |room| json!({ "limit": 10, "rooms": [room] }));
    let body = json!({ "search_categories": { "room_events": {
        "search_term": term, "order_by": order, "filter": filter,
    } } });
    let answer = user.call(Method::POST, "/_matrix/client/v3/search", Some(body)).await?;
    let results = answer.pointer("/search_categories/room_events/results").and_then(Value::as_array);
    Ok(results.ok_or("no results")?.len() as u64)
}

/// `count` messages in rooms of one reader, who then looks for words.
pub(crate) async fn messages(server: &Server, process: &Process, count: usize) -> Result<(), Failure> {
    let reader = server.register("finder", 0).await?;
    let writers = server.register_all("author", ROOMS).await?;
    let mut rooms = Vec::with_capacity(ROOMS);
    for writer in &writers {
        let room = writer.create_room().await?;
        reader.join(&room).await?;
        rooms.push(room);
    }
    let (disk, watch) = (process.disk_bytes(), Stopwatch::start());
    let each = count / ROOMS;
    try_join_all(writers.iter().zip(&rooms).zip(1_u64..).map(|((writer, room), seed)| async move {
        let mut numbers = Numbers(seed);
        for message in 0..each {
            writer.send(room, &format!("w{message}"), &numbers.text()).await?;
        }
        Ok::<_, Failure>(())
    }))
    .await?;
    let sent = watch.elapsed();
    let room = rooms.first().ok_or("no rooms")?;
    let last = format!("last{}", crate::measure::stamp());
    writers.first().ok_or("no writers")?.send(room, "last", &last).await?;
    while search(&reader, &last, "recent", None).await? == 0 {
        if watch.elapsed() > sent + PATIENCE {
            return Err("the index does not follow".into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!(
        "{} messages sent in {:.0} s and found {:.0} s later; {} bytes on disk each",
        each * ROOMS,
        sent.as_secs_f64(),
        (watch.elapsed() - sent).as_secs_f64(),
        process.disk_bytes().saturating_sub(disk) / (each * ROOMS) as u64
    );
    for (what, order, common, room) in [
        ("a common word, newest first", "recent", true, None),
        ("a common word, best first", "rank", true, None),
        ("a rare word, newest first", "recent", false, None),
        ("a rare word, best first", "rank", false, None),
        ("a common word in one room", "recent", true, Some(room.as_str())),
    ] {
        let (mut numbers, mut times, mut found) = (Numbers(77), Vec::new(), 0);
        let cpu = process.cpu();
        for _ in 0..QUESTIONS {
            let term = numbers.word(common);
            let watch = Stopwatch::start();
            found += search(&reader, &term, order, room).await?;
            times.push(watch.elapsed());
        }
        let cpu = (process.cpu() - cpu).as_secs_f64() * 1_000.0 / QUESTIONS as f64;
        let times = Spread::new(times);
        println!("  {what}: p95 {:.2} ms, {times}; {cpu:.1} ms of CPU; {found} shown", times.at(0.95));
    }
    Ok(())
}

/// `count` people with names, made by an application service; then looking for some of them.
pub(crate) async fn people(server: &Server, process: &Process, token: &str, count: usize) -> Result<(), Failure> {
    let reader = server.register("finder", 0).await?;
    let who = reader.call(Method::GET, "/_matrix/client/v3/account/whoami", None).await?;
    let id = who.get("user_id").and_then(Value::as_str).ok_or("no user id")?;
    let (name, stamp) = (id.split_once(':').ok_or("no server name")?.1, crate::measure::stamp());
    let watch = Stopwatch::start();
    stream::iter(0..count)
        .map(|number| async move {
            let (mut numbers, user) = (Numbers(number as u64), format!("bench_{stamp}_{number}"));
            let body = json!({ "type": "m.login.application_service", "username": user, "inhibit_login": true });
            server.raw(Method::POST, "/_matrix/client/v3/register", Some(token), Some(&body)).await?;
            let id = escape(&format!("@{user}:{name}"));
            let path = format!("/_matrix/client/v3/profile/{id}/displayname?user_id={id}");
            let body = json!({ "displayname": format!("{} {}", numbers.word(false), numbers.word(false)) });
            server.raw(Method::PUT, &path, Some(token), Some(&body)).await
        })
        .buffer_unordered(16)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    let (mut numbers, path) = (Numbers(count as u64 - 1), "/_matrix/client/v3/user_directory/search");
    let last = format!("{} {}", numbers.word(false), numbers.word(false));
    let ask = async |term: &str| -> Result<usize, Failure> {
        let answer = reader.call(Method::POST, path, Some(json!({ "search_term": term, "limit": 10 }))).await?;
        Ok(answer.get("results").and_then(Value::as_array).map_or(0, Vec::len))
    };
    while ask(&last).await? == 0 {
        if watch.elapsed() > PATIENCE {
            return Err("the directory does not follow".into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("{count} people made and found in {:.0} s", watch.elapsed().as_secs_f64());
    for (what, letters) in [("one letter", 1), ("two letters", 2), ("four letters", 4), ("a whole name", 20)] {
        let (mut numbers, mut times, mut found) = (Numbers(78), Vec::new(), 0);
        let cpu = process.cpu();
        for _ in 0..QUESTIONS {
            let term: String = numbers.word(false).chars().take(letters).collect();
            let watch = Stopwatch::start();
            found += ask(&term).await?;
            times.push(watch.elapsed());
        }
        let cpu = (process.cpu() - cpu).as_secs_f64() * 1_000.0 / QUESTIONS as f64;
        let times = Spread::new(times);
        println!("  people by {what}: p95 {:.2} ms, {times}; {cpu:.1} ms of CPU; {found} shown", times.at(0.95));
    }
    Ok(())
}
