//! Keeping the change log short: a job beside the followers, which deletes what all of them have read.
//!
//! Every minute, on one node at a time. When it stops, the log grows by some 150 bytes an event, and nothing else happens.

use std::{sync::Arc, time::Duration};

use samtal_db::DbError;

use crate::Homeserver;

const EVERY: Duration = Duration::from_secs(60);
/// The newest changes are kept though everyone here has read them: readers on other nodes may be this far behind.
const KEPT: i64 = 10_000;
/// As [`KEPT`], where there may be other nodes.
const KEPT_FOR_NODES: i64 = 200_000;
/// A server that we cannot reach has the log kept for it, but not longer than this: it costs nothing more than the log of others
/// does. It is then told the newest event of each room, from which it finds those before.
const KEPT_FOR_SERVERS: i64 = KEPT;
/// Between two deletions, so that others get to write.
const PAUSE: Duration = Duration::from_millis(20);

impl Homeserver {
    /// Deletes old changes now and then. Ends with the tenant.
    pub(crate) async fn keep_log_short(self: Arc<Self>) {
        let mut looked_at = -1;
        loop {
            tokio::select! {
                () = self.tasks.stopping() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            // A tenant where nothing happens is left asleep.
            let position = self.db.position();
            if position == looked_at {
                continue;
            }
            match self.shorten_log().await {
                Ok(()) => looked_at = position,
                Err(error) => tracing::warn!(%error, "the change log could not be shortened"),
            }
        }
    }

    async fn shorten_log(&self) -> Result<(), DbError> {
        let Some(_lease) = self.db.lease("change log").await? else { return Ok(()) };
        let kept = if self.db.is_postgres() { KEPT_FOR_NODES } else { KEPT };
        let waiting = self.sender.needed_after().await.map_err(|error| DbError::Engine(error.to_string(), None))?;
        let needed_after = waiting.max(self.db.position() - KEPT_FOR_SERVERS);
        while self.db.prune_log(kept, needed_after).await? && !self.tasks.is_stopping() {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }
}
