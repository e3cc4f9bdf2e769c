//! `samtal serve`.

use std::io::Write as _;

use samtal_config::Source;
use samtal_kit::{Clock, Random};
use samtal_server::control::told;
use samtal_server::{Installation, Running};
use samtal_telemetry::Metrics;
use tokio::signal::unix::{SignalKind, signal};

use crate::Outcome;

/// Runs the server until it is told to end.
pub(crate) async fn serve(source: Source) -> Outcome {
    // Before the ready line, so that a signal that follows it at once is not missed.
    let signal = |kind| signal(kind).map_err(|e| format!("cannot wait for signals: {e}"));
    let (mut hang_up, mut terminate, mut interrupt) =
        (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let installation = Installation::take(source, Clock::system(), Random::system()).map_err(|e| told(&e))?;
    let log = installation.start_log();
    let mut running = Running::start(installation, Metrics::new(), Some(log)).await.map_err(|e| told(&e))?;
    say_ready(&running);
    loop {
        tokio::select! {
            _ = hang_up.recv() => match running.reload().await {
                Ok(waiting) if waiting.is_empty() => tracing::info!("configuration read again"),
                Ok(waiting) => {
                    tracing::warn!("configuration read again; these changes wait for a restart: {}", waiting.join(", "));
                }
                Err(error) => tracing::error!("configuration not taken in: {}", told(&error)),
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("ending");
    // A second signal does not wait.
    tokio::select! {
        () = running.end() => tracing::info!("ended"),
        _ = terminate.recv() => tracing::warn!("ended at once"),
        _ = interrupt.recv() => tracing::warn!("ended at once"),
    }
    Ok(())
}

/// One line on the standard output once requests are answered: `ready NAME[,NAME…] URL…`.
fn say_ready(running: &Running) {
    let (names, urls) = (running.names().join(","), running.urls().join(" "));
    let mut out = std::io::stdout().lock();
    // A closed standard output is no reason to end.
    let _ = writeln!(out, "ready {names} {urls}").and_then(|()| out.flush());
    tracing::info!(names, urls, version = env!("CARGO_PKG_VERSION"), "ready");
}
