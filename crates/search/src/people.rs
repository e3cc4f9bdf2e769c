//! Finding people (CS API, "User Directory").

use std::collections::{BTreeMap, HashSet};

use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};
use samtal_db::{Row, Sql, params, sql};

use crate::{
    Search, SearchError,
    directory::{NO_ROOM, name_words},
    word::{fold, words},
};

const FIND: Sql = sql!(
    "SELECT w.word, w.user_id, w.room, e.display_name, e.avatar_url, e.public
     FROM directory_word w JOIN directory_entry e ON e.user_id = w.user_id AND e.room = w.room
     WHERE w.word >= $1 AND w.word < $2 AND (w.word, w.user_id, w.room) > ($3, $4, $5)
     ORDER BY w.word, w.user_id, w.room LIMIT $6"
);

/// Entries that are looked at in one go.
const PAGE: usize = 500;
/// How often more entries are looked at.
const PAGES_MAX: usize = 20;
/// Words of a search term that count.
const TERM_WORDS_MAX: usize = 8;
/// Sorts behind every word that begins with what stands before it.
const LAST: char = '\u{10FFFF}';

/// Somebody who was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Who.
    pub user_id: OwnedUserId,
    /// What they are called.
    pub display_name: Option<String>,
    /// Their picture.
    pub avatar_url: Option<String>,
}

/// Who was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct People {
    /// The best first.
    pub people: Vec<Person>,
    /// Whether there are more.
    pub limited: bool,
}

/// How well an entry answers: the larger the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fit {
    /// All that was asked for is the whole name or the whole localpart.
    whole: bool,
    /// How many words are there as they were asked for, not as beginnings of others.
    exact: usize,
    local: bool,
    named: bool,
}

struct Term {
    text: String,
    words: Vec<String>,
    /// A user id, or the beginning of one.
    id: Option<String>,
}

impl Term {
    fn parse(term: &str) -> Self {
        let term = term.trim();
        let id = term.starts_with('@').then(|| term.to_lowercase());
        // Of a whole user id the server's name is compared with the id, not with names.
        let text = id.as_deref().map_or(term, |id| id.trim_start_matches('@').split(':').next().unwrap_or_default());
        let text = fold(&words(text).join(" "));
        let words =
            text.split(' ').filter(|word| !word.is_empty()).take(TERM_WORDS_MAX).map(ToOwned::to_owned).collect();
        Self { text, words, id }
    }

    fn fit(&self, user: &UserId, name: Option<&str>, local: bool) -> Option<Fit> {
        if self.id.as_ref().is_some_and(|id| !user.as_str().to_lowercase().starts_with(id.as_str())) {
            return None;
        }
        let known = name_words(user, name);
        let is_there = |word: &String| known.iter().any(|known| known.starts_with(word.as_str()));
        if !self.words.iter().all(is_there) {
            return None;
        }
        let exact = self.words.iter().filter(|word| known.contains(*word)).count();
        let is_whole = |text: &str| fold(&words(text).join(" ")) == self.text;
        let whole = name.is_some_and(is_whole) || is_whole(user.localpart());
        Some(Fit { whole, exact, local, named: name.is_some() })
    }
}

struct Entry {
    user_id: OwnedUserId,
    room: i64,
    name: Option<String>,
    avatar_url: Option<String>,
    public: bool,
}

impl Entry {
    fn from_row(row: &Row) -> Result<Option<Self>, SearchError> {
        let Ok(user_id) = UserId::parse(row.text(1)?) else { return Ok(None) };
        let (room, name, avatar_url, public) = (row.int(2)?, row.get(3)?, row.get(4)?, row.get(5)?);
        Ok(Some(Self { user_id, room, name, avatar_url, public }))
    }
}

impl Search {
    /// People whose name or id begins with what `term` says, word by word: those `user` shares a room with, those in public
    /// rooms, and all of this server where the operator wants that. At most `limit`.
    pub async fn people(&self, user: &UserId, term: &str, limit: usize) -> Result<People, SearchError> {
        let term = Term::parse(term);
        let Some(longest) = term.words.iter().max_by_key(|word| word.len()) else { return Ok(People::default()) };
        self.settle().await;
        let mut found: BTreeMap<OwnedUserId, (Fit, Entry)> = BTreeMap::new();
        let mut after = (String::new(), String::new(), 0_i64);
        let mut rooms = None;
        for _ in 0..PAGES_MAX {
            let params = params![longest, format!("{longest}{LAST}"), after.0.clone(), after.1.clone(), after.2, PAGE];
            let rows = self.engines.db.scan(&FIND, params).await?;
            let mut fitting = Vec::new();
            for row in &rows {
                let Some(entry) = Entry::from_row(row)? else { continue };
                if let Some(fit) = term.fit(&entry.user_id, entry.name.as_deref(), entry.room == NO_ROOM.0) {
                    fitting.push((fit, entry));
                }
            }
            for (fit, entry) in self.visible(user, fitting, &mut rooms).await? {
                let better = found.get(&entry.user_id).is_none_or(|(known, _)| *known < fit);
                if better {
                    found.insert(entry.user_id.clone(), (fit, entry));
                }
            }
            let Some(last) = rows.last().filter(|_| rows.len() == PAGE && found.len() <= limit) else { break };
            after = (last.get(0)?, last.get(1)?, last.int(2)?);
        }
        let mut found: Vec<(Fit, Entry)> = found.into_values().collect();
        // Among equals in the order of ids, as the map had them.
        found.sort_by(|(one, _), (other, _)| other.cmp(one));
        let limited = found.len() > limit;
        let person = |(_, entry): (Fit, Entry)| Person {
            user_id: entry.user_id,
            display_name: entry.name,
            avatar_url: entry.avatar_url,
        };
        Ok(People { people: found.into_iter().take(limit).map(person).collect(), limited })
    }

    async fn visible(
        &self,
        user: &UserId,
        entries: Vec<(Fit, Entry)>,
        rooms: &mut Option<HashSet<i64>>,
    ) -> Result<Vec<(Fit, Entry)>, SearchError> {
        let graph = &self.engines.rooms.store().graph;
        let all_local = self.options.all_local_users;
        let is_open = |entry: &Entry| entry.public || (all_local && entry.room == NO_ROOM.0);
        let (mut visible, hidden): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(_, entry)| is_open(entry));
        // Whoever is in no public room does not find themselves either.
        let locals: Vec<OwnedUserId> = hidden
            .iter()
            .filter(|(_, entry)| entry.room == NO_ROOM.0 && entry.user_id != user)
            .map(|(_, entry)| entry.user_id.clone())
            .collect();
        let shared: HashSet<OwnedUserId> = if locals.is_empty() {
            HashSet::new()
        } else {
            graph.sharing_rooms_with(user, &locals).await?.into_iter().collect()
        };
        if rooms.is_none() && hidden.iter().any(|(_, entry)| entry.room != NO_ROOM.0) {
            let mut joined = HashSet::new();
            for found in graph.memberships(user).await? {
                if found.membership == MembershipState::Join
                    && let Some(room) = graph.room(&found.room_id).await?
                {
                    joined.insert(room.nid.0);
                }
            }
            *rooms = Some(joined);
        }
        visible.extend(hidden.into_iter().filter(|(_, entry)| {
            if entry.room == NO_ROOM.0 {
                shared.contains(&entry.user_id)
            } else {
                rooms.as_ref().is_some_and(|rooms| rooms.contains(&entry.room))
            }
        }));
        Ok(visible)
    }
}
