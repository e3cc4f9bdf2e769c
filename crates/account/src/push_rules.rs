//! Push rules: which events a user wants to be told of. They are kept as account data of their own type.

use ruma::{UserId, push::Ruleset};
use serde_json::{Value, json};

use crate::{AccountError, Accounts, data::PUSH_RULES};

/// Longest set of rules, in rules of all kinds together.
pub const PUSH_RULES_MAX: usize = 2_000;

impl Accounts {
    /// The user's rules, with those of the specification that they do not have yet.
    pub async fn push_rules(&self, user: &UserId) -> Result<Ruleset, AccountError> {
        match self.account_data(user, None, PUSH_RULES).await? {
            Some(content) => {
                let content: Value = serde_json::from_str(content.get())
                    .map_err(|error| AccountError::Corrupt("push rules", Some(error)))?;
                parse(user, Some(content))
            }
            None => Ok(Ruleset::server_default(user)),
        }
    }

    /// Reads, changes and writes the user's rules. `edit` is called again when another write came between.
    pub async fn edit_push_rules<T, E>(
        &self,
        user: &UserId,
        mut edit: impl FnMut(&mut Ruleset) -> Result<T, E>,
    ) -> Result<Result<T, E>, AccountError> {
        self.edit_account_data(user, None, PUSH_RULES, |content| {
            let mut rules = parse(user, content)?;
            match edit(&mut rules) {
                Ok(answer) => {
                    if rules.iter().count() > PUSH_RULES_MAX {
                        return Err(AccountError::TooLarge("There are too many push rules"));
                    }
                    Ok((Some(json!({ "global": rules })), Ok(answer)))
                }
                Err(error) => Ok((None, Err(error))),
            }
        })
        .await
    }
}

fn parse(user: &UserId, content: Option<Value>) -> Result<Ruleset, AccountError> {
    let server_default = Ruleset::server_default(user);
    let Some(mut content) = content else { return Ok(server_default) };
    let rules = content.get_mut("global").map(Value::take).unwrap_or_default();
    let mut rules: Ruleset =
        serde_json::from_value(rules).map_err(|error| AccountError::Corrupt("push rules", Some(error)))?;
    rules.update_with_server_default(server_default);
    Ok(rules)
}
