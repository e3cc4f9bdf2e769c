//! Registering.

use hmac::{Hmac, KeyInit, Mac};
use http::{Method, StatusCode};
use ruma::{
    OwnedUserId,
    api::{
        auth_scheme::{AppserviceTokenOptional, NoAccessToken},
        client::account::{check_registration_token_validity, get_username_availability},
    },
};
use samtal_account::{Kind, NewSession, NewUser, Purpose};
use samtal_kit::secret::constant_time_eq;
use samtal_ops::Homeserver;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha1::Sha1;

use crate::{
    Answer, ApiError, Args, Json, RawArgs, Routes,
    login::issued_json,
    uia::{self, Demand},
};

pub(crate) fn routes() -> Routes {
    Routes::new()
        .raw::<AppserviceTokenOptional, _, _, _>(
            Method::POST,
            &["/_matrix/client/r0/register", "/_matrix/client/v3/register"],
            register,
        )
        .route(available)
        .route(token_validity)
        .raw::<NoAccessToken, _, _, _>(Method::GET, &["/_synapse/admin/v1/register"], nonce)
        .raw::<NoAccessToken, _, _, _>(Method::POST, &["/_synapse/admin/v1/register"], register_by_secret)
}

#[derive(Deserialize)]
struct Query {
    kind: Option<String>,
}

#[derive(Default, Deserialize)]
struct Registration {
    username: Option<String>,
    password: Option<String>,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    inhibit_login: bool,
    #[serde(default)]
    refresh_token: bool,
    #[serde(rename = "type")]
    login_type: Option<String>,
    guest_access_token: Option<String>,
}

impl Registration {
    fn parse(body: Map<String, Value>) -> Result<Self, ApiError> {
        serde_json::from_value(Value::Object(body)).map_err(|error| crate::args::json_error(&error))
    }

    fn session(&self) -> Option<NewSession> {
        (!self.inhibit_login).then(|| NewSession {
            device_id: self.device_id.as_deref().filter(|device| !device.is_empty()).map(Into::into),
            display_name: self.initial_device_display_name.clone(),
            refresh: self.refresh_token,
            valid_for_ms: None,
        })
    }
}

/// `POST /register`
async fn register(args: RawArgs<AppserviceTokenOptional>) -> Answer<Json<Value>> {
    let kind = args.query::<Query>()?.kind;
    let json = args.json_bytes().await?;
    let mut body: Map<String, Value> =
        serde_json::from_slice(&json).map_err(|error| crate::args::json_error(&error))?;
    let auth = body.remove("auth");
    let registration = Registration::parse(body)?;
    let hs = &args.hs;
    if let Some(user_id) = uia::registered_user(hs, args.parts.uri.path(), auth.as_ref()).await? {
        // The answer to the request that made the user was lost.
        return Ok(Json(match registration.session() {
            Some(session) => issued_json(hs, &hs.accounts.log_in(&user_id, session, &args.client).await?),
            None => json!({ "user_id": user_id, "home_server": hs.name }),
        }));
    }
    if args.who.is_none()
        && let Some(rates) = hs.accounts.options().rates
    {
        let address = args.client.ip.as_deref().unwrap_or_default();
        hs.limiter.take("registration", address, rates.registration).map_err(ApiError::limit_exceeded)?;
    }
    match kind.as_deref() {
        Some("guest") => return register_guest(&args, &registration).await,
        None | Some("user") => {}
        Some(_) => return Err(ApiError::bad_request("kind must be user or guest")),
    }
    if registration.login_type.as_deref() == Some("m.login.application_service") || args.who.is_some() {
        return register_for_service(&args, &registration).await;
    }
    register_user(&args, &registration, &json).await
}

/// Somebody makes an account, or a guest's their own, once they have proven what is demanded.
async fn register_user(
    args: &RawArgs<AppserviceTokenOptional>,
    registration: &Registration,
    json: &[u8],
) -> Answer<Json<Value>> {
    let hs = &args.hs;
    let flows = flows(hs).await?;
    if let Some(username) = &registration.username {
        own_or_free_user_id(args, registration, username).await?;
    }
    if let Some(password) = &registration.password {
        hs.accounts.check_password_strength(password)?;
    }
    let demand = Demand { hs, path: args.parts.uri.path(), user: None, flows, intent: b"", purpose: Purpose::Register };
    let proven = demand.check(json).await?;
    let registration = Registration::parse(proven.body.clone())?;
    let Some(password) = registration.password.clone() else {
        return Err(ApiError::missing_param("password is missing"));
    };
    let (user_id, was_guest) = match &registration.username {
        Some(username) => own_or_free_user_id(args, &registration, username).await?,
        None => (hs.accounts.random_user_id()?, false),
    };
    let mut new = NewUser::normal(user_id);
    new.was_guest = was_guest;
    new.password = Some(password);
    new.terms = hs.accounts.options().terms.as_ref().map(|terms| terms.version.clone());
    new.registration_token =
        proven.completed.get(uia::REGISTRATION_TOKEN).and_then(Value::as_str).map(ToOwned::to_owned);
    new.mail = proven.completed.get(uia::EMAIL).and_then(Value::as_str).map(ToOwned::to_owned);
    if let Some(address) = &new.mail
        && hs.accounts.threepid_user("email", address).await?.is_some()
    {
        return Err(samtal_account::AccountError::ThreepidInUse.into());
    }
    new.session = registration.session();
    let user_id = new.user_id.clone();
    let answer = create(hs, new, &args.client).await?;
    proven.registered(hs, &user_id).await?;
    Ok(answer)
}

/// What somebody must go through to register.
async fn flows(hs: &Homeserver) -> Result<Vec<Vec<&'static str>>, ApiError> {
    let options = hs.accounts.options();
    let mut stages = Vec::new();
    if !options.registration_open {
        if options.registration_tokens.is_empty() && hs.accounts.registration_tokens().await?.is_empty() {
            return Err(ApiError::forbidden("Registration is closed on this server"));
        }
        stages.push(uia::REGISTRATION_TOKEN);
    }
    if options.terms.is_some() {
        stages.push(uia::TERMS);
    }
    let with_mail: Vec<_> = stages.iter().copied().chain([uia::EMAIL]).collect();
    if stages.is_empty() {
        stages.push(uia::DUMMY);
    }
    Ok(if hs.settings.mail.is_some() { vec![stages, with_mail] } else { vec![stages] })
}

/// The id that somebody gets who wants this name, and whether they have it already, as a guest (CS API, "Guest access").
async fn own_or_free_user_id(
    args: &RawArgs<AppserviceTokenOptional>,
    registration: &Registration,
    username: &str,
) -> Result<(OwnedUserId, bool), ApiError> {
    let hs = &args.hs;
    if let Some(token) = &registration.guest_access_token {
        let session = hs.accounts.session(token, &args.client).await?;
        let session = session.map_err(|_| ApiError::forbidden("The guest's access token is not known"))?;
        let user_id = hs.accounts.new_user_id(username)?;
        if session.kind != Kind::Guest || session.user_id != user_id {
            return Err(ApiError::forbidden("The name is not the guest's"));
        }
        return Ok((user_id, true));
    }
    Ok((free_user_id(hs, username).await?, false))
}

/// The id that somebody gets who wants this name, if nobody has it.
async fn free_user_id(hs: &Homeserver, username: &str) -> Result<OwnedUserId, ApiError> {
    let user_id = hs.accounts.new_user_id(username)?;
    // Nobody speaks in the server's name.
    let is_servers = hs.notice_sender().is_ok_and(|sender| sender == user_id);
    if is_servers || hs.accounts.services.exclusive_user(&user_id).is_some() {
        return Err(samtal_account::AccountError::Exclusive.into());
    }
    if !hs.accounts.is_free(&user_id).await? {
        return Err(samtal_account::AccountError::UserInUse.into());
    }
    Ok(user_id)
}

async fn create(hs: &Homeserver, new: NewUser, client: &samtal_account::Client) -> Answer<Json<Value>> {
    let user_id = new.user_id.clone();
    Ok(Json(match hs.accounts.create(new, client).await? {
        Some(issued) => issued_json(hs, &issued),
        None => json!({ "user_id": user_id, "home_server": hs.name }),
    }))
}

async fn register_guest(args: &RawArgs<AppserviceTokenOptional>, body: &Registration) -> Answer<Json<Value>> {
    if !args.hs.accounts.options().guests {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN", "Guests are not let in here"));
    }
    let mut new = NewUser::normal(args.hs.accounts.random_user_id()?);
    new.kind = Kind::Guest;
    new.display_name = None;
    // A guest's device is always a new one.
    new.session = Some(NewSession { display_name: body.initial_device_display_name.clone(), ..NewSession::default() });
    create(&args.hs, new, &args.client).await
}

async fn register_for_service(args: &RawArgs<AppserviceTokenOptional>, body: &Registration) -> Answer<Json<Value>> {
    let Some(service) = &args.who else {
        return Err(if args.parts.headers.contains_key(http::header::AUTHORIZATION) {
            ApiError::unknown_token(false)
        } else {
            ApiError::missing_token("An application service's token is needed")
        });
    };
    let username = body.username.as_deref().ok_or_else(|| ApiError::missing_param("username is missing"))?;
    let user_id = args.hs.accounts.new_user_id(username)?;
    if !service.owns_user(&user_id) {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "M_EXCLUSIVE",
            "The user is not in the application service's namespace",
        ));
    }
    let mut new = NewUser::normal(user_id);
    new.kind = Kind::Service;
    new.service = Some(service.id.clone());
    new.session = body.session();
    create(&args.hs, new, &args.client).await
}

/// `GET /register/available`
async fn available(
    args: Args<get_username_availability::v3::Request>,
) -> Answer<get_username_availability::v3::Response> {
    free_user_id(&args.hs, &args.body.username).await?;
    Ok(get_username_availability::v3::Response::new(true))
}

/// `GET /register/m.login.registration_token/validity`
async fn token_validity(
    args: Args<check_registration_token_validity::v1::Request>,
) -> Answer<check_registration_token_validity::v1::Response> {
    let valid = args.hs.accounts.registration_token_valid(&args.body.token).await?;
    Ok(check_registration_token_validity::v1::Response::new(valid))
}

/// `GET /_synapse/admin/v1/register`: a nonce for the request below. Tools know this endpoint; it is not Matrix's.
async fn nonce(args: RawArgs<NoAccessToken>) -> Answer<Json<Value>> {
    shared_secret(&args.hs)?;
    Ok(Json(json!({ "nonce": args.hs.accounts.create_nonce() })))
}

fn shared_secret(hs: &Homeserver) -> Result<String, ApiError> {
    let options = hs.accounts.options();
    let secret = options.registration_shared_secret.as_ref();
    secret
        .map(|secret| secret.expose().clone())
        .ok_or_else(|| ApiError::bad_request("Registration with a shared secret is switched off"))
}

#[derive(Deserialize)]
struct BySecret {
    nonce: String,
    username: String,
    password: String,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
    displayname: Option<String>,
    mac: String,
    #[serde(default)]
    inhibit_login: bool,
    device_id: Option<String>,
}

/// `POST /_synapse/admin/v1/register`: whoever knows the shared secret makes any account. `mac` is the HMAC-SHA1 of nonce,
/// name, password and `admin` or `notadmin`, with a NUL between them.
async fn register_by_secret(args: RawArgs<NoAccessToken>) -> Answer<Json<Value>> {
    let secret = shared_secret(&args.hs)?;
    let body: BySecret = args.json().await?;
    let hs = &args.hs;
    if !hs.accounts.take_nonce(&body.nonce) {
        return Err(ApiError::bad_request("The nonce is not known"));
    }
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).map_err(ApiError::internal)?;
    let admin = if body.admin { "admin" } else { "notadmin" };
    let mut said = vec![body.nonce.as_str(), &body.username, &body.password, admin];
    said.extend(body.user_type.as_deref());
    mac.update(said.join("\0").as_bytes());
    let expected: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    if !constant_time_eq(expected.as_bytes(), body.mac.to_lowercase().as_bytes()) {
        return Err(ApiError::forbidden("The mac does not match"));
    }
    let mut new = NewUser::normal(free_user_id(hs, &body.username).await?);
    new.password = Some(body.password);
    new.admin = body.admin;
    new.display_name = body.displayname.or(new.display_name);
    new.session = (!body.inhibit_login)
        .then(|| NewSession { device_id: body.device_id.map(Into::into), ..NewSession::default() });
    create(hs, new, &args.client).await
}
