//! How the endpoints are registered: none without the question whether an administrator asks.

use std::sync::Arc;

use http::Method;
use ruma::{OwnedUserId, UserId, api::auth_scheme::AccessToken};
use samtal_account::User;
use samtal_client_api::{Answer, ApiError, Json, RawArgs, Reply, Routes};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::openapi::{About, Described};

/// Most items of one page.
const PAGE_MAX: usize = 1_000;

/// Endpoints for administrators under way to [`Routes`].
#[derive(Debug, Default)]
pub(crate) struct Admin {
    routes: Routes,
    described: Vec<Described>,
}

impl Admin {
    /// Registers a handler, which only administrators of the server reach.
    pub(crate) fn on<F, Fut, R>(self, method: Method, paths: &[&'static str], handler: F) -> Self
    where
        F: Fn(RawArgs) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<R>> + Send,
        R: Reply + Send,
    {
        // What changes nothing needs no record.
        let action = (method != Method::GET).then(|| format!("{method} {}", paths.first().unwrap_or(&"")));
        let action: Option<Arc<str>> = action.map(Into::into);
        let guarded = move |args: RawArgs| {
            let (handler, action) = (handler.clone(), action.clone());
            async move {
                args.who.require_admin()?;
                let Some(action) = action else { return handler(args).await };
                let (hs, actor) = (Arc::clone(&args.hs), args.who.user_id.clone());
                // A registration token is a secret, an id is not.
                let subject = if action.ends_with("{token}") { String::new() } else { args.path.join(" ") };
                let answer = handler(args).await;
                let outcome =
                    answer.as_ref().err().map_or("done".to_owned(), |error| error.status().as_u16().to_string());
                if let Err(error) = hs.accounts.audit(actor.as_str(), &action, &subject, &outcome).await {
                    tracing::error!(%error, %actor, %action, %subject, %outcome, "an administrator's action is not on record");
                }
                answer
            }
        };
        Self { routes: self.routes.raw::<AccessToken, _, _, _>(method, paths, guarded), described: self.described }
    }

    /// Registers a handler of our own, with its description.
    pub(crate) fn own<F, Fut, R>(self, method: Method, path: &'static str, about: About, handler: F) -> Self
    where
        F: Fn(RawArgs) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<R>> + Send,
        R: Reply + Send,
    {
        let mut all = self.on(method.clone(), &[path], handler);
        all.described.push(Described { method, path, about });
        all
    }

    /// All of both.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.described.extend(other.described);
        Self { routes: self.routes.merge(other.routes), described: self.described }
    }

    pub(crate) fn into_routes(self) -> Routes {
        self.routes
    }

    /// What there is of our own.
    pub(crate) fn into_described(self) -> Vec<Described> {
        self.described
    }
}

/// Which part of a list is wanted, and in which order.
#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    #[serde(default)]
    pub(crate) from: usize,
    pub(crate) limit: Option<usize>,
    pub(crate) order_by: Option<String>,
    pub(crate) dir: Option<String>,
}

impl Page {
    pub(crate) fn is_descending(&self) -> Result<bool, ApiError> {
        match self.dir.as_deref() {
            None | Some("f") => Ok(false),
            Some("b") => Ok(true),
            Some(_) => Err(ApiError::invalid_param("dir is f or b")),
        }
    }

    /// The part of `items` on this page, and where the next one begins if there is one.
    pub(crate) fn cut<T>(&self, items: Vec<T>) -> (Vec<T>, Option<usize>) {
        let total = items.len();
        let limit = self.limit.unwrap_or(100).min(PAGE_MAX);
        let part: Vec<T> = items.into_iter().skip(self.from).take(limit).collect();
        let end = self.from + part.len();
        (part, (end < total).then_some(end))
    }

    /// The answer with the part of `items` on this page as `name`, how many there are in all, and where the next page begins.
    pub(crate) fn answer<T>(&self, name: &str, items: Vec<T>, written: impl Fn(&T) -> Value) -> Json<Value> {
        let total = items.len();
        let (part, next) = self.cut(items);
        let mut answer = json!({ name: part.iter().map(written).collect::<Vec<_>>(), "total": total });
        set_next(&mut answer, "next_token", next);
        Json(answer)
    }
}

/// Puts `next_token` and the like into an answer when there is a next page. The tools want it as text.
pub(crate) fn set_next(answer: &mut Value, name: &str, next: Option<usize>) {
    if let Some(next) = next {
        answer[name] = next.to_string().into();
    }
}

/// The user of ours that the path names.
pub(crate) async fn local_user(args: &RawArgs, index: usize) -> Result<User, ApiError> {
    let user_id = local_user_id(args, index)?;
    args.hs.accounts.user(&user_id).await?.ok_or_else(|| ApiError::not_found("User not found"))
}

/// The user id of ours that the path names, whether or not there is such a user.
pub(crate) fn local_user_id(args: &RawArgs, index: usize) -> Result<OwnedUserId, ApiError> {
    let user_id = UserId::parse(args.path.get(index).map_or("", String::as_str))
        .map_err(|_| ApiError::invalid_param("The path holds no user id"))?;
    if args.hs.accounts.is_local(&user_id) {
        Ok(user_id)
    } else {
        Err(ApiError::bad_request("This user is another server's"))
    }
}
