//! A room of very many members: what it costs to change, to write to, and to look at.

use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;
use serde_json::{Value, json};

use crate::{
    client::{Failure, Server, User, escape},
    measure::{Process, Spread, Stopwatch},
    scenario::{TEXT, settled},
};

/// Members that come at once.
const AT_ONCE: usize = 16;
/// Messages, and changes of the topic.
const ROUNDS: usize = 100;
/// A filter for members that have something to do with what is shown.
const LAZY: &str = "%7B%22room%22:%7B%22state%22:%7B%22lazy_load_members%22:true%7D%7D%7D";

/// Has new users of an application service join a room.
pub(crate) async fn fill(server: &Server, token: &str, room: &str, name: &str, members: usize) -> Result<(), Failure> {
    let stamp = crate::measure::stamp();
    stream::iter(0..members)
        .map(|number| {
            let user = format!("bench_{stamp}_{number}");
            let id = escape(&format!("@{user}:{name}"));
            async move {
                let body = json!({ "type": "m.login.application_service", "username": user, "inhibit_login": true });
                let path = "/_matrix/client/v3/register";
                server.raw(Method::POST, path, Some(token), Some(&body)).await?;
                let path = format!("/_matrix/client/v3/rooms/{}/join?user_id={id}", escape(room));
                server.raw(Method::POST, &path, Some(token), Some(&json!({}))).await
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| async { Ok(()) })
        .await
}

/// How long some requests take, one after the other, and the server's CPU time for each.
async fn timed<F: Future<Output = Result<usize, Failure>>>(
    what: &str,
    process: &Process,
    rounds: usize,
    work: impl Fn(usize) -> F,
) -> Result<f64, Failure> {
    let (mut times, mut bytes, cpu) = (Vec::with_capacity(rounds), 0, process.cpu());
    for round in 0..rounds {
        let watch = Stopwatch::start();
        bytes = work(round).await?;
        times.push(watch.elapsed());
    }
    let cpu = (process.cpu() - cpu).as_secs_f64() * 1_000.0 / rounds as f64;
    let first = times.first().map_or(0.0, std::time::Duration::as_secs_f64) * 1_000.0;
    let times = Spread::new(times);
    println!("  {what}: the first {first:.1} ms, {times}; {cpu:.2} ms of CPU, {bytes} bytes");
    Ok(times.at(0.5))
}

async fn get(user: &User, path: &str) -> Result<usize, Failure> {
    Ok(user.server.raw(Method::GET, path, Some(&user.token), None).await?.len())
}

async fn topics(process: &Process, owner: &User, room: &str) -> Result<f64, Failure> {
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.topic", escape(room));
    let path = path.as_str();
    timed("a new topic", process, ROUNDS, |round| async move {
        let body = json!({ "topic": format!("Topic {round}") });
        Ok(owner.server.raw(Method::PUT, path, Some(&owner.token), Some(&body)).await?.len())
    })
    .await
}

/// What those in a room of each of these sizes wait for, the last compared with the first.
pub(crate) async fn room(server: &Server, process: &Process, token: &str, sizes: &[usize]) -> Result<(), Failure> {
    let mut topics_before = None;
    for members in sizes {
        let owner = server.register("owner", 0).await?;
        let who = owner.call(Method::GET, "/_matrix/client/v3/account/whoami", None).await?;
        let id = who.get("user_id").and_then(Value::as_str).ok_or("no user id")?;
        let name = id.split_once(':').ok_or("no server name")?.1;
        let room = owner.create_room().await?;
        let (cpu, watch) = (process.cpu(), Stopwatch::start());
        fill(server, token, &room, name, members.saturating_sub(2)).await?;
        let newcomer = server.register("newcomer", 0).await?;
        println!(
            "a room of {members} members, made in {:.0} s; {:.2} ms of CPU for each of them, registration included",
            watch.elapsed().as_secs_f64(),
            (process.cpu() - cpu).as_secs_f64() * 1_000.0 / *members as f64
        );
        settled(process).await;
        let (owner, newcomer, room) = (&owner, &newcomer, room.as_str());
        timed("a join", process, 1, |_| async move { newcomer.join(room).await.map(|()| 0) }).await?;
        timed("a message", process, ROUNDS, |round| async move {
            newcomer.send(room, &format!("l{round}"), TEXT).await.map(|()| 0)
        })
        .await?;
        let took = topics(process, owner, room).await?;
        match topics_before {
            None => topics_before = Some(took),
            Some(before) => println!("  that is {:.1} times what it takes in the first room", took / before),
        }
        let all = format!("/_matrix/client/v3/rooms/{}/members", escape(room));
        let all = all.as_str();
        timed("/members", process, 3, |_| get(newcomer, all)).await?;
        let joined = format!("/_matrix/client/v3/rooms/{}/joined_members", escape(room));
        let joined = joined.as_str();
        timed("/joined_members", process, 3, |_| get(newcomer, joined)).await?;
        let lazy = format!("/_matrix/client/v3/sync?filter={LAZY}");
        let lazy = lazy.as_str();
        timed("initial sync, members lazily", process, 3, |_| get(newcomer, lazy)).await?;
        timed("initial sync, all members", process, 3, |_| get(newcomer, "/_matrix/client/v3/sync")).await?;
        let since = newcomer.sync(None, 0).await?.1;
        owner.send(room, "last", TEXT).await?;
        let since = since.as_str();
        timed("sync of one message", process, 3, |_| async move { Ok(newcomer.sync(Some(since), 0).await?.0.len()) })
            .await?;
    }
    Ok(())
}
