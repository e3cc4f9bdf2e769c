//! What push rules say of an event.

use std::sync::OnceLock;

use ruma::{
    UserId,
    events::room::power_levels::RoomPowerLevelsEventContent,
    push::{Action, AnyPushRuleRef, FlattenedJson, PushConditionPowerLevelsCtx, PushConditionRoomCtx, Ruleset},
    serde::Raw,
};
use samtal_account::{PushRules, ThreadRules};
use samtal_event::{Unsigned, client_form};
use samtal_room::{Room, RoomError, Store, StoredEvent, membership_of};
use samtal_state::SnapshotId;

/// What a user's rules say of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The user is to be told.
    pub notify: bool,
    /// The event is to stand out.
    pub highlight: bool,
}

/// An event as rules look at it, for all users.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) flattened: FlattenedJson,
    /// The words in which it may name somebody, in lower case; nothing where it says by `m.mentions` whom it means.
    words: Option<String>,
    /// What rules that nobody has changed say of it to those whom it does not name.
    common: OnceLock<Verdict>,
}

/// Stands for those whom an event does not name.
const NOBODY: &str = "@nobody.in.particular:nowhere.invalid";
const NOBODY_LOCALPART: &str = "nobody.in.particular";

impl Looked {
    pub(crate) fn new(event: &StoredEvent) -> Self {
        let json = client_form(&event.pdu, Some(event.pdu.room_id()), &Unsigned::default());
        let flattened = FlattenedJson::from_raw(&Raw::<()>::from_json(json));
        let words = match event.pdu.content_str().contains("\"m.mentions\"") {
            true => None,
            false => event.pdu.content_field::<String>("body").map(|body| body.to_lowercase()),
        };
        Self { flattened, words, common: OnceLock::new() }
    }

    /// Whether any rule may concern this user in particular.
    fn names(&self, event: &StoredEvent, user_id: &UserId, display_name: &str) -> bool {
        let may_match = |words: &str, name: &str| name.contains(['*', '?']) || words.contains(&*name.to_lowercase());
        user_id.as_str().contains(['"', '\\'])
            || event.pdu.state_key() == Some(user_id.as_str())
            || event.pdu.content_str().contains(user_id.as_str())
            || self.words.as_ref().is_some_and(|words| {
                may_match(words, user_id.localpart()) || (!display_name.is_empty() && may_match(words, display_name))
            })
    }

    /// Whether it matters what the user is called.
    fn has_words(&self) -> bool {
        self.words.is_some()
    }
}

/// What a user is called in a room, as long as its state is this.
pub(crate) type NameAt = Option<(SnapshotId, Box<str>)>;

/// What rules say of an event of someone else to a user who has changed none of them. What they say to those whom it does not
/// name is worked out once for all. `known` is kept from one time to the next: most events leave the state as it is.
pub(crate) async fn unchanged(
    store: &Store,
    room: &Room,
    event: &StoredEvent,
    looked: &Looked,
    context: &RoomContext,
    user_id: &UserId,
    known: &mut NameAt,
) -> Result<Verdict, RoomError> {
    let name = match known {
        _ if !looked.has_words() => "",
        Some((state, name)) if *state == context.state => name,
        known => {
            let name = context.name(store, user_id).await?.into();
            &*known.insert((context.state, name)).1
        }
    };
    let nobody = <&UserId>::try_from(NOBODY).ok().filter(|nobody| !looked.names(event, nobody, NOBODY_LOCALPART));
    if let Some(nobody) = nobody
        && !looked.names(event, user_id, name)
    {
        if let Some(common) = looked.common.get() {
            return Ok(*common);
        }
        static RULES: OnceLock<Rules> = OnceLock::new();
        let rules = RULES.get_or_init(|| Rules::unchanged(nobody));
        let context = context.named(room, nobody, NOBODY_LOCALPART.to_owned());
        let verdict = Verdict::of(judge(rules, &looked.flattened, &context, None).await);
        return Ok(*looked.common.get_or_init(|| verdict));
    }
    let context = context.of(store, room, user_id).await?;
    Ok(Verdict::of(judge(&Rules::unchanged(user_id), &looked.flattened, &context, None).await))
}

/// What conditions ask of a room, whoever the rules are of.
#[derive(Debug)]
pub(crate) struct RoomContext {
    state: SnapshotId,
    joined: u64,
    power_levels: Option<PushConditionPowerLevelsCtx>,
}

impl RoomContext {
    /// Of a room in this state.
    pub(crate) async fn read(store: &Store, room: &Room, state: SnapshotId) -> Result<Self, RoomError> {
        let (joined, _) = store.graph.counts(room.nid).await?;
        Ok(Self { state, joined, power_levels: power_levels(store, room, state).await? })
    }

    /// For the rules of one user.
    pub(crate) async fn of(
        &self,
        store: &Store,
        room: &Room,
        user_id: &UserId,
    ) -> Result<PushConditionRoomCtx, RoomError> {
        Ok(self.named(room, user_id, self.name(store, user_id).await?))
    }

    /// What the user is called in the room.
    async fn name(&self, store: &Store, user_id: &UserId) -> Result<String, RoomError> {
        let member = store.state_event(self.state, "m.room.member", user_id.as_str()).await?;
        Ok(member
            .filter(|member| membership_of(&member.pdu).is_some())
            .and_then(|member| member.pdu.content_field::<String>("displayname"))
            .unwrap_or_else(|| user_id.localpart().to_owned()))
    }

    fn named(&self, room: &Room, user_id: &UserId, name: String) -> PushConditionRoomCtx {
        let count = u32::try_from(self.joined).unwrap_or(u32::MAX).into();
        let context = PushConditionRoomCtx::new(room.room_id.clone(), count, user_id.to_owned(), name);
        match &self.power_levels {
            Some(power_levels) => context.with_power_levels(power_levels.clone()),
            None => context,
        }
    }
}

async fn power_levels(
    store: &Store,
    room: &Room,
    state: SnapshotId,
) -> Result<Option<PushConditionPowerLevelsCtx>, RoomError> {
    let Some(create) = store.state_event(state, "m.room.create", "").await? else { return Ok(None) };
    let additional: Vec<String> = create.pdu.content_field("additional_creators").unwrap_or_default();
    let creators = std::iter::once(create.pdu.sender().to_owned())
        .chain(additional.iter().filter_map(|user| UserId::parse(user).ok()));
    let levels = match store.state_event(state, "m.room.power_levels", "").await? {
        Some(event) => event.pdu.content_as::<RoomPowerLevelsEventContent>().ok(),
        None => None,
    };
    let rules = &room.rules.authorization;
    let levels = levels.unwrap_or_else(|| RoomPowerLevelsEventContent::new(rules));
    Ok(Some(PushConditionPowerLevelsCtx::new(
        levels.users,
        levels.users_default,
        levels.notifications,
        ruma::room_version_rules::RoomPowerLevelsRules::new(rules, creators),
    )))
}

impl Verdict {
    /// What actions amount to. Only what is told of can stand out.
    pub fn of(actions: &[Action]) -> Self {
        let notify = actions.iter().any(Action::should_notify);
        Self { notify, highlight: notify && actions.iter().any(Action::is_highlight) }
    }
}

/// A user's push rules, ready to be evaluated.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) rules: Ruleset,
    pub(crate) threads: ThreadRules,
}

impl Rules {
    pub(crate) fn new(rules: &PushRules) -> Self {
        Self { rules: rules.ruleset(), threads: rules.thread_rules() }
    }

    /// Those of a user who has changed none.
    pub(crate) fn unchanged(user_id: &UserId) -> Self {
        Self::new(&PushRules::unchanged(user_id))
    }

    /// Whether it matters in which threads events are.
    pub(crate) fn look_at_threads(&self) -> bool {
        self.threads.subscribed.is_some() || self.threads.unsubscribed.is_some()
    }
}

/// The actions of the first of the rules that an event of someone else fits. `subscribed` says of an event in a thread
/// whether the user has subscribed to that.
pub(crate) async fn judge<'a>(
    rules: &'a Rules,
    event: &FlattenedJson,
    context: &PushConditionRoomCtx,
    subscribed: Option<bool>,
) -> &'a [Action] {
    let mut of_thread = match subscribed {
        Some(true) => rules.threads.subscribed.as_deref(),
        Some(false) => rules.threads.unsubscribed.as_deref(),
        None => None,
    };
    for rule in rules.rules.iter() {
        if !matches!(rule, AnyPushRuleRef::Override(_) | AnyPushRuleRef::Content(_))
            && let Some(actions) = of_thread.take()
        {
            return actions;
        }
        if rule.applies(event, context).await {
            return rule.actions();
        }
    }
    of_thread.unwrap_or_default()
}
