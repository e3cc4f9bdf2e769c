//! Push rules.

use http::{Method, StatusCode};
use ruma::{
    api::{
        auth_scheme::AccessToken,
        client::push::{
            delete_pushrule, get_pushrule_actions, get_pushrule_enabled, get_pushrules_all, get_pushrules_global_scope,
            set_pushrule, set_pushrule_actions, set_pushrule_enabled,
        },
    },
    push::{AnyPushRuleRef, InsertPushRuleError, NewPushRule, RemovePushRuleError, RuleKind, Ruleset},
};
use serde_json::Value;

use crate::{Answer, ApiError, Args, Json, RawArgs, Routes};

pub(crate) fn routes() -> Routes {
    Routes::new()
        .route(all)
        .route(global)
        .route_at(&["/_matrix/client/r0/pushrules", "/_matrix/client/v3/pushrules"], all)
        .route_at(&["/_matrix/client/r0/pushrules/global", "/_matrix/client/v3/pushrules/global"], global)
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &[
                "/_matrix/client/r0/pushrules/global/{kind}/{rule_id}",
                "/_matrix/client/v3/pushrules/global/{kind}/{rule_id}",
            ],
            get,
        )
        .route(put)
        .route(delete)
        .route(enabled)
        .route(set_enabled)
        .route(actions)
        .route(set_actions)
}

fn not_found() -> ApiError {
    ApiError::not_found("There is no such push rule")
}

fn find<'a>(rules: &'a Ruleset, kind: &RuleKind, rule_id: &str) -> Result<AnyPushRuleRef<'a>, ApiError> {
    rules.get(kind.clone(), rule_id).ok_or_else(not_found)
}

/// `GET /pushrules/`
async fn all(args: Args<get_pushrules_all::v3::Request>) -> Answer<get_pushrules_all::v3::Response> {
    Ok(get_pushrules_all::v3::Response::new(args.hs.accounts.push_rules(&args.who.user_id).await?))
}

/// `GET /pushrules/global/`
async fn global(
    args: Args<get_pushrules_global_scope::v3::Request>,
) -> Answer<get_pushrules_global_scope::v3::Response> {
    Ok(get_pushrules_global_scope::v3::Response::new(args.hs.accounts.push_rules(&args.who.user_id).await?))
}

/// `GET /pushrules/global/{kind}/{ruleId}`
async fn get(args: RawArgs) -> Answer<Json<Value>> {
    let rules = args.hs.accounts.push_rules(&args.who.user_id).await?;
    let kind = RuleKind::from(args.path.first().map_or("", String::as_str));
    let rule = match find(&rules, &kind, args.path.get(1).map_or("", String::as_str))? {
        AnyPushRuleRef::Override(rule) | AnyPushRuleRef::Underride(rule) => serde_json::to_value(rule),
        AnyPushRuleRef::Content(rule) => serde_json::to_value(rule),
        AnyPushRuleRef::Room(rule) => serde_json::to_value(rule),
        AnyPushRuleRef::Sender(rule) => serde_json::to_value(rule),
        _ => return Err(not_found()),
    };
    rule.map(Json).map_err(ApiError::internal)
}

/// `PUT /pushrules/global/{kind}/{ruleId}`
async fn put(args: Args<set_pushrule::v3::Request>) -> Answer<set_pushrule::v3::Response> {
    let set_pushrule::v3::Request { rule, before, after, .. } = args.body;
    let id = rule.rule_id().to_owned();
    if before.as_deref() == Some(&*id) || after.as_deref() == Some(&*id) {
        return Err(ApiError::bad_request("A rule cannot stand before or after itself"));
    }
    args.hs
        .accounts
        .edit_push_rules(&args.who.user_id, |rules| insert(rules, &rule, after.as_deref(), before.as_deref()))
        .await??;
    Ok(set_pushrule::v3::Response::new())
}

fn insert(rules: &mut Ruleset, rule: &NewPushRule, after: Option<&str>, before: Option<&str>) -> Result<(), ApiError> {
    let (kind, id) = (rule.kind(), rule.rule_id());
    let enabled = rules.get(kind.clone(), id).map(|known| known.enabled());
    if enabled.is_some() && (after.is_some() || before.is_some()) && !id.starts_with('.') {
        // It goes to another place, which is counted without it.
        let _ = rules.remove(kind.clone(), id);
    }
    rules.insert(rule.clone(), after, before).map_err(|error| match error {
        InsertPushRuleError::UnknownRuleId => ApiError::not_found("The rule to stand next to is not known"),
        InsertPushRuleError::ServerDefaultRuleId
        | InsertPushRuleError::InvalidRuleId
        | InsertPushRuleError::RelativeToServerDefaultRule => ApiError::invalid_param(error.to_string()),
        _ => ApiError::bad_request(error.to_string()),
    })?;
    if let Some(enabled) = enabled {
        let _ = rules.set_enabled(kind, id, enabled);
    }
    Ok(())
}

/// `DELETE /pushrules/global/{kind}/{ruleId}`
async fn delete(args: Args<delete_pushrule::v3::Request>) -> Answer<delete_pushrule::v3::Response> {
    let body = &args.body;
    args.hs
        .accounts
        .edit_push_rules(&args.who.user_id, |rules| {
            rules.remove(body.kind.clone(), &body.rule_id).map_err(|error| match error {
                RemovePushRuleError::NotFound => not_found(),
                _ => ApiError::new(
                    StatusCode::BAD_REQUEST,
                    "M_INVALID_PARAM",
                    "The server's own rules cannot be removed",
                ),
            })
        })
        .await??;
    Ok(delete_pushrule::v3::Response::new())
}

/// `GET /pushrules/global/{kind}/{ruleId}/enabled`
async fn enabled(args: Args<get_pushrule_enabled::v3::Request>) -> Answer<get_pushrule_enabled::v3::Response> {
    let rules = args.hs.accounts.push_rules(&args.who.user_id).await?;
    let rule = find(&rules, &args.body.kind, &args.body.rule_id)?;
    Ok(get_pushrule_enabled::v3::Response::new(rule.enabled()))
}

/// `PUT /pushrules/global/{kind}/{ruleId}/enabled`
async fn set_enabled(args: Args<set_pushrule_enabled::v3::Request>) -> Answer<set_pushrule_enabled::v3::Response> {
    let body = &args.body;
    args.hs
        .accounts
        .edit_push_rules(&args.who.user_id, |rules| {
            rules.set_enabled(body.kind.clone(), &body.rule_id, body.enabled).map_err(|_| not_found())
        })
        .await??;
    Ok(set_pushrule_enabled::v3::Response::new())
}

/// `GET /pushrules/global/{kind}/{ruleId}/actions`
async fn actions(args: Args<get_pushrule_actions::v3::Request>) -> Answer<get_pushrule_actions::v3::Response> {
    let rules = args.hs.accounts.push_rules(&args.who.user_id).await?;
    let rule = find(&rules, &args.body.kind, &args.body.rule_id)?;
    Ok(get_pushrule_actions::v3::Response::new(rule.actions().to_vec()))
}

/// `PUT /pushrules/global/{kind}/{ruleId}/actions`
async fn set_actions(args: Args<set_pushrule_actions::v3::Request>) -> Answer<set_pushrule_actions::v3::Response> {
    let body = &args.body;
    args.hs
        .accounts
        .edit_push_rules(&args.who.user_id, |rules| {
            rules.set_actions(body.kind.clone(), &body.rule_id, body.actions.clone()).map_err(|_| not_found())
        })
        .await??;
    Ok(set_pushrule_actions::v3::Response::new())
}
