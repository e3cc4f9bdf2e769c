//! What is measured.

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use http::Method;
use serde_json::json;

use crate::{
    client::{Failure, Server, User, escape},
    measure::{Moment, Process, Spread, Stopwatch},
};

/// What each message says: with its envelope about 350 bytes, as chat is.
pub(crate) const TEXT: &str = "The minutes of the meeting are in the shared folder; please read them before Thursday.";

/// `senders` users send `count` messages in all, spread over `rooms`.
pub(crate) async fn messages(
    server: &Server,
    process: &Process,
    senders: usize,
    rooms: usize,
    count: usize,
) -> Result<(), Failure> {
    let users = server.register_all("sender", senders).await?;
    let first = users.first().ok_or("no users")?;
    let mut ids = Vec::with_capacity(rooms);
    for number in 0..rooms {
        ids.push(users.get(number % users.len()).unwrap_or(first).create_room().await?);
    }
    for (number, user) in users.iter().enumerate() {
        if rooms == 1 && number > 0 {
            user.join(ids.first().ok_or("no room")?).await?;
        }
    }
    let (cpu, disk) = (process.cpu(), process.disk_bytes());
    let watch = Stopwatch::start();
    let each = count / senders;
    let times = try_join_all(users.iter().enumerate().map(|(number, user)| {
        let (user, room) = (user.clone(), ids.get(number % rooms).cloned().unwrap_or_default());
        async move {
            let mut times = Vec::with_capacity(each);
            for message in 0..each {
                let watch = Stopwatch::start();
                user.send(&room, &format!("m{message}"), TEXT).await?;
                times.push(watch.elapsed());
            }
            Ok::<_, Failure>(times)
        }
    }))
    .await?;
    let elapsed = watch.elapsed();
    let sent = each * senders;
    let cpu = (process.cpu() - cpu).as_secs_f64() * 1_000.0 / sent as f64;
    println!(
        "{sent} messages of {senders} senders into {rooms} room(s): {:.0} events/s, {}",
        sent as f64 / elapsed.as_secs_f64(),
        Spread::new(times.into_iter().flatten().collect())
    );
    println!(
        "  {cpu:.3} ms of CPU each; {} bytes on disk each (write-ahead log included)",
        process.disk_bytes().saturating_sub(disk) / sent as u64
    );
    Ok(())
}

/// One sender, `members` waiting in `/sync`: the time until the last of them has the message.
pub(crate) async fn fan_out(server: &Server, process: &Process, members: usize, rounds: usize) -> Result<(), Failure> {
    let users = server.register_all("member", members + 1).await?;
    let (sender, members) = users.split_first().ok_or("no users")?;
    let room = sender.create_room().await?;
    for member in members {
        member.join(&room).await?;
    }
    let mut tokens: Vec<String> = Vec::with_capacity(members.len());
    for member in members {
        tokens.push(member.sync(None, 0).await?.1);
    }
    let cpu = process.cpu();
    let (mut first, mut times) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    for round in 0..rounds {
        let waiting = members.iter().zip(&tokens).map(|(member, token)| wait_for_message(member, token));
        let send = async {
            // Long enough for all requests to be waiting in the server.
            tokio::time::sleep(Duration::from_millis(150)).await;
            let begun = Moment::now();
            sender.send(&room, &format!("r{round}"), TEXT).await?;
            Ok::<_, Failure>(begun)
        };
        let (received, begun) = tokio::join!(join_all(waiting), send);
        let begun = begun?;
        let received = received.into_iter().collect::<Result<Vec<_>, _>>()?;
        first.extend(received.iter().map(|(_, at)| at.since(&begun)).min());
        times.extend(received.iter().map(|(_, at)| at.since(&begun)).max());
        tokens = received.into_iter().map(|(token, _)| token).collect();
    }
    let cpu = (process.cpu() - cpu).as_secs_f64() * 1_000.0 / (rounds * members.len()) as f64;
    println!(
        "fan-out to the last of {} waiting members: {}; {cpu:.3} ms of CPU a member\n  to the first: {}",
        members.len(),
        Spread::new(times),
        Spread::new(first)
    );
    Ok(())
}

async fn wait_for_message(member: &User, since: &str) -> Result<(String, Moment), Failure> {
    let mut since = since.to_owned();
    loop {
        let (bytes, next) = member.sync(Some(&since), 10_000).await?;
        let arrived = Moment::now();
        since = next;
        if contains(&bytes, b"minutes of the meeting") {
            return Ok((since, arrived));
        }
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Waits until the server has done what it does later (its index of texts, say), so that it does not count as something else's.
pub(crate) async fn settled(process: &Process) {
    let mut before = process.cpu();
    loop {
        tokio::time::sleep(Duration::from_millis(600)).await;
        let now = process.cpu();
        if now - before <= Duration::from_millis(20) {
            return;
        }
        before = now;
    }
}

/// Initial and incremental sync of one account in `rooms` rooms.
pub(crate) async fn sync(server: &Server, process: &Process, rooms: usize) -> Result<(), Failure> {
    let (user, writer) = (server.register("reader", 0).await?, server.register("writer", 0).await?);
    let mut last = String::new();
    for _ in 0..rooms {
        last = user.create_room().await?;
    }
    writer.join(&last).await?;
    settled(process).await;
    let mut initial = Vec::new();
    let (mut token, mut bytes) = (String::new(), 0);
    for _ in 0..5 {
        let watch = Stopwatch::start();
        let (body, next) = user.sync(None, 0).await?;
        initial.push(watch.elapsed());
        (token, bytes) = (next, body.len());
    }
    println!("initial sync of {rooms} rooms: {} ({bytes} bytes)", Spread::new(initial));
    let cpu = process.cpu();
    let mut increments = Vec::new();
    let rounds = 200;
    for round in 0..rounds {
        writer.send(&last, &format!("i{round}"), TEXT).await?;
        let watch = Stopwatch::start();
        token = user.sync(Some(&token), 0).await?.1;
        increments.push(watch.elapsed());
    }
    let cpu = (process.cpu() - cpu).as_secs_f64() * 1_000.0 / f64::from(rounds);
    println!(
        "incremental sync of {rooms} rooms, one change: {}; {cpu:.3} ms of CPU with the send",
        Spread::new(increments)
    );
    Ok(())
}

/// A new topic in a room of `members`.
pub(crate) async fn state_change(server: &Server, process: &Process, members: usize) -> Result<(), Failure> {
    let users = server.register_all("crowd", members).await?;
    let owner = users.first().ok_or("no users")?;
    let room = owner.create_room().await?;
    for user in users.iter().skip(1) {
        user.join(&room).await?;
    }
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.topic", escape(&room));
    let cpu = process.cpu();
    let rounds = 100;
    let mut times = Vec::new();
    for round in 0..rounds {
        let watch = Stopwatch::start();
        owner.call(Method::PUT, &path, Some(json!({ "topic": format!("Topic {round}") }))).await?;
        times.push(watch.elapsed());
    }
    let cpu = (process.cpu() - cpu).as_secs_f64() * 1_000.0 / f64::from(rounds);
    println!("state change with {members} members: {}; {cpu:.3} ms of CPU", Spread::new(times));
    Ok(())
}

/// `count` messages to one device that does not sync, of 64 senders; then what its first sync brings.
pub(crate) async fn to_device(server: &Server, process: &Process, count: usize) -> Result<(), Failure> {
    let senders = server.register_all("flood", 64).await?;
    let target = server.register("sleeper", 0).await?;
    let who = target.call(Method::GET, "/_matrix/client/v3/account/whoami", None).await?;
    let text = |key: &str| who.get(key).and_then(serde_json::Value::as_str).map(str::to_owned).ok_or("no such key");
    let (user, device) = (text("user_id")?, text("device_id")?);
    let (cpu, disk) = (process.cpu(), process.disk_bytes());
    let watch = Stopwatch::start();
    let each = count / senders.len();
    try_join_all(senders.iter().map(|sender| {
        let body = json!({ "messages": { (&*user): { (&*device): { "body": TEXT } } } });
        async move {
            for message in 0..each {
                let path = format!("/_matrix/client/v3/sendToDevice/org.example.flood/f{message}");
                sender.server.raw(Method::PUT, &path, Some(&sender.token), Some(&body)).await?;
            }
            Ok::<_, Failure>(())
        }
    }))
    .await?;
    let (elapsed, sent) = (watch.elapsed(), each * senders.len());
    let cpu = (process.cpu() - cpu).as_secs_f64() * 1_000.0 / sent as f64;
    println!(
        "{sent} messages to one sleeping device: {:.0}/s; {cpu:.3} ms of CPU each; {} bytes on disk in all",
        sent as f64 / elapsed.as_secs_f64(),
        process.disk_bytes().saturating_sub(disk),
    );
    let (watch, mut since, mut received) = (Stopwatch::start(), None, 0);
    loop {
        let (bytes, next) = target.sync(since.as_deref(), 0).await?;
        let answer: serde_json::Value = serde_json::from_slice(&bytes)?;
        let events = answer.pointer("/to_device/events").and_then(serde_json::Value::as_array).map_or(0, Vec::len);
        if events == 0 {
            break;
        }
        received += events;
        since = Some(next);
    }
    println!("  then it syncs: {received} messages in {:.2} s", watch.elapsed().as_secs_f64());
    Ok(())
}

/// Registration of new users.
pub(crate) async fn accounts(server: &Server, process: &Process, count: usize) -> Result<(), Failure> {
    let cpu = process.cpu();
    let watch = Stopwatch::start();
    server.register_all("account", count).await?;
    let cpu = (process.cpu() - cpu).as_secs_f64() * 1_000.0 / count as f64;
    println!("{count} registrations: {:.1}/s; {cpu:.1} ms of CPU each", count as f64 / watch.elapsed().as_secs_f64());
    Ok(())
}

/// `count` messages and as many syncs of 64 users in 16 rooms; memory after each tenth of them.
pub(crate) async fn endurance(server: &Server, process: &Process, count: usize) -> Result<(), Failure> {
    let users = server.register_all("steady", 64).await?;
    let mut rooms = Vec::new();
    for company in users.chunks(4) {
        let Some((owner, others)) = company.split_first() else { continue };
        let room = owner.create_room().await?;
        for other in others {
            other.join(&room).await?;
        }
        rooms.extend(company.iter().map(|_| room.clone()));
    }
    let mut tokens = try_join_all(users.iter().map(|user| user.sync(None, 0))).await?;
    let parts = 10;
    let each = (count / users.len() / parts).max(1);
    for part in 1..=parts {
        let cpu = process.cpu();
        let work = users.iter().zip(&rooms).zip(tokens).map(|((user, room), (bytes, mut token))| async move {
            for number in 0..each {
                user.send(room, &format!("e{part}-{number}"), TEXT).await?;
                token = user.sync(Some(&token), 0).await?.1;
            }
            Ok::<_, Failure>((bytes, token))
        });
        tokens = try_join_all(work).await?;
        let cpu = (process.cpu() - cpu).as_secs_f64() * 1_000.0 / (each * users.len()) as f64;
        println!(
            "after {} messages and syncs: {:.1} MiB resident; {cpu:.3} ms of CPU for one of each",
            part * each * users.len(),
            process.resident_mib().unwrap_or_default(),
        );
    }
    Ok(())
}

/// Memory with `count` users who wait in `/sync`, each on a connection of its own.
pub(crate) async fn waiting(server: &Server, process: &Process, count: usize) -> Result<(), Failure> {
    let users = server.register_all("waiting", count).await?;
    let before = process.resident_mib().unwrap_or_default();
    let tokens = try_join_all(users.iter().map(|user| user.sync(None, 0))).await?;
    let wait = try_join_all(users.iter().zip(&tokens).map(|(user, (_, token))| user.sync(Some(token), 10_000)));
    let look = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        process.resident_mib().unwrap_or_default()
    };
    let (waited, during) = tokio::join!(wait, look);
    waited?;
    println!(
        "{count} users wait: {during:.1} MiB resident, {before:.1} MiB before; {:.1} KiB each",
        (during - before) * 1_024.0 / count as f64
    );
    Ok(())
}
