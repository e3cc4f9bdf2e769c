//! Telling people by mail: not each event but what is unread after a while, in one letter; and the way out of it.
//!
//! A letter waits until what it tells of has had time to be read elsewhere. Who does not read gets the next one later and later.

use std::{
    collections::{HashMap, hash_map::Entry},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use ruma::{EventId, RoomId, UserId};
use samtal_db::{Batch, params};
use samtal_room::{Room, StoredEvent};

use crate::{
    PushError, Pusher, PusherKey, Pushers, counts::Read, delivery::DeliveryEngines, schema, thread::thread_of,
};

/// Messages of one room that are quoted in a letter, the newest.
const QUOTED_MAX: usize = 5;
/// Longest quotation, in characters.
const QUOTED_CHARS_MAX: usize = 300;
/// Rooms that are told of in one letter.
const ROOMS_MAX: usize = 20;
/// The longest pause between two letters to somebody who does not read, in milliseconds.
const PAUSE_MAX_MS: i64 = 24 * 3_600_000;

/// A letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The mail address.
    pub to: String,
    /// What it is about: nothing that is private, as it is seen by whoever looks over a shoulder.
    pub subject: String,
    /// The text.
    pub text: String,
    /// Where one says that no more letters are wanted.
    pub unsubscribe: Option<String>,
}

/// What came of handing a letter to the mail server.
pub type Mailed<'a> = Pin<Box<dyn Future<Output = Result<(), MailError>> + Send + 'a>>;

/// The mail server did not take the letter.
#[derive(Debug, thiserror::Error)]
#[error("the mail server did not take a letter")]
pub struct MailError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The way to people's mailboxes.
pub trait Mailer: Send + Sync {
    /// Hands over one letter.
    fn send(&self, letter: Letter) -> Mailed<'_>;
}

/// How people are told by mail.
#[derive(Clone)]
pub struct MailRound {
    /// The way to their mailboxes.
    pub mailer: Arc<dyn Mailer>,
    /// How long a letter waits for what it tells of to be read elsewhere.
    pub delay: Duration,
    /// The first pause between two letters to the same person; it doubles as long as they do not read, up to a day.
    pub pause: Duration,
    /// Where clients reach this server, without a slash at the end; without it letters hold no link to end them.
    pub base_url: Option<String>,
    /// What the server is called.
    pub server_name: String,
}

impl std::fmt::Debug for MailRound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MailRound")
    }
}

/// The words of a letter in one language.
struct Words {
    subject: &'static str,
    hello: &'static str,
    messages: fn(usize) -> String,
    invite: &'static str,
    encrypted: &'static str,
    more_rooms: fn(usize) -> String,
    stop: &'static str,
}

const ENGLISH: Words = Words {
    subject: "Unread messages on",
    hello: "You have unread messages:",
    messages: |count| if count == 1 { "1 message".to_owned() } else { format!("{count} messages") },
    invite: "an invitation",
    encrypted: "encrypted",
    more_rooms: |count| format!("and in {count} more rooms"),
    stop: "To get no more of these mails:",
};

const SWEDISH: Words = Words {
    subject: "Olästa meddelanden på",
    hello: "Du har olästa meddelanden:",
    messages: |count| if count == 1 { "1 meddelande".to_owned() } else { format!("{count} meddelanden") },
    invite: "en inbjudan",
    encrypted: "krypterat",
    more_rooms: |count| format!("och i {count} rum till"),
    stop: "För att slippa fler sådana brev:",
};

fn words(lang: &str) -> &'static Words {
    if lang.to_lowercase().starts_with("sv") { &SWEDISH } else { &ENGLISH }
}

/// What is unread in one room.
#[derive(Debug, Default)]
struct Unread {
    name: String,
    count: usize,
    encrypted: bool,
    invited: bool,
    quoted: Vec<String>,
}

/// How far the letters of a pusher have got.
struct Progress {
    token: String,
    sent_ms: i64,
    pause_ms: i64,
}

/// The letters of one tenant.
pub(crate) struct Letters<'a> {
    pub(crate) engines: &'a DeliveryEngines,
    pub(crate) round: &'a MailRound,
}

impl Letters<'_> {
    /// Sends one letter with what has waited long enough and is still unread. Whether anything waited.
    pub(crate) async fn hand_over(&self, pusher: &Pusher) -> Result<bool, LetterError> {
        let pushers = &self.engines.pushers;
        let key = &pusher.key;
        if self.waiting(key, 1).await?.is_empty() {
            return Ok(false);
        }
        tokio::time::sleep(self.wait(&self.progress(key).await?)).await;
        let rows = self.waiting(key, schema::PENDING_ALL).await?;
        let Some((last, _)) = rows.last() else { return Ok(false) };
        let last = *last;
        let progress = self.progress(key).await?;
        let unread = self.unread(&key.user_id, &rows).await?;
        let mut batch = Batch::new();
        if unread.is_empty() {
            // They read: the next letter need not wait long.
            batch.exec(&schema::MAIL_PAUSE, params![0, key.user_id.as_str(), &key.app_id, &key.pushkey]);
        } else {
            let letter = self.letter(pusher, &unread, &progress.token);
            self.round.mailer.send(letter).await?;
            let first = i64::try_from(self.round.pause.as_millis()).unwrap_or(PAUSE_MAX_MS);
            let pause =
                if progress.pause_ms == 0 { first } else { progress.pause_ms.saturating_mul(2).min(PAUSE_MAX_MS) };
            let values = params![pushers.now(), pause, key.user_id.as_str(), &key.app_id, &key.pushkey];
            batch.exec(&schema::MAIL_SENT, values);
        }
        batch.exec(&schema::PENDING_DONE, params![key.user_id.as_str(), &key.app_id, &key.pushkey, last]);
        pushers.db.commit(batch).await.map_err(PushError::from)?;
        Ok(true)
    }

    /// Positions and events that wait for this pusher.
    async fn waiting(&self, key: &PusherKey, limit: i64) -> Result<Vec<(i64, String)>, PushError> {
        let values = params![key.user_id.as_str(), &key.app_id, &key.pushkey, limit];
        let rows = self.engines.pushers.db.query(&schema::PENDING, values).await?;
        rows.iter().map(|row| Ok((row.int(0)?, row.get(2)?))).collect()
    }

    /// How long to wait now: for the delay, and for the pause since the last letter.
    fn wait(&self, progress: &Progress) -> Duration {
        let since = self.engines.pushers.now() - progress.sent_ms;
        let left = u64::try_from(progress.pause_ms - since).unwrap_or(0);
        self.round.delay.max(Duration::from_millis(left))
    }

    async fn progress(&self, key: &PusherKey) -> Result<Progress, PushError> {
        let db = &self.engines.pushers.db;
        let name = params![key.user_id.as_str(), &key.app_id, &key.pushkey];
        let row = db.query_opt(&schema::MAIL, name.clone()).await?;
        if let Some(row) = row {
            return Ok(Progress { token: row.get(0)?, sent_ms: row.int(1)?, pause_ms: row.int(2)? });
        }
        let token = self.engines.random.alphanumeric(40);
        let mut values = name;
        values.push(token.as_str().into());
        let mut batch = Batch::new();
        batch.exec(&schema::MAIL_INSERT, values);
        db.commit(batch).await?;
        Ok(Progress { token, sent_ms: 0, pause_ms: 0 })
    }

    /// What of this is still unread, by room, the room with the newest event last.
    async fn unread(&self, user: &UserId, waiting: &[(i64, String)]) -> Result<Vec<Unread>, PushError> {
        let store = self.engines.rooms.store();
        let mut read: HashMap<samtal_room::RoomNid, Read> = HashMap::new();
        let mut found: Vec<(samtal_room::RoomNid, Unread)> = Vec::new();
        for (_, event_id) in waiting {
            let Ok(event_id) = <&EventId>::try_from(event_id.as_str()) else { continue };
            let event = store.graph.event(event_id).await?.filter(|event| event.redacted_by.is_none());
            let Some(event) = event else { continue };
            let room = store.graph.room_by_nid(event.room).await?;
            let invited = is_invite(&event, user);
            if invited {
                let now = store.graph.membership(user, &room.room_id).await?;
                if now.is_none_or(|now| now.event_id != event_id) {
                    continue;
                }
            } else {
                let Some(position) = event.position else { continue };
                if let Entry::Vacant(unread) = read.entry(room.nid) {
                    let receipts = self.engines.push.edus.receipts.of_user_in_room(user, &room.room_id).await?;
                    unread.insert(Read::of(&receipts));
                }
                let thread = thread_of(store, &event).await?;
                if read.get(&room.nid).is_some_and(|read| read.has_read(position.0, thread.as_deref()))
                    || !store.graph.is_joined(user, &room.room_id).await?
                {
                    continue;
                }
            }
            let at = match found.iter().position(|(nid, _)| *nid == room.nid) {
                Some(at) => at,
                None => {
                    let name = self.name_of(&room, user, &event).await?;
                    found.push((room.nid, Unread { name, ..Unread::default() }));
                    found.len() - 1
                }
            };
            if let Some((_, unread)) = found.get_mut(at) {
                self.add(unread, &room, &event, invited).await?;
            }
        }
        Ok(found.into_iter().map(|(_, unread)| unread).collect())
    }

    async fn add(&self, unread: &mut Unread, room: &Room, event: &StoredEvent, invited: bool) -> Result<(), PushError> {
        if invited {
            unread.invited = true;
            return Ok(());
        }
        unread.count += 1;
        if event.pdu.type_str() == "m.room.encrypted" {
            // Nothing of it is known here, and who wrote it is nobody's business in a mail.
            unread.encrypted = true;
            unread.quoted.clear();
            return Ok(());
        }
        let body = event.pdu.content_field::<String>("body").filter(|_| event.pdu.type_str() == "m.room.message");
        if let Some(body) = body.filter(|_| !unread.encrypted) {
            let sender = self.display_name(&room.room_id, event.pdu.sender()).await?;
            let line: String = body.replace(['\r', '\n'], " ").chars().take(QUOTED_CHARS_MAX).collect();
            unread.quoted.push(format!("{sender}: {line}"));
            if unread.quoted.len() > QUOTED_MAX {
                unread.quoted.remove(0);
            }
        }
        Ok(())
    }

    async fn text_of(
        &self,
        room: &RoomId,
        event_type: &str,
        key: &str,
        field: &str,
    ) -> Result<Option<String>, PushError> {
        let event = self.engines.rooms.current_state(room, event_type, key).await?;
        Ok(event.and_then(|event| event.pdu.content_field::<String>(field)).filter(|text| !text.trim().is_empty()))
    }

    async fn display_name(&self, room: &RoomId, user: &UserId) -> Result<String, PushError> {
        let name = self.text_of(room, "m.room.member", user.as_str(), "displayname").await?;
        Ok(name.unwrap_or_else(|| user.localpart().to_owned()))
    }

    /// What the room is called; without a name, who speaks in it. Of a room that we are not in, who invites.
    async fn name_of(&self, room: &Room, user: &UserId, event: &StoredEvent) -> Result<String, PushError> {
        let store = self.engines.rooms.store();
        if is_invite(event, user) && store.head(room).await?.is_none() {
            return Ok(event.pdu.sender().to_string());
        }
        if let Some(name) = self.text_of(&room.room_id, "m.room.name", "", "name").await? {
            return Ok(name);
        }
        match self.text_of(&room.room_id, "m.room.canonical_alias", "", "alias").await? {
            Some(alias) => Ok(alias),
            None => self.display_name(&room.room_id, event.pdu.sender()).await,
        }
    }

    fn letter(&self, pusher: &Pusher, unread: &[Unread], token: &str) -> Letter {
        let words = words(&pusher.lang);
        let mut text = format!("{}\n", words.hello);
        for room in unread.iter().take(ROOMS_MAX) {
            let mut what = Vec::new();
            if room.invited {
                what.push(words.invite.to_owned());
            }
            if room.count > 0 {
                what.push((words.messages)(room.count));
            }
            let note = if room.encrypted { format!(" ({})", words.encrypted) } else { String::new() };
            text.push_str(&format!("\n{}: {}{note}\n", room.name, what.join(", ")));
            for line in &room.quoted {
                text.push_str(&format!("    {line}\n"));
            }
        }
        if unread.len() > ROOMS_MAX {
            text.push_str(&format!("\n{}\n", (words.more_rooms)(unread.len() - ROOMS_MAX)));
        }
        let unsubscribe = self.round.base_url.as_ref().map(|base| format!("{base}/_samtal/client/unsubscribe/{token}"));
        if let Some(url) = &unsubscribe {
            text.push_str(&format!("\n-- \n{}\n{url}\n", words.stop));
        }
        let subject = format!("{} {}", words.subject, self.round.server_name);
        Letter { to: pusher.key.pushkey.clone(), subject, text, unsubscribe }
    }
}

fn is_invite(event: &StoredEvent, user: &UserId) -> bool {
    event.pdu.type_str() == "m.room.member"
        && event.pdu.state_key() == Some(user.as_str())
        && event.pdu.content_field::<String>("membership").as_deref() == Some("invite")
}

/// Why no letter was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LetterError {
    #[error(transparent)]
    Push(#[from] PushError),
    #[error(transparent)]
    Mail(#[from] MailError),
}

impl Pushers {
    /// Ends the letters that carry this token. Whether there were any.
    pub async fn unsubscribe(&self, token: &str) -> Result<bool, PushError> {
        let Some(key) = self.of_token(token).await? else { return Ok(false) };
        self.delete(&key).await?;
        Ok(true)
    }

    /// Whose letters carry this token.
    pub async fn of_token(&self, token: &str) -> Result<Option<PusherKey>, PushError> {
        let Some(row) = self.db.query_opt(&schema::MAIL_OF_TOKEN, params![token]).await? else { return Ok(None) };
        let Ok(user_id) = UserId::parse(row.text(0)?) else { return Ok(None) };
        Ok(Some(PusherKey { user_id, app_id: row.get(1)?, pushkey: row.get(2)? }))
    }

    pub(crate) fn now(&self) -> i64 {
        self.clock.signed_now_ms()
    }
}
