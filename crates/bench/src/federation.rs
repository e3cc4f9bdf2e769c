//! Between two servers: how long an event takes, how many pass, how soon a large room is joined.

use std::time::Duration;

use futures_util::future::try_join_all;
use http::Method;
use serde_json::{Value, json};

use crate::{
    client::{Failure, Server, User, escape},
    measure::{Process, Spread, Stopwatch},
};

/// What each message says: with its envelope about 350 bytes, as chat is.
const TEXT: &str = "The minutes of the meeting are in the shared folder; please read them before Thursday.";
/// Longest wait for what was sent.
const PATIENCE: Duration = Duration::from_secs(180);

/// Two servers that federate.
pub(crate) struct Pair {
    /// Where rooms are made and messages sent.
    pub(crate) here: Server,
    /// Where they arrive.
    pub(crate) there: Server,
    /// The token of an application service of the first server, which makes members.
    pub(crate) appservice: Option<String>,
}

impl Pair {
    /// A user of each side in a common room.
    async fn room(&self) -> Result<(User, User, String), Failure> {
        let (here, there) = (self.here.register("here", 0).await?, self.there.register("there", 0).await?);
        let room = here.create_room().await?;
        there.join_via(&room, &here.server_name().await?).await?;
        there.members(&room).await?;
        Ok((here, there, room))
    }

    /// One message at a time: from the sender's request to the bytes at the other server's waiting user.
    pub(crate) async fn latency(&self, rounds: usize) -> Result<(), Failure> {
        let (here, there, room) = self.room().await?;
        let mut since = there.sync(None, 0).await?.1;
        let mut times = Vec::with_capacity(rounds);
        for round in 0..rounds {
            let text = format!("round {round} of many");
            let arrival = there.until_heard(&mut since, &text);
            let send = async {
                // Long enough for the request to be waiting, and for both servers to be idle.
                tokio::time::sleep(Duration::from_millis(40)).await;
                let watch = Stopwatch::start();
                here.send(&room, &format!("l{round}"), &text).await?;
                Ok::<_, Failure>(watch)
            };
            let (arrived, watch) = tokio::join!(arrival, send);
            arrived?;
            times.push(watch?.elapsed());
        }
        println!("one message to another server's waiting user: {}", Spread::new(times));
        Ok(())
    }

    /// `senders` users of one server send `count` messages into one room: until the last is at the other server.
    pub(crate) async fn throughput(&self, senders: usize, count: usize, processes: &[Process]) -> Result<(), Failure> {
        let (here, there, room) = self.room().await?;
        let users = self.here.register_all("sender", senders).await?;
        for user in &users {
            user.join(&room).await?;
        }
        here.send(&room, "begin", "all are here").await?;
        let mut since = there.sync(None, 0).await?.1;
        if !there.has_heard(&room, "all are here").await? {
            there.until_heard(&mut since, "all are here").await?;
        }
        let cpu: Vec<Duration> = processes.iter().map(Process::cpu).collect();
        let each = count / senders;
        let watch = Stopwatch::start();
        let send = try_join_all(users.iter().enumerate().map(|(number, user)| {
            let room = room.clone();
            async move {
                for message in 0..each {
                    user.send(&room, &format!("t{message}"), &format!("{TEXT} {number}")).await?;
                }
                Ok::<_, Failure>(())
            }
        }));
        // Events go out in the order of their making: when this has arrived, all have.
        let sent = async {
            send.await?;
            let sent = watch.elapsed();
            here.send(&room, "end", "these were all").await?;
            Ok::<_, Failure>(sent)
        };
        let (sent, arrived) = tokio::join!(sent, there.until_heard(&mut since, "these were all"));
        let (sent, elapsed) = (sent?, watch.elapsed());
        arrived?;
        let cpu_after: Vec<Duration> = processes.iter().map(Process::cpu).collect();
        let arrived = there.count_messages(&room, each * senders).await?;
        println!(
            "{arrived} of {} messages of {senders} senders at the other server: {:.0} events/s ({:.0}/s sent)",
            each * senders,
            arrived as f64 / elapsed.as_secs_f64(),
            (each * senders) as f64 / sent.as_secs_f64(),
        );
        for (number, (after, before)) in cpu_after.into_iter().zip(cpu).enumerate() {
            let ms = after.saturating_sub(before).as_secs_f64() * 1_000.0;
            println!("  {:.3} ms of CPU for each at server {}", ms / (each * senders) as f64, number + 1);
        }
        Ok(())
    }

    /// A user of the other server joins a room of `members` members.
    pub(crate) async fn join(&self, members: usize) -> Result<(), Failure> {
        let here = self.here.register("here", 0).await?;
        let room = here.create_room().await?;
        let token = self.appservice.as_deref().ok_or("say --appservice-token")?;
        let name = here.server_name().await?;
        crate::large::fill(&self.here, token, &room, &name, members).await?;
        // Not before: a server closes connections that wait for so long.
        let there = self.there.register("there", 0).await?;
        let watch = Stopwatch::start();
        there.join_via(&room, &name).await?;
        let joined = watch.elapsed();
        there.send(&room, "first", TEXT).await?;
        let written = watch.elapsed();
        let known = there.members(&room).await?;
        let whole = watch.elapsed();
        println!(
            "a room of {members} members: joined after {:.0} ms, written to after {:.0} ms, all {known} members there \
             after {:.0} ms",
            joined.as_secs_f64() * 1_000.0,
            written.as_secs_f64() * 1_000.0,
            whole.as_secs_f64() * 1_000.0
        );
        Ok(())
    }
}

impl User {
    async fn server_name(&self) -> Result<String, Failure> {
        let answer = self.call(Method::GET, "/_matrix/client/v3/account/whoami", None).await?;
        let id = answer.get("user_id").and_then(Value::as_str).ok_or("no user id")?;
        Ok(id.split_once(':').ok_or("no server name")?.1.to_owned())
    }

    async fn join_via(&self, room: &str, server: &str) -> Result<(), Failure> {
        let server = escape(server);
        let path = format!("/_matrix/client/v3/join/{}?via={server}&server_name={server}", escape(room));
        self.call(Method::POST, &path, Some(json!({}))).await?;
        Ok(())
    }

    /// How many are in the room; the answer comes when all of them are known.
    async fn members(&self, room: &str) -> Result<usize, Failure> {
        let path = format!("/_matrix/client/v3/rooms/{}/joined_members", escape(room));
        let answer = self.call(Method::GET, &path, None).await?;
        Ok(answer.get("joined").and_then(Value::as_object).map_or(0, serde_json::Map::len))
    }

    async fn has_heard(&self, room: &str, text: &str) -> Result<bool, Failure> {
        let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=20", escape(room));
        Ok(self.call(Method::GET, &path, None).await?.to_string().contains(text))
    }

    async fn until_heard(&self, since: &mut String, text: &str) -> Result<(), Failure> {
        let watch = Stopwatch::start();
        while watch.elapsed() < PATIENCE {
            let (bytes, next) = self.sync(Some(since), 10_000).await?;
            *since = next;
            if bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
                return Ok(());
            }
        }
        Err(format!("{text:?} did not arrive").into())
    }

    /// How many of the newest messages of the room are of the measurement, up to `wanted`.
    async fn count_messages(&self, room: &str, wanted: usize) -> Result<usize, Failure> {
        let (mut from, mut count) = (String::new(), 0);
        while count < wanted {
            let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=500{from}", escape(room));
            let answer = self.call(Method::GET, &path, None).await?;
            let chunk = answer.get("chunk").and_then(Value::as_array).ok_or("no chunk")?;
            let is_ours = |event: &&Value| {
                event.pointer("/content/body").and_then(Value::as_str).is_some_and(|body| body.starts_with(TEXT))
            };
            count += chunk.iter().filter(is_ours).count();
            match answer.get("end").and_then(Value::as_str) {
                Some(end) if !chunk.is_empty() => from = format!("&from={end}"),
                _ => break,
            }
        }
        Ok(count)
    }
}
