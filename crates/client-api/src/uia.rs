//! User-interactive authentication: proving again who one is before something grave.
//!
//! A session is bound to the path, to the user and to the intent; so what is proven for one device is not good for another.

use std::collections::BTreeMap;

use http::StatusCode;
use ruma::{OwnedUserId, UserId};
use samtal_account::{Purpose, UiaSession};
use samtal_ops::Homeserver;
use serde_json::{Map, Value, json};

use crate::{ApiError, UserPrincipal};

/// `m.login.dummy`.
pub(crate) const DUMMY: &str = "m.login.dummy";
/// `m.login.password`.
pub(crate) const PASSWORD: &str = "m.login.password";
/// `m.login.registration_token`.
pub(crate) const REGISTRATION_TOKEN: &str = "m.login.registration_token";
/// `m.login.terms`.
pub(crate) const TERMS: &str = "m.login.terms";

/// `m.login.email.identity`.
pub(crate) const EMAIL: &str = "m.login.email.identity";

/// Stands among the completed stages for the user that was made.
const REGISTERED: &str = "";

/// The user that was made in the session that a request names, if one was.
pub(crate) async fn registered_user(
    hs: &Homeserver,
    path: &str,
    auth: Option<&Value>,
) -> Result<Option<OwnedUserId>, ApiError> {
    let Some(id) = auth.and_then(|auth| auth.get("session")).and_then(Value::as_str) else { return Ok(None) };
    let session = hs.accounts.uia(id).await?.filter(|session| session.endpoint == path);
    let user = session.and_then(|session| session.completed.get(REGISTERED)?.as_str()?.try_into().ok());
    Ok(user)
}

/// Completes a stage for a client that showed a web page for it. Whether there is such a session.
pub(crate) async fn complete_by_page(hs: &Homeserver, id: &str, stage: &str, value: Value) -> Result<bool, ApiError> {
    let Some(mut session) = hs.accounts.uia(id).await? else { return Ok(false) };
    session.completed.insert(stage.to_owned(), value);
    hs.accounts.uia_save(&session).await?;
    Ok(true)
}

/// What somebody wants to do that must be proven first.
pub(crate) struct Demand<'a> {
    pub(crate) hs: &'a Homeserver,
    /// The request's path.
    pub(crate) path: &'a str,
    /// Who has a token already.
    pub(crate) user: Option<&'a UserId>,
    /// The ways to prove it: each a list of stages.
    pub(crate) flows: Vec<Vec<&'static str>>,
    /// What is wanted there, as far as the path does not say it.
    pub(crate) intent: &'a [u8],
    /// What a mail address must have been shown for.
    pub(crate) purpose: Purpose,
}

/// A demand that has been met.
#[derive(Debug)]
pub(crate) struct Proven {
    /// The first request's body without `auth`.
    pub(crate) body: Map<String, Value>,
    /// What came of each stage.
    pub(crate) completed: BTreeMap<String, Value>,
    session: Option<String>,
}

impl Proven {
    /// Notes in the session that a user was made by it, so that a client which missed the answer can ask again.
    pub(crate) async fn registered(self, hs: &Homeserver, user: &UserId) -> Result<(), ApiError> {
        let Some(session) = &self.session else { return Ok(()) };
        if let Some(mut session) = hs.accounts.uia(session).await? {
            session.completed.insert(REGISTERED.to_owned(), user.as_str().into());
            hs.accounts.uia_save(&session).await?;
        }
        Ok(())
    }

    /// Ends the session: what it was for is done.
    pub(crate) async fn finish(self, hs: &Homeserver) -> Result<(), ApiError> {
        if let Some(session) = &self.session {
            hs.accounts.uia_end(session).await?;
        }
        Ok(())
    }
}

/// Has a user with a token prove that they know their password. Application services need not.
pub(crate) async fn confirm(
    hs: &Homeserver,
    who: &UserPrincipal,
    path: &str,
    json: &[u8],
    intent: &[u8],
) -> Result<Proven, ApiError> {
    if who.service.is_some() {
        return Ok(Proven { body: Map::new(), completed: BTreeMap::new(), session: None });
    }
    Demand { hs, path, user: Some(&who.user_id), flows: vec![vec![PASSWORD]], intent, purpose: Purpose::Add }
        .check(json)
        .await
}

impl Demand<'_> {
    /// Looks at the `auth` of a request: the demand is met, or the answer says what is still asked for.
    pub(crate) async fn check(&self, json: &[u8]) -> Result<Proven, ApiError> {
        let mut body: Map<String, Value> =
            serde_json::from_slice(json).map_err(|error| crate::args::json_error(&error))?;
        let auth = match body.remove("auth") {
            None | Some(Value::Null) => return Err(self.asked(&self.begin(body).await?, None)),
            Some(Value::Object(auth)) => auth,
            Some(_) => return Err(ApiError::bad_json("auth must be an object")),
        };
        let mut session = match auth.get("session") {
            None | Some(Value::Null) => self.begin(body).await?,
            Some(Value::String(id)) => self.resume(id, body).await?,
            Some(_) => return Err(ApiError::bad_json("session must be a string")),
        };
        match auth.get("type") {
            None | Some(Value::Null) => {}
            Some(Value::String(stage)) => self.stage(&mut session, stage, &auth).await?,
            Some(_) => return Err(ApiError::bad_json("type must be a string")),
        }
        if !self.is_met(&session) {
            return Err(self.asked(&session, None));
        }
        let body = serde_json::from_str(&session.body).unwrap_or_default();
        Ok(Proven { body, completed: session.completed, session: Some(session.id) })
    }

    async fn begin(&self, body: Map<String, Value>) -> Result<UiaSession, ApiError> {
        let body = Value::Object(body).to_string();
        Ok(self.hs.accounts.uia_begin(self.path, self.user, self.intent.to_vec(), body).await?)
    }

    async fn resume(&self, id: &str, body: Map<String, Value>) -> Result<UiaSession, ApiError> {
        let Some(mut session) = self.hs.accounts.uia(id).await? else {
            return Err(ApiError::bad_request("There is no such authentication session"));
        };
        let same = session.endpoint == self.path
            && session.user_id.as_deref() == self.user
            // A client that has said what it wants may leave it out the next time.
            && (session.intent == self.intent || body.is_empty());
        if !same {
            return Err(ApiError::forbidden("The authentication session was begun for something else"));
        }
        if !body.is_empty() {
            session.body = Value::Object(body).to_string();
        }
        Ok(session)
    }

    fn is_met(&self, session: &UiaSession) -> bool {
        self.flows.iter().any(|flow| flow.iter().all(|stage| session.completed.contains_key(*stage)))
    }

    async fn stage(&self, session: &mut UiaSession, stage: &str, auth: &Map<String, Value>) -> Result<(), ApiError> {
        if !self.flows.iter().any(|flow| flow.contains(&stage)) {
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "M_UNRECOGNIZED", "This stage is not asked for"));
        }
        let result = match stage {
            DUMMY | TERMS => Ok(Value::Bool(true)),
            PASSWORD => self.password(auth).await?,
            REGISTRATION_TOKEN => self.registration_token(auth).await?,
            EMAIL => self.email(auth).await?,
            _ => Err("This stage is not known"),
        };
        match result {
            Ok(value) => {
                session.completed.insert(stage.to_owned(), value);
                self.hs.accounts.uia_save(session).await?;
                Ok(())
            }
            Err(why) => Err(self.asked(session, Some(why))),
        }
    }

    async fn password(&self, auth: &Map<String, Value>) -> Result<Result<Value, &'static str>, ApiError> {
        let Some(password) = auth.get("password").and_then(Value::as_str) else {
            return Err(ApiError::missing_param("password is missing"));
        };
        let named = auth
            .get("identifier")
            .and_then(|identifier| identifier.get("user"))
            .or_else(|| auth.get("user"))
            .and_then(Value::as_str);
        let Some(user) = self.user else { return Ok(Err("Nobody has logged in")) };
        if let Some(named) = named {
            let same = crate::login::local_user_id(self.hs, named)
                .is_some_and(|named| named == user || named.as_str().to_lowercase() == user.as_str());
            if !same {
                return Err(ApiError::forbidden("Only the one who began this may prove who they are"));
            }
        }
        crate::login::limit_attempts(self.hs, user.as_str())?;
        Ok(if self.hs.accounts.password_matches(user, password).await? {
            Ok(Value::Bool(true))
        } else {
            Err("The password is wrong")
        })
    }

    async fn registration_token(&self, auth: &Map<String, Value>) -> Result<Result<Value, &'static str>, ApiError> {
        let Some(token) = auth.get("token").and_then(Value::as_str) else {
            return Err(ApiError::missing_param("token is missing"));
        };
        Ok(if self.hs.accounts.registration_token_valid(token).await? {
            Ok(token.into())
        } else {
            Err("The registration token is not valid")
        })
    }

    async fn email(&self, auth: &Map<String, Value>) -> Result<Result<Value, &'static str>, ApiError> {
        let credentials = auth.get("threepid_creds").or_else(|| auth.get("threepidCreds"));
        let text = |key: &str| credentials.and_then(|credentials| credentials.get(key)).and_then(Value::as_str);
        let (Some(sid), Some(secret)) = (text("sid"), text("client_secret")) else {
            return Err(ApiError::missing_param("threepid_creds needs sid and client_secret"));
        };
        Ok(match self.hs.accounts.validated_address(sid, secret, self.purpose).await? {
            Some(address) => Ok(address.into()),
            None => Err("The link in the mail has not been followed yet"),
        })
    }

    /// 401: what is still asked for, and why the last stage failed if it did.
    fn asked(&self, session: &UiaSession, failure: Option<&str>) -> ApiError {
        let flows: Vec<Value> = self.flows.iter().map(|stages| json!({ "stages": stages })).collect();
        let mut body = Map::new();
        body.insert("flows".into(), flows.into());
        body.insert("params".into(), self.params());
        body.insert("session".into(), session.id.as_str().into());
        if !session.completed.is_empty() {
            body.insert("completed".into(), session.completed.keys().cloned().collect());
        }
        if let Some(failure) = failure {
            body.insert("completed".into(), session.completed.keys().cloned().collect());
            body.insert("errcode".into(), "M_FORBIDDEN".into());
            body.insert("error".into(), failure.into());
        }
        ApiError::bare(StatusCode::UNAUTHORIZED, body)
    }

    fn params(&self) -> Value {
        let options = self.hs.accounts.options();
        let mut params = Map::new();
        if let (Some(terms), true) = (&options.terms, self.flows.iter().any(|flow| flow.contains(&TERMS))) {
            let policy = json!({
                "version": terms.version,
                "en": { "name": terms.name, "url": terms.url },
            });
            params.insert(TERMS.into(), json!({ "policies": { "terms_of_service": policy } }));
        }
        Value::Object(params)
    }
}
