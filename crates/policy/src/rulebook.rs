//! The stored rules of one tenant: changed at once, on every node, without a restart.

use std::{sync::Arc, time::Duration};

use ruma::ServerName;
use samtal_db::{Batch, Change, Db, DbError, Row, params};
use samtal_kit::{Clock, Tasks};
use samtal_model::ChangeKind;
use serde::Serialize;
use tokio::{sync::Mutex, time::Instant};

use crate::{
    Action, Direction, Effect, Pattern, Policy, ServerRule, Setting, Stored, StoredRule, schema, tally::PENDING_MAX,
};

/// Most rules that are stored.
pub const RULES_MAX: usize = 10_000;
/// Kinds of refusals that are kept, the newest.
const REFUSALS_KEPT: usize = 2_000;
/// Longest pattern, in bytes: as long as a server's name.
const PATTERN_BYTES_MAX: usize = 255;
/// Longest reason, in bytes.
const REASON_BYTES_MAX: usize = 1_000;
/// Refusals are stored together, so long after the first one.
const STORE_AFTER: Duration = Duration::from_secs(5);
/// The pause after the database failed.
const TROUBLE: Duration = Duration::from_secs(1);
/// What the change log calls a change of the stored rules.
const REFERENCE: &str = "federation";

/// Why a rule is not stored.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// Its pattern could name no server.
    #[error(
        "{0:?} is no pattern of server names: expected letters, digits, '.', '-', ':', '[', ']', '*' and '?', without a port"
    )]
    Pattern(String),
    /// Its reason is too long.
    #[error("the reason is longer than {REASON_BYTES_MAX} bytes")]
    Reason,
    /// There are too many.
    #[error("there are {RULES_MAX} rules, and more are not kept: use patterns")]
    Full,
    /// The database failed.
    #[error("storage failed")]
    Storage(#[from] DbError),
}

/// Which rules of a pattern are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    #[default]
    All,
    /// The one for this direction and kind of traffic; nothing is "both" and "every kind".
    One(Option<Direction>, Option<Action>),
}

/// How often something was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The other server.
    pub server: String,
    /// From where to where.
    pub direction: String,
    /// What was about to pass.
    pub action: String,
    /// A word for the rule.
    pub rule: String,
    /// The rule in words, as it was the last time.
    pub words: String,
    /// How often.
    pub count: i64,
    /// The first time, in ms since the epoch, to within some seconds.
    pub first_ms: i64,
    /// The last time, the same way.
    pub last_ms: i64,
}

/// The stored rules of one tenant. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rulebook {
    db: Db,
    clock: Clock,
    policy: Policy,
    /// Whose turn it is to read, so that what was read last is in force.
    reading: Arc<Mutex<()>>,
}

impl Rulebook {
    /// Reads what is stored and puts it in force.
    pub async fn open(db: Db, clock: Clock, policy: Policy) -> Result<Self, DbError> {
        let rulebook = Self { db, clock, policy, reading: Arc::default() };
        rulebook.reload().await?;
        Ok(rulebook)
    }

    /// What is in force of what is stored.
    pub fn stored(&self) -> Stored {
        self.policy.rules().stored.clone()
    }

    /// Stores a rule, in place of one for the same servers, direction and kind.
    pub async fn put(&self, effect: Effect, rule: &ServerRule) -> Result<(), RuleError> {
        let pattern = rule.server.as_str();
        let known = |c: char| c.is_ascii_alphanumeric() || "-.:[]*?".contains(c);
        // A port is never looked at, so a pattern with one would match nothing.
        let has_port = pattern.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':'));
        if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX || !pattern.chars().all(known) || has_port {
            return Err(RuleError::Pattern(pattern.chars().take(PATTERN_BYTES_MAX).collect()));
        }
        if rule.reason.len() > REASON_BYTES_MAX {
            return Err(RuleError::Reason);
        }
        let count = self.db.query_opt(&schema::RULE_COUNT, params![]).await?.map_or(Ok(0), |row| row.int(0))?;
        if usize::try_from(count).is_ok_and(|count| count >= RULES_MAX) {
            return Err(RuleError::Full);
        }
        let (direction, action) = columns(rule.direction, rule.action);
        let mut batch = Batch::new();
        let now_ms = self.clock.now_ms();
        batch.exec(
            &schema::RULE_SET,
            params![pattern, direction, action, effect.as_str(), rule.reason.as_str(), now_ms],
        );
        Ok(self.change(batch).await?)
    }

    /// Removes the rules with this pattern. How many there were.
    pub async fn remove(&self, server: &Pattern, which: Which) -> Result<usize, DbError> {
        let is_meant = |stored: &StoredRule| {
            stored.rule.server == *server
                && match which {
                    Which::All => true,
                    Which::One(direction, action) => stored.rule.direction == direction && stored.rule.action == action,
                }
        };
        self.reload().await?;
        let count = self.stored().rules.iter().filter(|stored| is_meant(stored)).count();
        let mut batch = Batch::new();
        match which {
            Which::All => batch.exec(&schema::RULES_DELETE, params![server.as_str()]),
            Which::One(direction, action) => {
                let (direction, action) = columns(direction, action);
                batch.exec(&schema::RULE_DELETE, params![server.as_str(), direction, action]);
            }
        }
        self.change(batch).await?;
        Ok(count)
    }

    /// Stores settings, or leaves them to the file again.
    pub async fn set(&self, settings: &[Setting]) -> Result<(), DbError> {
        let mut batch = Batch::new();
        for setting in settings {
            match setting.row() {
                (name, Some(value)) => batch.exec(&schema::SETTING_SET, params![name, value]),
                (name, None) => batch.exec(&schema::SETTING_DELETE, params![name]),
            }
        }
        self.change(batch).await
    }

    /// What was refused, the latest first; of one server only, if it is named.
    pub async fn refusals(&self, server: Option<&ServerName>, limit: usize) -> Result<Vec<Refusal>, DbError> {
        self.store_refusals().await?;
        let rows = match server {
            Some(server) => self.db.query(&schema::REFUSALS_OF, params![server.as_str(), limit]).await?,
            None => self.db.query(&schema::REFUSALS, params![limit]).await?,
        };
        rows.iter().map(refusal).collect()
    }

    /// Follows the change log, so that what another node or a command stores counts here too, and stores refusals now and then.
    /// Ends with the tenant.
    pub async fn run(self, tasks: Tasks) {
        let mut changes = self.db.changes(self.db.position());
        let mut is_stale = true;
        let mut store_at: Option<Instant> = None;
        loop {
            if is_stale {
                match self.reload().await {
                    Ok(()) => is_stale = false,
                    Err(error) => {
                        tracing::error!(%error, "the federation rules cannot be read");
                        tokio::time::sleep(TROUBLE).await;
                        continue;
                    }
                }
            }
            let pause = async {
                match store_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = tasks.stopping() => break,
                page = changes.next() => match page {
                    Ok(page) => is_stale = page.iter().any(|logged| {
                        logged.change.kind == ChangeKind::Setting.code()
                            && logged.change.reference.as_deref() == Some(REFERENCE)
                    }),
                    Err(error) => {
                        tracing::error!(%error, "the log cannot be read");
                        tokio::time::sleep(TROUBLE).await;
                    }
                },
                () = self.policy.tally().has_some.notified(), if store_at.is_none() => {
                    store_at = Some(Instant::now() + STORE_AFTER);
                }
                () = pause => {
                    store_at = None;
                    if let Err(error) = self.store_refusals().await {
                        tracing::error!(%error, "refusals could not be stored");
                        store_at = Some(Instant::now() + STORE_AFTER);
                    }
                }
            }
        }
        if let Err(error) = self.store_refusals().await {
            tracing::error!(%error, "refusals could not be stored");
        }
    }

    async fn change(&self, mut batch: Batch) -> Result<(), DbError> {
        batch.log(Change::new(ChangeKind::Setting).reference(REFERENCE));
        self.db.commit(batch).await?;
        self.reload().await
    }

    /// Reads what is stored and puts it in force.
    async fn reload(&self) -> Result<(), DbError> {
        let _turn = self.reading.lock().await;
        let snapshot = self.db.snapshot().await?;
        let mut stored = Stored::default();
        for row in snapshot.query(&schema::RULES, params![]).await? {
            // A row that a later version wrote is left alone.
            stored.rules.extend(rule(&row)?);
        }
        for row in snapshot.query(&schema::SETTINGS, params![]).await? {
            stored.take(row.text(0)?, row.text(1)?);
        }
        self.policy.replace_stored(stored);
        Ok(())
    }

    async fn store_refusals(&self) -> Result<(), DbError> {
        let kinds = self.policy.tally().take();
        if kinds.is_empty() {
            return Ok(());
        }
        debug_assert!(kinds.len() <= 2 * PENDING_MAX, "the tally is bounded");
        let now_ms = self.clock.now_ms();
        let mut batch = Batch::new();
        for (kind, (count, words)) in &kinds {
            let (direction, action) = (kind.direction.as_str(), kind.action.as_str());
            batch.exec(
                &schema::REFUSAL_ADD,
                params![kind.server.as_str(), direction, action, kind.code, words.as_str(), *count, now_ms, now_ms],
            );
        }
        batch.exec(&schema::REFUSALS_PRUNE, params![REFUSALS_KEPT]);
        if let Err(error) = self.db.commit(batch).await {
            self.policy.tally().put_back(kinds);
            return Err(error);
        }
        Ok(())
    }
}

fn columns(direction: Option<Direction>, action: Option<Action>) -> (&'static str, &'static str) {
    (direction.map_or("", Direction::as_str), action.map_or("", Action::as_str))
}

fn rule(row: &Row) -> Result<Option<StoredRule>, DbError> {
    let (direction, action) = (row.text(1)?, row.text(2)?);
    let rule = ServerRule {
        server: Pattern::new(row.text(0)?),
        direction: Direction::from_word(direction),
        action: Action::from_word(action),
        reason: row.text(4)?.to_owned(),
    };
    let is_known = (direction.is_empty() || rule.direction.is_some()) && (action.is_empty() || rule.action.is_some());
    let since_ms = u64::try_from(row.int(5)?).unwrap_or(0);
    let effect = Effect::from_word(row.text(3)?).filter(|_| is_known);
    Ok(effect.map(|effect| StoredRule { effect, rule, since_ms }))
}

fn refusal(row: &Row) -> Result<Refusal, DbError> {
    Ok(Refusal {
        server: row.text(0)?.to_owned(),
        direction: row.text(1)?.to_owned(),
        action: row.text(2)?.to_owned(),
        rule: row.text(3)?.to_owned(),
        words: row.text(4)?.to_owned(),
        count: row.int(5)?,
        first_ms: row.int(6)?,
        last_ms: row.int(7)?,
    })
}
