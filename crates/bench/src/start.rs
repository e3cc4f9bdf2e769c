//! From the start of a server's process to its first answer, and what it holds in memory when nobody asks.

use std::{process::Stdio, time::Duration};

use http::Method;
use tokio::process::Command;

use crate::{
    client::{Failure, Server},
    measure::{Process, Spread, Stopwatch},
};

const ROUNDS: usize = 7;
const GIVE_UP: Duration = Duration::from_secs(60);

/// Starts `command` (words separated by spaces) and asks until it answers, several times.
pub(crate) async fn start(server: &Server, command: &str) -> Result<(), Failure> {
    let mut words = command.split_whitespace();
    let program = words.next().ok_or("no command to start")?;
    let words: Vec<&str> = words.collect();
    let mut times = Vec::new();
    let mut resident = Vec::new();
    for _ in 0..ROUNDS {
        let watch = Stopwatch::start();
        let mut child = Command::new(program)
            .args(&words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        while server.raw(Method::GET, "/_matrix/client/versions", None, None).await.is_err() {
            if watch.elapsed() > GIVE_UP {
                return Err("the server does not answer".into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.push(watch.elapsed());
        tokio::time::sleep(Duration::from_secs(2)).await;
        resident.extend(Process::new(child.id(), None).resident_mib());
        child.kill().await?;
    }
    resident.sort_by(f64::total_cmp);
    let middle = resident.get(resident.len() / 2).copied().unwrap_or_default();
    println!("start to first answer: {}; {middle:.1} MiB resident when idle", Spread::new(times));
    Ok(())
}
