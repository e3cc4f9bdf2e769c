//! Load on a running homeserver, ours or another, over the Client-Server API.
//!
//! Every scenario makes its own users and rooms, so it can be repeated against the same server. Figures are of one run on
//! one machine: compare servers by running both in turn. docs/benchmarks.md says how.

mod client;
mod devices;
mod federation;
mod finding;
mod large;
mod measure;
mod scenario;
mod sliding;
mod start;

use clap::{Parser, ValueEnum};

use crate::{client::Server, federation::Pair, measure::Process};

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
    /// What starts the server, for the scenarios `start` and `sliding-cold`: a command that does not fork. No server may
    /// run then.
    #[arg(long)]
    command: Option<String>,
    /// Where a second server answers clients that federates with the first, for the scenarios of federation.
    #[arg(long)]
    other: Option<String>,
    /// The second server's process.
    #[arg(long)]
    other_pid: Option<u32>,
    /// The token of an application service of the first server, which makes the members of large rooms and the people of
    /// directories: users whose names begin with `bench_`.
    #[arg(long)]
    appservice_token: Option<String>,
    /// How many members those rooms have.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 5_000])]
    members: Vec<usize>,
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
    /// Sliding sync of accounts with 100, 1,000 and 5,000 rooms.
    Sliding,
    /// As `Sliding`, of a server that has just been started.
    SlidingCold,
    /// A new topic in rooms of 10 and 100 members.
    StateChange,
    /// Everything in rooms of 100 and 100,000 members, whom the application service makes.
    LargeRoom,
    /// Registering and logging in.
    Accounts,
    /// 100,000 messages to a device that never syncs, and then its first sync.
    ToDevice,
    /// Searching 1,000,000 messages, which takes some minutes to send.
    Search,
    /// Searching 100,000 people, whom the application service makes.
    People,
    /// Uploading photographs; their thumbnails.
    Thumbnails,
    /// One message to 200 phones at one push gateway, on a port of its own of this machine.
    Push,
    /// One message at a time to a waiting user of the other server.
    FederationLatency,
    /// Messages of 64 senders into a room that the other server is in.
    FederationMessages,
    /// A user of the other server joins large rooms.
    FederationJoin,
    /// From the start of the process to its first answer; memory when idle.
    Start,
    /// 1,000,000 messages and as many syncs: whether memory stays where it is.
    Endurance,
    /// Memory with 1,000 users who wait in `/sync`.
    Waiting,
    /// All that needs one running server, in a few minutes.
    All,
}

fn pair(arguments: &Arguments) -> Result<Pair, client::Failure> {
    Ok(Pair {
        here: Server::new(&arguments.server)?,
        there: Server::new(arguments.other.as_deref().ok_or("say --other")?)?,
        appservice: arguments.appservice_token.clone(),
    })
}

/// What [`Scenario::All`] stands for.
const ALL: [Scenario; 10] = [
    Scenario::OneRoom,
    Scenario::ManyRooms,
    Scenario::FanOut,
    Scenario::Sync,
    Scenario::Sliding,
    Scenario::StateChange,
    Scenario::Accounts,
    Scenario::ToDevice,
    Scenario::Thumbnails,
    Scenario::Waiting,
];

#[tokio::main]
async fn main() -> Result<(), client::Failure> {
    let arguments = Arguments::parse();
    let server = Server::new(&arguments.server)?;
    let process = Process::new(arguments.pid, arguments.data_dir.clone());
    process.report("before");
    let all = arguments.scenarios.contains(&Scenario::All);
    for scenario in if all { &ALL[..] } else { &arguments.scenarios } {
        let scale = |count: f64| (count * arguments.scale).max(1.0) as usize;
        match scenario {
            Scenario::OneRoom => scenario::messages(&server, &process, 64, 1, scale(10_000.0)).await?,
            Scenario::ManyRooms => scenario::messages(&server, &process, 64, 64, scale(10_000.0)).await?,
            Scenario::FanOut => scenario::fan_out(&server, &process, 200, scale(50.0)).await?,
            Scenario::Sync => {
                scenario::sync(&server, &process, scale(100.0)).await?;
                scenario::sync(&server, &process, scale(1_000.0)).await?;
            }
            Scenario::Sliding => {
                for rooms in [100.0, 1_000.0, 5_000.0] {
                    sliding::sliding(&server, &process, scale(rooms)).await?;
                }
            }
            Scenario::SlidingCold => {
                let command = arguments.command.as_deref().ok_or("say --command")?;
                sliding::cold(&server, command, scale(5_000.0)).await?;
            }
            Scenario::StateChange => {
                scenario::state_change(&server, &process, 10).await?;
                scenario::state_change(&server, &process, scale(100.0)).await?;
            }
            Scenario::LargeRoom => {
                let token = arguments.appservice_token.as_deref().ok_or("say --appservice-token")?;
                large::room(&server, &process, token, &[100, scale(100_000.0)]).await?;
            }
            Scenario::Search => finding::messages(&server, &process, scale(1_000_000.0)).await?,
            Scenario::People => {
                let token = arguments.appservice_token.as_deref().ok_or("say --appservice-token")?;
                finding::people(&server, &process, token, scale(100_000.0)).await?;
            }
            Scenario::Thumbnails => devices::thumbnails(&server, &process, scale(10.0)).await?,
            Scenario::Push => devices::push(&server, &process, 200, scale(50.0)).await?,
            Scenario::ToDevice => scenario::to_device(&server, &process, scale(100_000.0)).await?,
            Scenario::Endurance => scenario::endurance(&server, &process, scale(1_000_000.0)).await?,
            Scenario::Waiting => scenario::waiting(&server, &process, scale(1_000.0)).await?,
            Scenario::All => {}
            Scenario::Start => {
                start::start(&server, arguments.command.as_deref().ok_or("say --command")?).await?;
            }
            Scenario::FederationLatency => pair(&arguments)?.latency(scale(200.0)).await?,
            Scenario::FederationMessages => {
                let processes = [Process::new(arguments.pid, None), Process::new(arguments.other_pid, None)];
                pair(&arguments)?.throughput(64, scale(10_000.0), &processes).await?;
            }
            Scenario::FederationJoin => {
                for members in &arguments.members {
                    pair(&arguments)?.join(*members).await?;
                }
            }
            Scenario::Accounts => scenario::accounts(&server, &process, scale(50.0)).await?,
        }
    }
    process.report("after");
    Ok(())
}
