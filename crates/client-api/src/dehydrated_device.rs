//! Dehydrated devices (MSC3814).

use http::Method;
use ruma::{DeviceId, api::auth_scheme::AccessToken};
use samtal_e2ee::dehydrated::Dehydrated;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{Answer, ApiError, Json, RawArgs, Routes, keys::Upload};

const DEVICE: &[&str] = &["/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"];
const EVENTS: &[&str] = &["/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{device_id}/events"];
/// Messages in one answer.
const EVENTS_MAX: i64 = 100;

pub(crate) fn routes() -> Routes {
    Routes::new()
        .raw::<AccessToken, _, _, _>(Method::PUT, DEVICE, put)
        .raw::<AccessToken, _, _, _>(Method::GET, DEVICE, get)
        .raw::<AccessToken, _, _, _>(Method::DELETE, DEVICE, delete)
        .raw::<AccessToken, _, _, _>(Method::POST, EVENTS, events)
}

#[derive(Deserialize)]
struct Device {
    device_id: String,
    device_data: Box<RawValue>,
    initial_device_display_name: Option<String>,
}

/// `PUT /dehydrated_device`
async fn put(args: RawArgs) -> Answer<Json<Value>> {
    let bytes = args.json_bytes().await?;
    let bad = |error: serde_json::Error| crate::args::json_error(&error);
    let body: Device = serde_json::from_slice(&bytes).map_err(bad)?;
    let upload: Upload = serde_json::from_slice(&bytes).map_err(bad)?;
    if body.device_id.is_empty() || body.device_id.len() > 255 || !body.device_data.get().starts_with('{') {
        return Err(ApiError::invalid_param("device_id or device_data has a wrong form"));
    }
    let upload = samtal_e2ee::one_time_key::KeyUpload::from(upload);
    if upload.device_keys.is_none() {
        return Err(ApiError::missing_param("device_keys is missing"));
    }
    let user = &args.who.user_id;
    let id = <&DeviceId>::from(body.device_id.as_str());
    if args.hs.accounts.device(user, id).await?.is_some() {
        return Err(ApiError::invalid_param("This is the id of a device that is logged in"));
    }
    let device = Dehydrated {
        device_id: body.device_id,
        display_name: body.initial_device_display_name,
        device_data: body.device_data,
    };
    args.hs.e2ee.dehydrate(user, &device, &upload).await?;
    Ok(Json(json!({ "device_id": device.device_id })))
}

/// `GET /dehydrated_device`
async fn get(args: RawArgs) -> Answer<Json<Value>> {
    let device = args.hs.e2ee.dehydrated(&args.who.user_id).await?.ok_or_else(none)?;
    Ok(Json(json!({ "device_id": device.device_id, "device_data": device.device_data })))
}

/// `DELETE /dehydrated_device`
async fn delete(args: RawArgs) -> Answer<Json<Value>> {
    let device_id = args.hs.e2ee.dehydrated_delete(&args.who.user_id).await?.ok_or_else(none)?;
    Ok(Json(json!({ "device_id": device_id })))
}

#[derive(Deserialize)]
struct After {
    next_batch: Option<String>,
}

/// `POST /dehydrated_device/{device_id}/events`: they stay until the device is deleted.
async fn events(args: RawArgs) -> Answer<Json<Value>> {
    let body: After = args.json().await?;
    let after: i64 = match body.next_batch.as_deref() {
        None => 0,
        Some(text) => {
            text.parse().map_err(|_| ApiError::invalid_param("next_batch is not a token of this endpoint"))?
        }
    };
    let (user, e2ee) = (&args.who.user_id, &args.hs.e2ee);
    let device = e2ee.dehydrated(user).await?.ok_or_else(none)?;
    if args.path.first() != Some(&device.device_id) {
        return Err(ApiError::forbidden("This is not the id of the dehydrated device"));
    }
    let id = <&DeviceId>::from(device.device_id.as_str());
    let messages = e2ee.to_device_after(user, id, after, i64::MAX, EVENTS_MAX).await?;
    let next_batch = messages.last().map_or(after, |message| message.position);
    let events: Vec<_> = messages.into_iter().map(|message| message.event).collect();
    Ok(Json(json!({ "events": events, "next_batch": next_batch.to_string() })))
}

fn none() -> ApiError {
    ApiError::not_found("There is no dehydrated device")
}
