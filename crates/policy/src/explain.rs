//! What would happen to a server, and why.

use ruma::ServerName;
use serde::Serialize;

use crate::{
    Action, Direction, Policy, Question, RoomFacts, Unnamed,
    review::{Decision, Denial, Standing, decide, standing},
};

/// What would happen to one kind of traffic with a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// From where to where.
    pub direction: Direction,
    /// What would pass.
    pub action: Action,
    /// `allow`, `deny` or `hold`.
    pub outcome: &'static str,
    /// A word for the rule that refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'static str>,
    /// Why, in words.
    pub why: String,
}

impl Policy {
    /// What would happen to this server, for each direction and kind of traffic. Counts nothing.
    pub fn explain(&self, server: &ServerName, room: RoomFacts<'_>) -> Vec<Explanation> {
        let rules = self.rules();
        let mut explained = Vec::new();
        for direction in Direction::ALL {
            for action in Action::ALL {
                let (outcome, rule, why) = match decide(&rules, &Question::new(server, direction, action).room(room)) {
                    Decision::Allow => ("allow", None, allowed(standing(&rules, server, direction, action))),
                    Decision::Deny(Denial { rule, reason }) => {
                        let layer = match standing(&rules, server, direction, action) {
                            Standing::Denied { is_stored, .. } | Standing::Unnamed { is_stored, .. } => {
                                place(is_stored)
                            }
                            Standing::Allowed { .. } => "",
                        };
                        let of_lists = matches!(rule.code(), "denied" | "closed");
                        let layer = if of_lists { layer } else { "" };
                        let reason = if reason.is_empty() { reason } else { format!(": {reason}") };
                        ("deny", Some(rule.code()), format!("{rule}{layer}{reason}"))
                    }
                    Decision::Hold(rule) => ("hold", Some(rule.code()), rule.to_string()),
                };
                explained.push(Explanation { direction, action, outcome, rule, why });
            }
        }
        explained
    }
}

fn place(is_stored: bool) -> &'static str {
    if is_stored { " (stored)" } else { " (in the file)" }
}

fn allowed(standing: Standing) -> String {
    match standing {
        Standing::Allowed { pattern, reason, is_stored } => {
            let reason = if reason.is_empty() { reason } else { format!(": {reason}") };
            format!("the allow list names it as {pattern}{}{reason}", place(is_stored))
        }
        Standing::Unnamed { default: Unnamed::Open, is_stored } => {
            format!("no rule names it, and federation is open by default{}", place(is_stored))
        }
        // Such a question is not allowed.
        Standing::Unnamed { default: Unnamed::Closed, .. } | Standing::Denied { .. } => String::new(),
    }
}
