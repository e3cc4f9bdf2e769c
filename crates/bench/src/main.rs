//! Load on a running homeserver, ours or another, over the Client-Server API.
//!
//! Every scenario makes its own users and rooms, so it can be repeated against the same server. Figures are of one run on
//! one machine: compare servers by running both in turn. docs/benchmarks.md says how.

mod client;
mod measure;
mod scenario;
mod start;

use clap::{Parser, ValueEnum};

use crate::{client::Server, measure::Process};

#[derive(Parser)]
#[command(name = "samtal-bench", about, version)]
struct Arguments {
    /// Where the server answers clients, over plain HTTP.
    #[arg(long, default_value = "http://127.0.0.1:8008")]
    server: String,
    /// The server's process: its CPU time, memory and files are reported beside.
    #[arg(long)]
    pid: Option<u32>,
    /// The directory whose size is reported per event.
    #[arg(long)]
    data_dir: Option<std::path::PathBuf>,
    /// What starts the server, for the scenario `start`: a command that does not fork. No server may run then.
    #[arg(long)]
    command: Option<String>,
    /// How much work: 1 is what the documented figures use.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// What to measure.
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Messages of 64 senders into one room.
    OneRoom,
    /// Messages of 64 senders into a room each.
    ManyRooms,
    /// From one sender's request to the bytes at the last of 200 waiting members.
    FanOut,
    /// Initial and incremental sync of accounts with 100 and 1,000 rooms.
    Sync,
    /// A new topic in rooms of 10 and 100 members.
    StateChange,
    /// Registering and logging in.
    Accounts,
    /// 100,000 messages to a device that never syncs, and then its first sync.
    ToDevice,
    /// From the start of the process to its first answer; memory when idle.
    Start,
}

#[tokio::main]
async fn main() -> Result<(), client::Failure> {
    let arguments = Arguments::parse();
    let server = Server::new(&arguments.server)?;
    let process = Process::new(arguments.pid, arguments.data_dir.clone());
    process.report("before");
    for scenario in &arguments.scenarios {
        let scale = |count: f64| (count * arguments.scale).max(1.0) as usize;
        match scenario {
            Scenario::OneRoom => scenario::messages(&server, &process, 64, 1, scale(10_000.0)).await?,
            Scenario::ManyRooms => scenario::messages(&server, &process, 64, 64, scale(10_000.0)).await?,
            Scenario::FanOut => scenario::fan_out(&server, &process, 200, scale(50.0)).await?,
            Scenario::Sync => {
                scenario::sync(&server, &process, scale(100.0)).await?;
                scenario::sync(&server, &process, scale(1_000.0)).await?;
            }
            Scenario::StateChange => {
                scenario::state_change(&server, &process, 10).await?;
                scenario::state_change(&server, &process, scale(100.0)).await?;
            }
            Scenario::ToDevice => scenario::to_device(&server, &process, scale(100_000.0)).await?,
            Scenario::Start => {
                start::start(&server, arguments.command.as_deref().ok_or("say --command")?).await?;
            }
            Scenario::Accounts => scenario::accounts(&server, &process, scale(50.0)).await?,
        }
    }
    process.report("after");
    Ok(())
}
