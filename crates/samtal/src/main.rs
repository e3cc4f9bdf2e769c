//! The command `samtal`: starts the server, and does an operator's work on it.

mod args;
mod backup;
mod config;
mod federation;
mod room;
mod serve;
mod tenant;
mod user;

use std::process::ExitCode;

use args::{Args, Verb};
use clap::Parser as _;

/// Gives memory back that was used for a moment, and is quicker with many small pieces.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a command ends with: nothing, or a message for the operator.
type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("samtal").build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("samtal: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let source = args.source();
    let outcome = runtime.block_on(async {
        match args.verb {
            Verb::Serve => Box::pin(serve::serve(source)).await,
            Verb::Config { verb } => config::config(&source, &verb),
            Verb::User { verb } => user::user(&source, verb).await,
            Verb::Federation(args) => federation::federation(&source, args).await,
            Verb::Tenant { verb } => tenant::tenant(&source, &verb),
            Verb::Room(args) => room::room(&source, args).await,
            Verb::Report(args) => room::report(&source, args).await,
            Verb::Audit { tenant, last } => room::audit(&source, tenant, last).await,
            Verb::Backup { directory } => backup::backup(&source, &directory).await,
            Verb::Restore { directory } => backup::restore(&source, &directory).await,
        }
    });
    // What still blocks (a DNS look-up, say) must not hold up the end.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("samtal: {message}");
            ExitCode::FAILURE
        }
    }
}
