//! Events of local users: what they stand on, whether that allows them, and which were made before.

use std::sync::{Arc, atomic::Ordering};

use ruma::{OwnedEventId, OwnedUserId, UserId, events::StateEventType, room_version_rules::RoomVersionRules};
use samtal_event::{Draft, Pdu, UnsignedPdu, build, sign_and_hash};
use samtal_kit::signed_ms;
use samtal_state::{AuthState, SnapshotId, authorize};

use crate::{
    error::RoomError,
    ingest::{Ingested, Placement},
    policy_server::{PolicyServer, is_exempt},
    turn::Turn,
};

/// Most events that a new event names as previous ones.
const PREV_EVENTS_MAX: usize = 20;

/// What a local user wants to send.
#[derive(Clone, Debug)]
pub struct LocalDraft {
    /// Who.
    pub sender: OwnedUserId,
    /// What.
    pub draft: Draft,
    /// When, if the sender may say so (application services); milliseconds since the epoch.
    pub ts_ms: Option<u64>,
    /// The transaction that makes it, unique in this tenant; see [`crate::Txn`].
    pub txn: Option<String>,
    /// The event itself, where the room's policy server has signed it already: set by the engine only.
    pub recommended: Option<Pdu>,
}

impl LocalDraft {
    /// A draft sent now, without transaction.
    pub fn new(sender: impl Into<OwnedUserId>, draft: Draft) -> Self {
        Self { sender: sender.into(), draft, ts_ms: None, txn: None, recommended: None }
    }
}

/// An event that a turn has appended, or found to be there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its id.
    pub event_id: OwnedEventId,
    /// Whether this call made it.
    pub is_new: bool,
}

/// What an event of ours stands on.
pub(crate) struct Ground {
    prev_events: Vec<Pdu>,
    /// The state there.
    before: SnapshotId,
    /// What that allows.
    auth: Arc<AuthState>,
    /// The state events there that authorization asks for.
    auth_events: Vec<Pdu>,
}

impl Ground {
    fn lookup(&self) -> impl Fn(&StateEventType, &str) -> Option<Pdu> {
        |event_type, state_key| {
            let event_type = event_type.to_string();
            self.auth_events.iter().find(|pdu| pdu.is_state_of(&event_type, state_key)).cloned()
        }
    }

    /// Whether the state there allows an event.
    pub(crate) fn check(&self, pdu: &Pdu, rules: &RoomVersionRules) -> Result<(), samtal_state::Refused> {
        self.auth.check(pdu, rules, self.lookup())
    }
}

impl Turn<'_> {
    /// Appends an event of a local user, or finds the one that the same transaction or the same state made before.
    pub(crate) async fn append_local(&mut self, local: &LocalDraft) -> Result<Appended, RoomError> {
        if local.draft.type_string() == "m.room.create" {
            // The rules that depend on state do not say it of an event without a state key.
            return Err(RoomError::Refused("a room has one create event".into()));
        }
        if self.retried
            && let Some(event_id) = self.already_sent(local).await?
        {
            return Ok(Appended { event_id, is_new: false });
        }
        if let Some(event_id) = local.txn.as_ref().and_then(|txn| self.txns.get(txn)) {
            return Ok(Appended { event_id: event_id.clone(), is_new: false });
        }
        match self.append_new(local).await {
            // What was allowed once may be refused now.
            Err(error) => match self.already_sent(local).await? {
                Some(event_id) => Ok(Appended { event_id, is_new: false }),
                None => Err(error),
            },
            appended => appended,
        }
    }

    async fn append_new(&mut self, local: &LocalDraft) -> Result<Appended, RoomError> {
        if let Some(event_id) = self.already_state(local).await? {
            return Ok(Appended { event_id, is_new: false });
        }
        if let Some(pdu) = &local.recommended {
            return self.append_recommended(pdu, local.txn.clone()).await;
        }
        if self.needs_recommendation(&local.draft).await? {
            return Err(RoomError::NotAsked);
        }
        let rules = self.head.room.rules;
        let refused = |refused: samtal_state::Refused| RoomError::Refused(refused.reason);
        let keys = authorize::auth_keys_of_draft(&local.draft, &local.sender, rules).map_err(refused)?;
        let ground = self.ground(&keys).await?;
        let ts_ms = local.ts_ms.unwrap_or(self.author.now_ms);
        let unsigned = self.build(&local.draft, &local.sender, &ground, ts_ms);
        let signed = sign_and_hash(&unsigned, &self.author.name, self.author.keys.current().pair(), rules)?;
        let pdu = ground.auth.authorize_own(signed, rules, ground.lookup()).map_err(refused)?.into_pdu();
        if ground.before != self.head.snapshot {
            let auth = self.head.auth.clone().ok_or(RoomError::UnknownRoom)?;
            self.head.load(self.store, &keys).await?;
            auth.check(&pdu, rules, |kind, key| self.head.loaded(kind, key)).map_err(refused)?;
        }
        let nid = self.number(&ground.auth_events).await?;
        self.place(nid, pdu.clone(), ground.before, local.txn.as_deref()).await?;
        Ok(Appended { event_id: pdu.event_id().to_owned(), is_new: true })
    }

    /// What the next event of ours stands on, with the state events of these keys. It is the head's whole state, unless more
    /// events are there that nothing refers to than one event may name.
    pub(crate) async fn ground(&mut self, keys: &[(StateEventType, String)]) -> Result<Ground, RoomError> {
        let named = self.head.extremities.to_name(PREV_EVENTS_MAX);
        let prev_events = named.iter().map(|extremity| extremity.pdu.clone()).collect();
        if named.len() == self.head.extremities.len() {
            let auth = self.head.auth.clone().ok_or(RoomError::UnknownRoom)?;
            let auth_events = self.head.load(self.store, keys).await?;
            return Ok(Ground { prev_events, before: self.head.snapshot, auth, auth_events });
        }
        let states: Vec<SnapshotId> = named.iter().map(|extremity| extremity.after).collect();
        let before = self.resolve(&states).await?;
        let auth_events = self.state_of(before, keys).await?;
        let always = ["m.room.create", "m.room.power_levels", "m.room.join_rules"];
        let always = self.state_of(before, &always.map(|kind| (kind.into(), String::new()))).await?;
        let find = |kind: &str| always.iter().find(|pdu| pdu.is_state_of(kind, "")).cloned();
        let create = find("m.room.create").ok_or(RoomError::UnknownRoom)?;
        let auth = AuthState::new(create, find("m.room.power_levels"), find("m.room.join_rules"), self.head.room.rules)
            .map_err(|refused| RoomError::Damaged(refused.reason))?;
        Ok(Ground { prev_events, before, auth: Arc::new(auth), auth_events })
    }

    async fn state_of(&self, at: SnapshotId, keys: &[(StateEventType, String)]) -> Result<Vec<Pdu>, RoomError> {
        let mut found = Vec::with_capacity(keys.len());
        for (event_type, state_key) in keys {
            let (part, key) = self.store.key(&event_type.to_string(), state_key);
            if let Some(nid) = self.store.snapshots.get(at, part, key).await? {
                found.push(self.find_nid(nid).await?.pdu.clone());
            }
        }
        Ok(found)
    }

    /// An event that stands there.
    pub(crate) fn build(&self, draft: &Draft, sender: &UserId, ground: &Ground, ts_ms: u64) -> UnsignedPdu {
        build(
            draft,
            sender,
            &self.head.room.room_id,
            &ground.prev_events.iter().collect::<Vec<_>>(),
            &ground.auth_events.iter().collect::<Vec<_>>(),
            self.head.depth + 1,
            signed_ms(ts_ms),
            self.head.room.rules,
        )
    }

    /// Whether the room's policy server has to sign the event first.
    async fn needs_recommendation(&mut self, draft: &Draft) -> Result<bool, RoomError> {
        if !self.store.has_policy_source.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let Some(policy) = self.head.state(self.store, "m.room.policy", "").await? else { return Ok(false) };
        if is_exempt(&draft.type_string(), draft.state_key.as_deref()) {
            return Ok(false);
        }
        let Some(server) = PolicyServer::from_content(policy.content_str()) else { return Ok(false) };
        Ok(!self.store.graph.joined_of(self.head.room.nid, &server.via).await?.is_empty())
    }

    /// Appends an event of a local user that was made before, and signed by the policy server since. The room may have gone on.
    async fn append_recommended(&mut self, pdu: &Pdu, txn: Option<String>) -> Result<Appended, RoomError> {
        let placement = Placement { pdu: pdu.clone(), before: None, soft_fail: None, txn };
        match self.append_remote(&placement).await? {
            Ingested::Accepted => Ok(Appended { event_id: pdu.event_id().to_owned(), is_new: true }),
            Ingested::Duplicate => Ok(Appended { event_id: pdu.event_id().to_owned(), is_new: false }),
            Ingested::SoftFailed(reason) | Ingested::Rejected(reason) => Err(RoomError::Refused(reason)),
        }
    }

    async fn already_sent(&self, local: &LocalDraft) -> Result<Option<OwnedEventId>, RoomError> {
        let Some(txn) = &local.txn else { return Ok(None) };
        match self.txns.get(txn) {
            Some(event_id) => Ok(Some(event_id.clone())),
            None => self.store.graph.event_of_txn(txn).await,
        }
    }

    /// State that is already so is not sent again.
    async fn already_state(&mut self, local: &LocalDraft) -> Result<Option<OwnedEventId>, RoomError> {
        let Some(state_key) = local.draft.state_key.as_deref() else { return Ok(None) };
        let current = self.head.state(self.store, &local.draft.type_string(), state_key).await?;
        let same = current
            .filter(|current| current.sender() == local.sender && current.content_str() == local.draft.content());
        Ok(same.map(|current| current.event_id().to_owned()))
    }

    /// Appends a room's create event, which has been built already since the room's id may come from it.
    pub(crate) async fn append_create(&mut self, pdu: Pdu) -> Result<(), RoomError> {
        let refused = |refused: samtal_state::Refused| RoomError::Refused(refused.reason);
        let rules = self.head.room.rules;
        authorize::check_own_auth_events(&pdu, rules, |_| None).map_err(refused)?;
        self.head.auth = Some(Arc::new(AuthState::new(pdu.clone(), None, None, rules).map_err(refused)?));
        let nid = self.number(&[]).await?;
        self.place(nid, pdu, self.head.snapshot, None).await
    }
}
