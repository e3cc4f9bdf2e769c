//! Keys of devices and people.

use std::{collections::BTreeMap, fmt, time::Duration};

use http::{Method, StatusCode};
use ruma::{OwnedServerName, OwnedUserId, api::auth_scheme::AccessToken};
use samtal_e2ee::{
    E2eeError, JsonObject,
    cross_signing::{CrossSigningEffect, CrossSigningUpload},
    one_time_key::{Claim, KeyUpload},
    signature::{SignatureFailure, SignatureUpload},
};
use samtal_model::SyncToken;
use samtal_ops::keys::KeysError;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, json};

use crate::{Answer, ApiError, Json, RawArgs, Routes, uia};

/// How long other servers get when the client does not say.
const ANSWER_TIME_MS: u64 = 10_000;
/// Users and devices in one request.
const USERS_MAX: usize = 10_000;

pub(crate) fn routes() -> Routes {
    Routes::new()
        .raw::<AccessToken, _, _, _>(
            Method::POST,
            &[
                "/_matrix/client/v3/keys/upload",
                "/_matrix/client/r0/keys/upload",
                "/_matrix/client/unstable/keys/upload",
                "/_matrix/client/r0/keys/upload/{device_id}",
            ],
            upload,
        )
        .raw::<AccessToken, _, _, _>(
            Method::POST,
            &["/_matrix/client/v3/keys/query", "/_matrix/client/r0/keys/query", "/_matrix/client/unstable/keys/query"],
            query,
        )
        .raw::<AccessToken, _, _, _>(
            Method::POST,
            &["/_matrix/client/v3/keys/claim", "/_matrix/client/r0/keys/claim", "/_matrix/client/unstable/keys/claim"],
            claim,
        )
        .raw::<AccessToken, _, _, _>(
            Method::POST,
            &["/_matrix/client/v3/keys/device_signing/upload", "/_matrix/client/unstable/keys/device_signing/upload"],
            device_signing,
        )
        .raw::<AccessToken, _, _, _>(
            Method::POST,
            &["/_matrix/client/v3/keys/signatures/upload", "/_matrix/client/unstable/keys/signatures/upload"],
            signatures,
        )
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &[
                "/_matrix/client/v3/keys/changes",
                "/_matrix/client/r0/keys/changes",
                "/_matrix/client/unstable/keys/changes",
            ],
            changes,
        )
}

/// The entries of a JSON object in the order in which they came.
#[derive(Default)]
pub(crate) struct Ordered(pub(crate) Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Ordered;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_unit<E>(self) -> Result<Ordered, E> {
                Ok(Ordered::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut entries = Vec::with_capacity(map.size_hint().unwrap_or(0));
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }
        deserializer.deserialize_any(Entries)
    }
}

/// What a device uploads, also a dehydrated one.
#[derive(Deserialize)]
pub(crate) struct Upload {
    device_keys: Option<JsonObject>,
    #[serde(default)]
    one_time_keys: Ordered,
    #[serde(default, alias = "org.matrix.msc2732.fallback_keys")]
    fallback_keys: Ordered,
}

impl From<Upload> for KeyUpload {
    fn from(upload: Upload) -> Self {
        Self {
            device_keys: upload.device_keys.filter(|keys| !keys.is_empty()),
            one_time_keys: upload.one_time_keys.0,
            fallback_keys: upload.fallback_keys.0,
        }
    }
}

/// `POST /keys/upload`
async fn upload(args: RawArgs) -> Answer<Json<Value>> {
    let upload: Upload = args.json().await?;
    let device = args.who.device()?;
    if args.path.first().is_some_and(|named| named != device.as_str()) {
        return Err(ApiError::invalid_param("Keys can be uploaded for one's own device only"));
    }
    let (user, e2ee) = (&args.who.user_id, &args.hs.e2ee);
    e2ee.keys_upload(user, device, &upload.into()).await?;
    Ok(Json(json!({ "one_time_key_counts": e2ee.one_time_key_counts(user, device).await? })))
}

#[derive(Deserialize)]
struct Query {
    timeout: Option<u64>,
    device_keys: BTreeMap<OwnedUserId, Vec<String>>,
}

/// `POST /keys/query`
async fn query(args: RawArgs) -> Answer<Json<Value>> {
    let body: Query = args.json().await?;
    if body.device_keys.len() > USERS_MAX {
        return Err(ApiError::too_large("Too many users in one request"));
    }
    let (found, failures) = args.hs.query_keys(&args.who.user_id, body.device_keys, time(body.timeout)).await?;
    Ok(Json(json!({
        "device_keys": found.device_keys,
        "master_keys": found.master_keys,
        "self_signing_keys": found.self_signing_keys,
        "user_signing_keys": found.user_signing_keys,
        "failures": shown(failures),
    })))
}

#[derive(Deserialize)]
struct ClaimBody {
    timeout: Option<u64>,
    one_time_keys: BTreeMap<OwnedUserId, BTreeMap<String, String>>,
}

/// `POST /keys/claim`
async fn claim(args: RawArgs) -> Answer<Json<Value>> {
    let body: ClaimBody = args.json().await?;
    let claims: Vec<Claim> = claims(body.one_time_keys);
    if claims.len() > USERS_MAX {
        return Err(ApiError::too_large("Too many devices in one request"));
    }
    let (claimed, failures) = args.hs.claim_keys(claims, time(body.timeout)).await?;
    Ok(Json(json!({ "one_time_keys": claimed, "failures": shown(failures) })))
}

fn claims(wanted: BTreeMap<OwnedUserId, BTreeMap<String, String>>) -> Vec<Claim> {
    let of_user = |(user, devices): (OwnedUserId, BTreeMap<String, String>)| {
        devices.into_iter().map(move |(device, algorithm)| Claim { user: user.clone(), device, algorithm })
    };
    wanted.into_iter().flat_map(of_user).collect()
}

fn time(timeout_ms: Option<u64>) -> Duration {
    Duration::from_millis(timeout_ms.unwrap_or(ANSWER_TIME_MS))
}

fn shown(failed: Vec<OwnedServerName>) -> BTreeMap<String, Value> {
    let shown = |server: OwnedServerName| {
        let message = "The server did not answer";
        (server.to_string(), json!({ "status": 503, "errcode": "M_UNKNOWN", "error": message, "message": message }))
    };
    failed.into_iter().map(shown).collect()
}

#[derive(Deserialize)]
struct Changes {
    from: String,
}

/// `GET /keys/changes`: up to now, which `to` can only hint at.
async fn changes(args: RawArgs) -> Answer<Json<Value>> {
    let query: Changes = args.query()?;
    let from: SyncToken =
        query.from.parse().map_err(|_| ApiError::invalid_param("from is not a token of this server"))?;
    let lists = args.hs.sync.device_changes(&args.who.user_id, from.position.0).await?;
    Ok(Json(json!({ "changed": lists.changed, "left": lists.left })))
}

#[derive(Deserialize)]
struct DeviceSigning {
    master_key: Option<JsonObject>,
    self_signing_key: Option<JsonObject>,
    user_signing_key: Option<JsonObject>,
}

impl From<DeviceSigning> for CrossSigningUpload {
    fn from(body: DeviceSigning) -> Self {
        let DeviceSigning { master_key, self_signing_key, user_signing_key } = body;
        Self { master_key, self_signing_key, user_signing_key }
    }
}

/// `POST /keys/device_signing/upload`: proof is asked for only when it replaces keys that others may have verified.
async fn device_signing(args: RawArgs) -> Answer<Json<Value>> {
    let bytes = args.json_bytes().await?;
    let body: DeviceSigning = serde_json::from_slice(&bytes).map_err(|error| crate::args::json_error(&error))?;
    let mut upload = CrossSigningUpload::from(body);
    let (hs, who) = (&args.hs, &args.who);
    let has_keys = |upload: &CrossSigningUpload| {
        upload.master_key.is_some() || upload.self_signing_key.is_some() || upload.user_signing_key.is_some()
    };
    // Who comes back with nothing but `auth` means the keys that they began with.
    let effect = match has_keys(&upload) {
        true => hs.e2ee.cross_signing_effect(&who.user_id, &upload).await?,
        false => CrossSigningEffect::Replace,
    };
    let proven = match effect {
        CrossSigningEffect::Nothing | CrossSigningEffect::First => None,
        CrossSigningEffect::Replace => Some(uia::confirm(hs, who, args.parts.uri.path(), &bytes, b"").await?),
    };
    if let Some(proven) = &proven
        && !has_keys(&upload)
    {
        let begun = Value::Object(proven.body.clone());
        let begun = DeviceSigning::deserialize(begun).map_err(|error| crate::args::json_error(&error))?;
        upload = begun.into();
    }
    hs.e2ee.cross_signing_upload(&who.user_id, &upload).await?;
    if let Some(proven) = proven {
        proven.finish(hs).await?;
    }
    Ok(Json(json!({})))
}

/// `POST /keys/signatures/upload`
async fn signatures(args: RawArgs) -> Answer<Json<Value>> {
    let upload: SignatureUpload = args.json().await?;
    let failures = args.hs.e2ee.signatures_upload(&args.who.user_id, &upload).await?;
    let mut shown: BTreeMap<OwnedUserId, BTreeMap<String, Value>> = BTreeMap::new();
    for (user, keys) in failures {
        let of_user = keys.into_iter().map(|(key, failure)| (key, signature_failure(failure))).collect();
        shown.insert(user, of_user);
    }
    Ok(Json(json!({ "failures": shown })))
}

fn signature_failure(failure: SignatureFailure) -> Value {
    let (status, errcode, error) = match failure {
        SignatureFailure::UnknownKey => (404, "M_NOT_FOUND", "There is no such device or cross-signing key"),
        SignatureFailure::OtherObject => (400, "M_INVALID_PARAM", "The signed object is not the one that is stored"),
        SignatureFailure::BadSignature => {
            (400, "M_INVALID_SIGNATURE", "There is no valid signature by a key that may sign it")
        }
    };
    json!({ "status": status, "errcode": errcode, "error": error })
}

impl From<E2eeError> for ApiError {
    fn from(error: E2eeError) -> Self {
        match error {
            E2eeError::Invalid(why) => Self::invalid_param(why),
            E2eeError::Malformed(why) => Self::bad_json(why),
            E2eeError::TooLarge(why) => Self::too_large(why),
            E2eeError::Signature(why) => Self::new(StatusCode::BAD_REQUEST, "M_INVALID_SIGNATURE", why),
            E2eeError::NotFound(why) => Self::not_found(why),
            E2eeError::WrongVersion { current } => {
                Self::new(StatusCode::FORBIDDEN, "M_WRONG_ROOM_KEYS_VERSION", "This is not the current backup version")
                    .with("current_version", current.to_string())
            }
            E2eeError::Storage(error) => error.into(),
        }
    }
}

impl From<KeysError> for ApiError {
    fn from(error: KeysError) -> Self {
        match error {
            KeysError::E2ee(error) => error.into(),
            KeysError::Account(error) => error.into(),
            KeysError::Room(error) => Self::internal(error),
            KeysError::Remote(error) => Self::internal(error),
            KeysError::Storage(error) => error.into(),
        }
    }
}
