//! Users' devices.

use http::Method;
use ruma::{DeviceId, OwnedDeviceId};
use samtal_account::{Device, User};
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::{Admin, local_user};

pub(crate) fn routes() -> Admin {
    Admin::default()
        .on(Method::GET, &["/_synapse/admin/v2/users/{user_id}/devices"], list)
        .on(Method::POST, &["/_synapse/admin/v2/users/{user_id}/devices"], create)
        .on(Method::POST, &["/_synapse/admin/v2/users/{user_id}/delete_devices"], delete_many)
        .on(Method::GET, &["/_synapse/admin/v2/users/{user_id}/devices/{device_id}"], one)
        .on(Method::PUT, &["/_synapse/admin/v2/users/{user_id}/devices/{device_id}"], rename)
        .on(Method::DELETE, &["/_synapse/admin/v2/users/{user_id}/devices/{device_id}"], delete)
        .on(Method::GET, &["/_synapse/admin/v1/whois/{user_id}"], whois)
}

fn written(user: &User, device: &Device) -> Value {
    json!({
        "device_id": device.device_id,
        "display_name": device.display_name,
        "last_seen_ip": device.seen_ip,
        "last_seen_ts": device.seen_ms,
        "last_seen_user_agent": device.seen_agent,
        "user_id": user.user_id,
    })
}

/// `GET /_synapse/admin/v2/users/{userId}/devices`
async fn list(args: RawArgs) -> Answer<Json<Value>> {
    let user = local_user(&args, 0).await?;
    let devices = args.hs.accounts.devices(&user.user_id).await?;
    let devices: Vec<Value> = devices.iter().map(|device| written(&user, device)).collect();
    Ok(Json(json!({ "devices": devices, "total": devices.len() })))
}

#[derive(Deserialize)]
struct Create {
    device_id: OwnedDeviceId,
}

/// `POST /_synapse/admin/v2/users/{userId}/devices`
async fn create(args: RawArgs) -> Answer<Json<Value>> {
    let body: Create = args.json().await?;
    let user = local_user(&args, 0).await?;
    args.hs.accounts.create_device(&user.user_id, &body.device_id, None).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct DeleteMany {
    devices: Vec<OwnedDeviceId>,
}

/// `POST /_synapse/admin/v2/users/{userId}/delete_devices`
async fn delete_many(args: RawArgs) -> Answer<Json<Value>> {
    let body: DeleteMany = args.json().await?;
    let user = local_user(&args, 0).await?;
    let devices: Vec<&DeviceId> = body.devices.iter().map(|device| &**device).collect();
    args.hs.delete_devices(&user.user_id, devices).await?;
    Ok(Json(json!({})))
}

async fn device(args: &RawArgs, user: &User) -> Result<Device, ApiError> {
    let device_id: OwnedDeviceId = args.path.get(1).map_or("", String::as_str).into();
    let device = args.hs.accounts.device(&user.user_id, &device_id).await?;
    device.ok_or_else(|| ApiError::not_found("Device not found"))
}

/// `GET /_synapse/admin/v2/users/{userId}/devices/{deviceId}`
async fn one(args: RawArgs) -> Answer<Json<Value>> {
    let user = local_user(&args, 0).await?;
    Ok(Json(written(&user, &device(&args, &user).await?)))
}

#[derive(Deserialize)]
struct Rename {
    display_name: Option<String>,
}

/// `PUT /_synapse/admin/v2/users/{userId}/devices/{deviceId}`
async fn rename(args: RawArgs) -> Answer<Json<Value>> {
    let body: Rename = args.json().await?;
    let user = local_user(&args, 0).await?;
    let device = device(&args, &user).await?;
    args.hs.rename_device(&user.user_id, &device.device_id, body.display_name.as_deref()).await?;
    Ok(Json(json!({})))
}

/// `DELETE /_synapse/admin/v2/users/{userId}/devices/{deviceId}`
async fn delete(args: RawArgs) -> Answer<Json<Value>> {
    let user = local_user(&args, 0).await?;
    let device = device(&args, &user).await?;
    args.hs.delete_devices(&user.user_id, [&*device.device_id]).await?;
    Ok(Json(json!({})))
}

/// `GET /_synapse/admin/v1/whois/{userId}`
async fn whois(args: RawArgs) -> Answer<Json<Value>> {
    let user = local_user(&args, 0).await?;
    let connections: Vec<Value> = args
        .hs
        .accounts
        .devices(&user.user_id)
        .await?
        .into_iter()
        .map(|device| json!({ "ip": device.seen_ip, "last_seen": device.seen_ms, "user_agent": device.seen_agent }))
        .collect();
    let sessions = json!({ "sessions": [{ "connections": connections }] });
    Ok(Json(json!({ "user_id": user.user_id, "devices": { "": sessions } })))
}
