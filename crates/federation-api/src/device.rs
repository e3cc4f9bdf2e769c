//! Devices and their keys, for those who share rooms with our users.

use std::collections::BTreeMap;

use ruma::{
    OwnedUserId,
    api::federation::{
        device::get_devices::v1 as devices,
        keys::{claim_keys::v1 as claim, get_keys::v1 as query},
    },
};
use samtal_e2ee::one_time_key::Claim;
use serde_json::json;

use crate::{
    ApiError,
    args::Args,
    routes::{Answer, JsonText, Routes},
};

/// Users asked about at once.
const USERS_MAX: usize = 10_000;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .route::<devices::Request, _, _, _>(user_devices)
        .route::<query::Request, _, _, _>(keys_query)
        .route::<claim::Request, _, _, _>(keys_claim)
}

/// `GET /_matrix/federation/v1/user/devices/{userId}`
async fn user_devices(args: Args<devices::Request>) -> Answer<JsonText> {
    let (hs, user) = (&args.hs, &args.request.user_id);
    if !hs.is_local(user) {
        return Err(ApiError::invalid_param("The user is of another server"));
    }
    if hs.accounts.user(user).await?.is_none() {
        return Err(ApiError::not_found("There is no such user here"));
    }
    let stream_id = hs.e2ee.device_list_position(user).await?;
    let mut found = hs.e2ee.keys_query(&BTreeMap::from([(user.clone(), Vec::new())]), None).await?;
    if hs.settings.federation.device_names {
        hs.name_devices(&mut found).await.map_err(ApiError::internal)?;
    }
    let devices: Vec<_> = found
        .device_keys
        .remove(user)
        .unwrap_or_default()
        .into_iter()
        .map(|(device_id, mut keys)| {
            let unsigned = keys.remove("unsigned").unwrap_or_default();
            let mut device = json!({ "device_id": device_id, "keys": keys });
            if let Some(name) = unsigned.get("device_display_name") {
                device["device_display_name"] = name.clone();
            }
            device
        })
        .collect();
    let mut answer = json!({ "user_id": user, "stream_id": stream_id, "devices": devices });
    if let Some(key) = found.master_keys.remove(user) {
        answer["master_key"] = key.into();
    }
    if let Some(key) = found.self_signing_keys.remove(user) {
        answer["self_signing_key"] = key.into();
    }
    Ok(JsonText(answer.to_string()))
}

/// `POST /_matrix/federation/v1/user/keys/query`
async fn keys_query(args: Args<query::Request>) -> Answer<JsonText> {
    let hs = &args.hs;
    if args.request.device_keys.len() > USERS_MAX {
        return Err(ApiError::too_large("Too many users are asked about"));
    }
    let wanted: BTreeMap<OwnedUserId, Vec<String>> = args
        .request
        .device_keys
        .into_iter()
        .filter(|(user, _)| hs.is_local(user))
        .map(|(user, devices)| (user, devices.iter().map(ToString::to_string).collect()))
        .collect();
    let mut found = hs.e2ee.keys_query(&wanted, None).await?;
    if hs.settings.federation.device_names {
        hs.name_devices(&mut found).await.map_err(ApiError::internal)?;
    }
    let answer = json!({
        "device_keys": found.device_keys,
        "master_keys": found.master_keys,
        "self_signing_keys": found.self_signing_keys,
    });
    Ok(JsonText(answer.to_string()))
}

/// `POST /_matrix/federation/v1/user/keys/claim`
async fn keys_claim(args: Args<claim::Request>) -> Answer<JsonText> {
    let hs = &args.hs;
    let mut claims = Vec::new();
    for (user, devices) in args.request.one_time_keys.into_iter().filter(|(user, _)| hs.is_local(user)) {
        claims.extend(devices.into_iter().map(|(device, algorithm)| Claim {
            user: user.clone(),
            device: device.to_string(),
            algorithm: algorithm.to_string(),
        }));
    }
    if claims.len() > USERS_MAX {
        return Err(ApiError::too_large("Too many keys are claimed"));
    }
    let claimed = hs.e2ee.keys_claim(&claims).await?;
    Ok(JsonText(json!({ "one_time_keys": claimed }).to_string()))
}
