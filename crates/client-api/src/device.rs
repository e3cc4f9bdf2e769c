//! Devices.

use http::{Method, StatusCode};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedDeviceId,
    api::{
        auth_scheme::AccessToken,
        client::device::{Device, delete_device, delete_devices, get_device, get_devices},
    },
};
use serde::Deserialize;
use serde_json::json;

use crate::{Answer, ApiError, Args, Raw, RawArgs, Routes, uia};

pub(crate) fn routes() -> Routes {
    Routes::new()
        .route(devices)
        .route(device)
        .raw::<AccessToken, _, _, _>(
            Method::PUT,
            &["/_matrix/client/r0/devices/{device_id}", "/_matrix/client/v3/devices/{device_id}"],
            update,
        )
        .route(delete)
        .route(delete_many)
}

fn client_device(device: samtal_account::Device) -> Device {
    let mut shown = Device::new(device.device_id);
    shown.display_name = device.display_name;
    shown.last_seen_ip = device.seen_ip;
    shown.last_seen_ts = device.seen_ms.and_then(ruma::UInt::new).map(MilliSecondsSinceUnixEpoch);
    shown
}

/// `GET /devices`
async fn devices(args: Args<get_devices::v3::Request>) -> Answer<get_devices::v3::Response> {
    let devices = args.hs.accounts.devices(&args.who.user_id).await?;
    Ok(get_devices::v3::Response::new(devices.into_iter().map(client_device).collect()))
}

/// `GET /devices/{deviceId}`
async fn device(args: Args<get_device::v3::Request>) -> Answer<get_device::v3::Response> {
    let device = args.hs.accounts.device(&args.who.user_id, &args.body.device_id).await?;
    let device = device.ok_or_else(|| ApiError::not_found("There is no such device"))?;
    Ok(get_device::v3::Response::new(client_device(device)))
}

#[derive(Deserialize)]
struct Update {
    display_name: Option<String>,
}

/// `PUT /devices/{deviceId}`. Application services make devices with it, which is answered with 201.
async fn update(args: RawArgs) -> Answer<Raw> {
    let body: Update = args.json().await?;
    let device_id: OwnedDeviceId = args.path.first().map_or("", String::as_str).into();
    let user = &args.who.user_id;
    let mut status = StatusCode::OK;
    if args.hs.accounts.device(user, &device_id).await?.is_none() {
        if args.who.service.is_none() {
            return Err(ApiError::not_found("There is no such device"));
        }
        args.hs.accounts.create_device(user, &device_id, body.display_name.as_deref()).await?;
        args.hs.device_appeared(user, &device_id).await?;
        status = StatusCode::CREATED;
    } else if let Some(name) = &body.display_name {
        args.hs.rename_device(user, &device_id, Some(name)).await?;
    }
    Ok(Raw(crate::json_response(status, &json!({}))))
}

/// `DELETE /devices/{deviceId}`
async fn delete(args: Args<delete_device::v3::Request>) -> Answer<delete_device::v3::Response> {
    let Args { body, who, hs, json, uri_path, .. } = args;
    let proven = uia::confirm(&hs, &who, &uri_path, &json, b"").await?;
    hs.delete_devices(&who.user_id, [&*body.device_id]).await?;
    proven.finish(&hs).await?;
    Ok(delete_device::v3::Response::new())
}

/// `POST /delete_devices`
async fn delete_many(args: Args<delete_devices::v3::Request>) -> Answer<delete_devices::v3::Response> {
    let Args { body, who, hs, json, uri_path, .. } = args;
    let mut named: Vec<&str> = body.devices.iter().map(|device| device.as_str()).collect();
    named.sort_unstable();
    let intent = named.join("\0");
    let proven = uia::confirm(&hs, &who, &uri_path, &json, intent.as_bytes()).await?;
    hs.delete_devices(&who.user_id, body.devices.iter().map(|device| &**device)).await?;
    proven.finish(&hs).await?;
    Ok(delete_devices::v3::Response::new())
}
