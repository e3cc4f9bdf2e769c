//! A room in memory, written down as a text, one event a line:
//!
//! ```text
//! ban    <- start        : alice ban bob
//! topic  <- start        : bob topic hello
//! merge  <- ban topic    : alice message
//! ```
//!
//! A line is a label, the labels of the events it follows, who sends it, and what. Every room
//! begins with `create`, `alice` joining, `levels` (alice 100, bob 50), a `public` join rule, and
//! bob and carol joining; the last of those has the label `start`. Time goes on by a second a line;
//! `@7` at a line's end sets it to 7 ms instead. State is kept by the rules of the room version,
//! resolved by ruma from full states, so that it can judge what we do.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, ServerName,
    room_version_rules::{RoomVersionRules, StateResolutionVersion},
    serde::Base64,
    signatures::Ed25519KeyPair,
    state_res::{self, StateMap, utils::event_id_set::EventIdSet},
};
use samtal_event::{Draft, Pdu, build, sign_and_hash};
use samtal_state::{
    Conflict, Lookup, Refused, ResolveError, Shared, StateKey, auth_difference,
    authorize::{auth_keys_of_draft, check_against, check_own_auth_events},
    conflicted_subgraph, resolve,
};
use serde_json::json;

/// A full state: event number by state key.
pub(crate) type State = BTreeMap<StateKey, i64>;

pub(crate) struct World {
    pub(crate) rules: &'static RoomVersionRules,
    /// Events by number; an event's auth events have smaller numbers.
    pub(crate) events: Vec<Pdu>,
    pub(crate) numbers: HashMap<OwnedEventId, i64>,
    pub(crate) edges: BTreeMap<i64, Vec<i64>>,
    /// The state after each event.
    pub(crate) after: Vec<State>,
    labels: HashMap<String, i64>,
    room_id: OwnedRoomId,
    clock_ms: i64,
    key: Ed25519KeyPair,
}

fn key() -> Ed25519KeyPair {
    let seed: Base64 = Base64::parse("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").unwrap();
    let head = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    Ed25519KeyPair::from_der(&[head.as_slice(), seed.as_bytes()].concat(), "1".to_owned()).unwrap()
}

pub(crate) fn user(name: &str) -> OwnedUserId {
    format!("@{name}:domain").try_into().unwrap()
}

/// What a line's words ask for.
pub(crate) fn draft(sender: &str, words: &[&str], rules: &RoomVersionRules) -> Draft {
    let member = |target: &str, membership: &str| {
        ("m.room.member", Some(user(target).to_string()), json!({"membership": membership}))
    };
    let state = |kind, content| (kind, Some(String::new()), content);
    let (kind, state_key, content) = match words {
        ["create"] => state("m.room.create", json!({"creator": user(sender)})),
        ["join"] => member(sender, "join"),
        ["join", "via", by] => (
            "m.room.member",
            Some(user(sender).to_string()),
            json!({"membership": "join", "join_authorised_via_users_server": user(by)}),
        ),
        ["leave"] => member(sender, "leave"),
        ["knock"] => member(sender, "knock"),
        ["invite", target] => member(target, "invite"),
        ["kick" | "unban", target] => member(target, "leave"),
        ["ban", target] => member(target, "ban"),
        ["topic", text] => state("m.room.topic", json!({"topic": text})),
        ["name", text] => state("m.room.name", json!({"name": text})),
        ["rule", rule @ ("restricted" | "knock_restricted")] => {
            let allow = json!([{"type": "m.room_membership", "room_id": "!other:domain"}]);
            state("m.room.join_rules", json!({"join_rule": rule, "allow": allow}))
        }
        ["rule", rule] => state("m.room.join_rules", json!({"join_rule": rule})),
        ["message"] => ("m.room.message", None, json!({"body": "hi"})),
        ["levels", pairs @ ..] => {
            let mut users = serde_json::Map::new();
            for pair in pairs {
                let (name, level) = pair.split_once('=').unwrap();
                let creator = rules.authorization.explicitly_privilege_room_creators && name == "alice";
                if !creator {
                    users.insert(user(name).to_string(), level.parse::<i64>().unwrap().into());
                }
            }
            state("m.room.power_levels", json!({"users": users, "events": {"m.room.topic": 0}}))
        }
        other => panic!("unknown words {other:?}"),
    };
    Draft::from_text(kind.into(), state_key, &content.to_string()).unwrap()
}

impl World {
    /// A room with the usual beginning.
    pub(crate) fn new(rules: &'static RoomVersionRules) -> Self {
        let mut world = Self {
            rules,
            events: Vec::new(),
            numbers: HashMap::new(),
            edges: BTreeMap::new(),
            after: Vec::new(),
            labels: HashMap::new(),
            room_id: "!r:domain".try_into().unwrap(),
            clock_ms: 0,
            key: key(),
        };
        world.play(
            "create <-         : alice create
             made   <- create  : alice join
             levels <- made    : alice levels alice=100 bob=50
             rule   <- levels  : alice rule public
             bob    <- rule    : bob join
             start  <- bob     : carol join",
        );
        world
    }

    /// A room with the usual beginning and these lines.
    pub(crate) fn of(rules: &'static RoomVersionRules, text: &str) -> Self {
        let mut world = Self::new(rules);
        world.play(text);
        world
    }

    /// Add lines; all of them have to be allowed.
    pub(crate) fn play(&mut self, text: &str) {
        for line in text.lines().filter(|line| line.contains("<-")) {
            let (label, rest) = line.split_once("<-").unwrap();
            let (prev, rest) = rest.split_once(':').unwrap();
            let prev: Vec<i64> = prev.split_whitespace().map(|label| self.labels[label]).collect();
            let (rest, at) = match rest.split_once('@') {
                Some((rest, at)) => (rest, Some(at.trim().parse::<i64>().unwrap())),
                None => (rest, None),
            };
            let words: Vec<&str> = rest.split_whitespace().collect();
            let draft = draft(words[0], &words[1..], self.rules);
            let number = self.add(&prev, words[0], &draft, at);
            let number = number.unwrap_or_else(|refused| panic!("{line}: {refused}"));
            self.labels.insert(label.trim().to_owned(), number);
        }
    }

    pub(crate) fn number(&self, label: &str) -> i64 {
        self.labels[label]
    }

    pub(crate) fn label(&self, number: i64) -> &str {
        self.labels.iter().find(|(_, own)| **own == number).map_or("?", |(label, _)| label)
    }

    pub(crate) fn pdu(&self, number: i64) -> &Pdu {
        &self.events[usize::try_from(number).unwrap()]
    }

    pub(crate) fn by_id(&self, id: &EventId) -> Option<Pdu> {
        self.numbers.get(id).map(|number| self.pdu(*number).clone())
    }

    pub(crate) fn state_after(&self, number: i64) -> &State {
        &self.after[usize::try_from(number).unwrap()]
    }

    /// The event the draft would become after these events, allowed or not.
    pub(crate) fn make(&mut self, prev: &[i64], sender: &str, draft: &Draft, at: Option<i64>) -> (Pdu, State) {
        let rules = self.rules;
        self.clock_ms += 1000;
        let before = self.state_before(prev);
        let keys = auth_keys_of_draft(draft, &user(sender), rules).unwrap();
        let auth: Vec<&Pdu> = keys.iter().filter_map(|key| before.get(key)).map(|n| self.pdu(*n)).collect();
        let prev: Vec<&Pdu> = prev.iter().map(|number| self.pdu(*number)).collect();
        let depth = prev.iter().map(|pdu| pdu.depth()).max().unwrap_or(0) + 1;
        let at = at.unwrap_or(self.clock_ms);
        let pdu = build(draft, &user(sender), &self.room_id, &prev, &auth, depth, at, rules);
        let server = <&ServerName>::try_from("domain").unwrap();
        (sign_and_hash(&pdu, server, &self.key, rules).unwrap().into_pdu(), before)
    }

    /// Add an event if the rules allow it.
    pub(crate) fn add(&mut self, prev: &[i64], sender: &str, draft: &Draft, at: Option<i64>) -> Result<i64, Refused> {
        let (pdu, before) = self.make(prev, sender, draft, at);
        if let Some(number) = self.numbers.get(pdu.event_id()) {
            return Ok(*number);
        }
        check_own_auth_events(&pdu, self.rules, |id| self.by_id(id))?;
        check_against(&pdu, self.rules, |kind, key| {
            before.get(&(kind.clone(), key.to_owned())).map(|number| self.pdu(*number).clone())
        })?;
        let number = i64::try_from(self.events.len()).unwrap();
        let mut after = before;
        if let Some((kind, key)) = pdu.state_pair() {
            after.insert((kind, key.to_owned()), number);
        }
        if pdu.is_state_of("m.room.create", "") {
            self.room_id = pdu.room_id().to_owned();
        }
        let auth = pdu.auth_events().iter().map(|id| self.numbers[id]).collect();
        self.edges.insert(number, auth);
        self.numbers.insert(pdu.event_id().to_owned(), number);
        self.events.push(pdu);
        self.after.push(after);
        Ok(number)
    }

    fn state_before(&self, prev: &[i64]) -> State {
        let mut states: Vec<State> = prev.iter().map(|number| self.state_after(*number).clone()).collect();
        states.dedup();
        match states.len() {
            0 => State::new(),
            1 => states.remove(0),
            _ if matches!(self.rules.state_res, StateResolutionVersion::V2(_)) => self.judge(&states),
            _ => self.resolve(&states),
        }
    }

    /// The whole auth chain of a state, its own events included.
    fn chain(&self, state: &State) -> BTreeSet<i64> {
        let mut chain = BTreeSet::new();
        let mut waiting: Vec<i64> = state.values().copied().collect();
        while let Some(event) = waiting.pop() {
            if chain.insert(event) {
                waiting.extend(&self.edges[&event]);
            }
        }
        chain
    }

    /// The difference of the whole auth chains.
    pub(crate) fn whole_difference(&self, states: &[State]) -> BTreeSet<i64> {
        let chains: Vec<_> = states.iter().map(|state| self.chain(state)).collect();
        let all: BTreeSet<i64> = chains.iter().flatten().copied().collect();
        all.into_iter().filter(|event| !chains.iter().all(|chain| chain.contains(event))).collect()
    }

    /// All events on paths between conflicted events, found by asking every event of the room.
    pub(crate) fn whole_subgraph(&self, conflicted: &BTreeSet<i64>) -> BTreeSet<i64> {
        let above = |event: i64| {
            let state = State::from([((("x").into(), String::new()), event)]);
            self.chain(&state)
        };
        let below: BTreeSet<i64> = conflicted.iter().flat_map(|event| above(*event)).collect();
        let leads = |event: &i64| above(*event).iter().any(|reached| conflicted.contains(reached));
        below.into_iter().filter(leads).collect()
    }

    /// Resolve as ruma does from whole states and whole auth chains.
    pub(crate) fn judge(&self, states: &[State]) -> State {
        let StateResolutionVersion::V2(v2) = self.rules.state_res else { panic!("no judge") };
        let id = |number: &i64| self.pdu(*number).event_id().to_owned();
        let maps: Vec<StateMap<OwnedEventId>> =
            states.iter().map(|state| state.iter().map(|(key, number)| (key.clone(), id(number))).collect()).collect();
        let chains = states.iter().map(|state| self.chain(state).iter().map(id).collect::<EventIdSet<_>>()).collect();
        let resolved = state_res::resolve(
            &self.rules.authorization,
            &v2,
            &maps,
            chains,
            |id| self.by_id(id),
            |conflicted| {
                let events = conflicted.values().flatten().map(|id| self.numbers[id]).collect();
                Some(self.whole_subgraph(&events).iter().map(id).collect())
            },
        );
        resolved.unwrap().into_iter().map(|(key, id)| (key, self.numbers[&id])).collect()
    }

    /// Resolve as the room engine does: from the conflict alone.
    pub(crate) fn resolve(&self, states: &[State]) -> State {
        self.resolve_loading(states, &mut Loaded::all(self))
    }

    /// The same with only some things loaded; loads what it is told to.
    pub(crate) fn resolve_loading(&self, states: &[State], loaded: &mut Loaded) -> State {
        let (shared, branches) = split(states);
        let sets: Vec<Vec<i64>> = branches.iter().map(|branch| branch.values().copied().collect()).collect();
        let conflicted = sets.iter().flatten().copied().collect();
        let difference = auth_difference(&sets, &self.edges, |question| {
            Some(match question {
                Shared::Alike(events) => {
                    let keys = events.iter().filter_map(|number| {
                        let (kind, key) = self.pdu(*number).state_pair()?;
                        Some((kind, key.to_owned()))
                    });
                    keys.filter_map(|key| shared.get(&key).copied()).collect()
                }
                Shared::From(least) => shared.values().copied().filter(|n| n >= least).collect(),
            })
        });
        let id = |number: &i64| self.pdu(*number).event_id().to_owned();
        let subgraph = conflicted_subgraph(&conflicted, &self.edges).unwrap();
        let conflict = Conflict {
            branches: branches
                .iter()
                .map(|branch| branch.iter().map(|(key, n)| (key.clone(), id(n))).collect())
                .collect(),
            auth_difference: difference.unwrap().iter().map(id).collect(),
            subgraph: subgraph.iter().map(id).collect(),
        };
        for _ in 0..100 {
            let outcome = resolve(
                &conflict,
                self.rules,
                |kind, key| {
                    let key = (kind.clone(), key.to_owned());
                    if !loaded.keys.contains(&key) {
                        return Lookup::NotLoaded;
                    }
                    shared.get(&key).map_or(Lookup::Absent, |number| Lookup::Found(id(number)))
                },
                |id| match self.by_id(id) {
                    None => Lookup::Absent,
                    Some(_) if !loaded.events.contains(id) => Lookup::NotLoaded,
                    Some(pdu) => Lookup::Found(pdu),
                },
            );
            match outcome {
                Ok(resolved) => {
                    let resolved = resolved.state.into_iter();
                    let mut state = shared;
                    state.extend(resolved.map(|(key, id)| (key, self.numbers[&id])));
                    return state;
                }
                Err(ResolveError::EventsNotLoaded(ids)) => loaded.events.extend(ids),
                Err(ResolveError::StateNotLoaded(keys)) => loaded.keys.extend(keys),
                Err(error) => panic!("{error}"),
            }
        }
        panic!("never has enough");
    }

    /// What the branches ending in these events come to where they disagree: `type key = label`.
    pub(crate) fn outcome(&self, heads: &[&str]) -> String {
        let states: Vec<State> = heads.iter().map(|label| self.state_after(self.labels[*label]).clone()).collect();
        let (_, branches) = split(&states);
        let keys: BTreeSet<StateKey> = branches.into_iter().flat_map(BTreeMap::into_keys).collect();
        let resolved = self.resolve(&states);
        let line = |key: &StateKey| {
            let kind = key.0.to_string().replace("m.room.", "");
            let who = key.1.trim_start_matches('@').trim_end_matches(":domain");
            let label = resolved.get(key).map_or("none", |number| self.label(*number));
            format!("{kind} {who}").trim().to_owned() + " = " + label
        };
        keys.iter().map(line).collect::<Vec<_>>().join("; ")
    }
}

/// What the caller of `resolve` has at hand.
pub(crate) struct Loaded {
    pub(crate) events: BTreeSet<OwnedEventId>,
    pub(crate) keys: BTreeSet<StateKey>,
}

impl Loaded {
    pub(crate) fn none() -> Self {
        Self { events: BTreeSet::new(), keys: BTreeSet::new() }
    }

    pub(crate) fn all(world: &World) -> Self {
        let events = world.numbers.keys().cloned().collect();
        let mut keys: BTreeSet<StateKey> = world.after.iter().flat_map(BTreeMap::keys).cloned().collect();
        for event in &world.events {
            keys.extend(samtal_state::authorize::auth_keys_of(event, world.rules).unwrap());
        }
        Self { events, keys }
    }
}

/// What all states share, and what each has else.
pub(crate) fn split(states: &[State]) -> (State, Vec<State>) {
    let mut shared = states[0].clone();
    shared.retain(|key, number| states.iter().all(|state| state.get(key) == Some(number)));
    let rest = |state: &State| {
        let own = state.iter().filter(|(key, _)| !shared.contains_key(key));
        own.map(|(key, number)| (key.clone(), *number)).collect()
    };
    let branches = states.iter().map(rest).collect();
    (shared, branches)
}
