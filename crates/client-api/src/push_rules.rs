//! Push rules.

use http::{Method, StatusCode};
use ruma::api::auth_scheme::AccessToken;
use samtal_account::{NewPushRule, PushRuleError, PushRules};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Answer, ApiError, Json, RawArgs, Routes};

pub(crate) fn routes() -> Routes {
    const ALL: &[&str] = &["/_matrix/client/r0/pushrules/", "/_matrix/client/v3/pushrules/"];
    const GLOBAL: &[&str] = &["/_matrix/client/r0/pushrules/global/", "/_matrix/client/v3/pushrules/global/"];
    const RULE: &[&str] = &[
        "/_matrix/client/r0/pushrules/global/{kind}/{rule_id}",
        "/_matrix/client/v3/pushrules/global/{kind}/{rule_id}",
    ];
    const ENABLED: &[&str] = &[
        "/_matrix/client/r0/pushrules/global/{kind}/{rule_id}/enabled",
        "/_matrix/client/v3/pushrules/global/{kind}/{rule_id}/enabled",
    ];
    const ACTIONS: &[&str] = &[
        "/_matrix/client/r0/pushrules/global/{kind}/{rule_id}/actions",
        "/_matrix/client/v3/pushrules/global/{kind}/{rule_id}/actions",
    ];
    const REST: &[&str] = &["/_matrix/client/r0/pushrules/{*rest}", "/_matrix/client/v3/pushrules/{*rest}"];
    let rest = [Method::GET, Method::PUT, Method::DELETE]
        .into_iter()
        .fold(Routes::new(), |routes, method| routes.raw::<AccessToken, _, _, _>(method, REST, other))
        .raw::<AccessToken, _, _, _>(Method::PUT, ALL, other)
        .raw::<AccessToken, _, _, _>(Method::PUT, GLOBAL, other);
    Routes::new()
        .raw::<AccessToken, _, _, _>(Method::GET, ALL, all)
        .raw::<AccessToken, _, _, _>(Method::GET, GLOBAL, global)
        .raw::<AccessToken, _, _, _>(Method::GET, RULE, get)
        .raw::<AccessToken, _, _, _>(Method::PUT, RULE, put)
        .raw::<AccessToken, _, _, _>(Method::DELETE, RULE, delete)
        .raw::<AccessToken, _, _, _>(Method::GET, ENABLED, enabled)
        .raw::<AccessToken, _, _, _>(Method::PUT, ENABLED, set_enabled)
        .raw::<AccessToken, _, _, _>(Method::GET, ACTIONS, actions)
        .raw::<AccessToken, _, _, _>(Method::PUT, ACTIONS, set_actions)
        .merge(rest.unlisted())
}

impl From<PushRuleError> for ApiError {
    fn from(error: PushRuleError) -> Self {
        let why = error.to_string();
        match error {
            PushRuleError::NotFound => Self::not_found(why),
            PushRuleError::UnknownKind | PushRuleError::ServerDefault | PushRuleError::InvalidId => {
                Self::invalid_param(why)
            }
            PushRuleError::Malformed(_) => Self::bad_json(why),
            PushRuleError::UnknownNeighbor => Self::bad_request(why),
            PushRuleError::TooMany => Self::new(StatusCode::BAD_REQUEST, "M_TOO_LARGE", why),
        }
    }
}

fn argument(args: &RawArgs, index: usize) -> &str {
    args.path.get(index).map_or("", String::as_str)
}

async fn rules(args: &RawArgs) -> Result<PushRules, ApiError> {
    Ok(args.hs.accounts.push_rules_of(&args.who.user_id).await?)
}

async fn edit(
    args: &RawArgs,
    mut edit: impl FnMut(&mut PushRules, &str, &str) -> Result<(), PushRuleError>,
) -> Answer<Json<Value>> {
    let (kind, id) = (argument(args, 0), argument(args, 1));
    args.hs.accounts.edit_push_rules(&args.who.user_id, |rules| edit(rules, kind, id)).await??;
    Ok(Json(json!({})))
}

/// What is no endpoint, but looks like an unhappy attempt at one of them, is the client's mistake: the rules of one kind
/// may still be asked for together, as they could be once.
async fn other(args: RawArgs) -> Answer<Json<Value>> {
    let rest = argument(&args, 0);
    if args.parts.method == Method::GET
        && let Some(kind) = rest.strip_prefix("global/").and_then(|rest| rest.strip_suffix('/'))
    {
        return Ok(Json(rules(&args).await?.of_kind(kind)?.to_vec().into()));
    }
    Err(ApiError::new(StatusCode::BAD_REQUEST, "M_UNRECOGNIZED", "This names no push rule"))
}

/// `GET /pushrules/`
async fn all(args: RawArgs) -> Answer<Json<Value>> {
    Ok(Json(json!({ "global": rules(&args).await?.global() })))
}

/// `GET /pushrules/global/`
async fn global(args: RawArgs) -> Answer<Json<Value>> {
    Ok(Json(json!(rules(&args).await?.global())))
}

/// `GET /pushrules/global/{kind}/{ruleId}`
async fn get(args: RawArgs) -> Answer<Json<Value>> {
    match rules(&args).await?.get(argument(&args, 0), argument(&args, 1)) {
        // Clients ask for rules of newer kinds to find out whether they are there.
        Err(PushRuleError::UnknownKind) => Err(ApiError::not_found("There is no such push rule")),
        found => Ok(Json(found?.clone())),
    }
}

#[derive(Deserialize)]
struct Place {
    before: Option<String>,
    after: Option<String>,
}

#[derive(Deserialize)]
struct Rule {
    actions: Vec<Value>,
    conditions: Option<Vec<Value>>,
    pattern: Option<String>,
}

/// `PUT /pushrules/global/{kind}/{ruleId}`
async fn put(args: RawArgs) -> Answer<Json<Value>> {
    let place: Place = args.query()?;
    let rule: Rule = args.json().await?;
    let new = NewPushRule {
        id: argument(&args, 1).to_owned(),
        actions: rule.actions,
        conditions: rule.conditions,
        pattern: rule.pattern,
        before: place.before,
        after: place.after,
    };
    edit(&args, |rules, kind, _| rules.put(kind, new.clone())).await
}

/// `DELETE /pushrules/global/{kind}/{ruleId}`
async fn delete(args: RawArgs) -> Answer<Json<Value>> {
    edit(&args, PushRules::remove).await
}

/// `GET /pushrules/global/{kind}/{ruleId}/enabled`
async fn enabled(args: RawArgs) -> Answer<Json<Value>> {
    let rules = rules(&args).await?;
    let rule = rules.get(argument(&args, 0), argument(&args, 1))?;
    Ok(Json(json!({ "enabled": rule.get("enabled").and_then(Value::as_bool).unwrap_or(true) })))
}

#[derive(Deserialize)]
struct Enabled {
    enabled: bool,
}

/// `PUT /pushrules/global/{kind}/{ruleId}/enabled`
async fn set_enabled(args: RawArgs) -> Answer<Json<Value>> {
    let body: Enabled = args.json().await?;
    edit(&args, |rules, kind, id| rules.set_enabled(kind, id, body.enabled)).await
}

/// `GET /pushrules/global/{kind}/{ruleId}/actions`
async fn actions(args: RawArgs) -> Answer<Json<Value>> {
    let rules = rules(&args).await?;
    let rule = rules.get(argument(&args, 0), argument(&args, 1))?;
    Ok(Json(json!({ "actions": rule.get("actions").cloned().unwrap_or_else(|| json!([])) })))
}

#[derive(Deserialize)]
struct Actions {
    actions: Vec<Value>,
}

/// `PUT /pushrules/global/{kind}/{ruleId}/actions`
async fn set_actions(args: RawArgs) -> Answer<Json<Value>> {
    let body: Actions = args.json().await?;
    edit(&args, |rules, kind, id| rules.set_actions(kind, id, body.actions.clone())).await
}
