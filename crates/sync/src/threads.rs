//! Which threads a user has subscribed to, page by page (MSC4308).

use std::collections::BTreeMap;

use ruma::UserId;
use samtal_account::{ThreadState, ThreadSubscription};
use samtal_model::{StreamPosition, SyncToken};

use crate::{Sync, SyncError, json::Object};

/// Most subscriptions of one page.
const PAGE_MAX: usize = 100;

/// Some changes of subscriptions, the newest first.
pub(crate) struct ThreadPage {
    pub(crate) threads: Vec<ThreadSubscription>,
    /// The position at which older ones go on.
    pub(crate) next: Option<i64>,
}

impl ThreadPage {
    /// Writes `subscribed` and `unsubscribed`, each where there is something.
    pub(crate) fn write(&self, object: &mut Object<'_>) {
        for (name, is_subscribed) in [("subscribed", true), ("unsubscribed", false)] {
            let mut rooms: BTreeMap<&str, Vec<&ThreadSubscription>> = BTreeMap::new();
            for thread in self.threads.iter().filter(|thread| thread.state.is_subscribed() == is_subscribed) {
                rooms.entry(thread.room_id.as_str()).or_default().push(thread);
            }
            if rooms.is_empty() {
                continue;
            }
            object.object(name, |object| {
                for (room_id, threads) in rooms {
                    object.object(room_id, |object| {
                        for thread in threads {
                            object.object(thread.root.as_str(), |object| {
                                if is_subscribed {
                                    object.flag("automatic", thread.state == ThreadState::Automatic);
                                }
                                object.number("bump_stamp", u64::try_from(thread.position).unwrap_or(0));
                            });
                        }
                    });
                }
            });
        }
    }
}

impl Sync {
    /// What changed after `after` and up to `upto`.
    pub(crate) async fn thread_page(
        &self,
        user_id: &UserId,
        after: i64,
        upto: i64,
        limit: usize,
    ) -> Result<ThreadPage, SyncError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let mut threads = self.engines.accounts.thread_subscriptions(user_id, after, upto, limit + 1).await?;
        let more = threads.len() > limit;
        threads.truncate(limit);
        let next = threads.last().filter(|_| more).map(|last| last.position - 1);
        Ok(ThreadPage { threads, next })
    }

    /// `GET /thread_subscriptions`, as JSON: from `from` backwards, down to `to`, which may be a position of sliding sync.
    pub async fn thread_subscriptions(
        &self,
        user_id: &UserId,
        from: Option<&str>,
        to: Option<&str>,
        limit: usize,
    ) -> Result<String, SyncError> {
        let upto = match from {
            Some(from) => position(from)?,
            None => self.now().await,
        };
        let after = to.map(position).transpose()?.unwrap_or(0);
        let page = self.thread_page(user_id, after, upto, limit).await?;
        let mut body = String::new();
        let mut object = Object::new(&mut body);
        page.write(&mut object);
        if let Some(next) = page.next {
            object.text("end", &SyncToken::at(StreamPosition(next)).to_string());
        }
        object.end();
        Ok(body)
    }
}

/// The place in the log of a token, or of a position of sliding sync, which is one behind a number.
fn position(token: &str) -> Result<i64, SyncError> {
    let token = token.find("s1_").and_then(|at| token.get(at..)).unwrap_or(token);
    let token: SyncToken =
        token.parse().map_err(|_| SyncError::Invalid("The token is not one of this server".to_owned()))?;
    Ok(token.position.0)
}
