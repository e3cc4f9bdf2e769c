//! What the use cases ask the policy point, and what they tell it of rooms.

use ruma::{RoomId, ServerName};
use samtal_event::Pdu;
use samtal_policy::{Acl, Action, Decision, Direction, Explanation, Question, RoomFacts, Rule};
use samtal_remote::RemoteError;

use crate::{Homeserver, OpError};

/// What is known of a room, as far as policy looks at it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Situation {
    acl: Option<Acl>,
    room_type: Option<String>,
    encrypted: Option<bool>,
    federate: Option<bool>,
}

impl Situation {
    /// From state events as another server, or our own, tells them. Without a create event nothing is known.
    pub(crate) fn of_state<'a>(state: impl IntoIterator<Item = &'a Pdu>) -> Self {
        let mut situation = Self::default();
        let mut is_encrypted = false;
        for pdu in state {
            if pdu.is_state_of("m.room.create", "") {
                situation.room_type = Some(pdu.content_field("type").unwrap_or_default());
                situation.federate = pdu.content_field("m.federate");
            }
            is_encrypted |= pdu.is_state_of("m.room.encryption", "");
        }
        situation.encrypted = situation.room_type.is_some().then_some(is_encrypted);
        situation
    }

    /// In the form of a question.
    pub(crate) fn facts<'a>(&'a self, room_id: &'a RoomId) -> RoomFacts<'a> {
        RoomFacts {
            id: Some(room_id),
            acl: self.acl.as_ref(),
            room_type: self.room_type.as_deref(),
            encrypted: self.encrypted,
            federate: self.federate,
        }
    }
}

impl Homeserver {
    /// What policy wants to know of a room, from its current state; nothing of one that is not here.
    pub(crate) async fn situation(&self, room_id: &RoomId) -> Result<Situation, OpError> {
        let Some(create) = self.state_content_here(room_id, "m.room.create").await? else {
            return Ok(Situation::default());
        };
        let text = |name: &str| create.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
        Ok(Situation {
            acl: self.server_acl(room_id).await?,
            room_type: Some(text("type")),
            encrypted: Some(self.state_content_here(room_id, "m.room.encryption").await?.is_some()),
            federate: create.get("m.federate").and_then(|value| value.as_bool()),
        })
    }

    /// What would happen to a server, and why; with a room, what would happen there.
    pub async fn explain(&self, server: &ServerName, room_id: Option<&RoomId>) -> Result<Vec<Explanation>, OpError> {
        let Some(room_id) = room_id else { return Ok(self.policy.explain(server, RoomFacts::default())) };
        let situation = self.situation(room_id).await?;
        Ok(self.policy.explain(server, situation.facts(room_id)))
    }

    /// Refuses a server that the room's access control list, or our policy, keeps out.
    pub async fn check_server(&self, room_id: &RoomId, server: &ServerName, action: Action) -> Result<(), OpError> {
        let situation = match action {
            // What is special about the room decides only who comes in; the rest is asked for each event.
            Action::Join | Action::Invite => self.situation(room_id).await?,
            _ => Situation { acl: self.server_acl(room_id).await?, ..Situation::default() },
        };
        let question = Question::new(server, Direction::Inbound, action).room(situation.facts(room_id));
        match self.policy.review(&question) {
            Decision::Deny(denial) => Err(OpError::Forbidden(denial.to_string())),
            // An invite that may have to wait is asked about again when it is read.
            Decision::Allow | Decision::Hold(_) => Ok(()),
        }
    }

    /// Whether policy lets a passing message of this server in that is about no room.
    pub(crate) fn may_pass_by(&self, server: &ServerName) -> bool {
        self.policy.review(&Question::new(server, Direction::Inbound, Action::Edu)) == Decision::Allow
    }

    /// The room's server access control list.
    pub(crate) async fn server_acl(&self, room_id: &RoomId) -> Result<Option<Acl>, OpError> {
        let content = self.state_content_here(room_id, "m.room.server_acl").await?;
        Ok(content.map(|content| Acl::from_content(&content.into())))
    }

    async fn state_content_here(&self, room_id: &RoomId, event_type: &str) -> Result<Option<crate::Content>, OpError> {
        if self.rooms.store().graph.room(room_id).await?.is_none() {
            return Ok(None);
        }
        self.state_content(room_id, event_type).await
    }

    /// Asks our policy about joining or inviting through a server, before anything is known of the room.
    pub(crate) fn check_outward(&self, server: &ServerName, room_id: &RoomId, action: Action) -> Result<(), OpError> {
        let facts = RoomFacts { id: Some(room_id), ..RoomFacts::default() };
        let question = Question::new(server, Direction::Outbound, action).room(facts);
        self.policy.review(&question).permit().map_err(|denial| OpError::Remote(RemoteError::Refused(denial)))
    }

    /// Asks our policy about a room that we are about to enter through a server, which has told its state.
    pub(crate) fn check_entering<'a>(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        state: impl IntoIterator<Item = &'a Pdu>,
    ) -> Result<(), OpError> {
        let situation = Situation::of_state(state);
        let question = Question::new(server, Direction::Outbound, Action::Join).room(situation.facts(room_id));
        self.policy.review(&question).permit().map_err(|denial| OpError::Forbidden(denial.to_string()))
    }

    /// Asks our policy about an invitation, of which this is said of the room. Whether it has to wait for an operator.
    pub(crate) fn review_invite(
        &self,
        server: &ServerName,
        direction: Direction,
        room_id: &RoomId,
        state: &[Pdu],
        is_unwanted: bool,
    ) -> Result<bool, OpError> {
        let situation = Situation::of_state(state);
        let question = Question::new(server, direction, Action::Invite).room(situation.facts(room_id));
        let decision = self.policy.review(&question.unwanted(is_unwanted));
        if matches!(decision, Decision::Hold(_)) {
            return Ok(true);
        }
        match decision.permit() {
            Ok(()) => Ok(false),
            Err(denial) if denial.rule == Rule::NotWanted => Err(OpError::InviteBlocked),
            Err(denial) => Err(OpError::Forbidden(denial.to_string())),
        }
    }
}
