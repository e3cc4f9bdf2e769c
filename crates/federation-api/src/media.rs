//! Files of this server, for others.

use std::time::Duration;

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, StatusCode, header};
use ruma::{
    api::federation::authenticated_media::{get_content::v1 as download, get_content_thumbnail::v1 as thumbnail},
    media::Method,
};
use samtal_media::{ByteStream, Entry, MediaError, Thumbnail, Wanted, disposition::content_disposition};
use samtal_ops::{
    Homeserver,
    media::{Effort, FileError},
};

use crate::{
    ApiError,
    args::Args,
    routes::{Answer, Reply, Routes},
};

/// What a file without a media type is.
const UNKNOWN_TYPE: &str = "application/octet-stream";

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.route::<download::Request, _, _, _>(get_file).route::<thumbnail::Request, _, _, _>(get_thumbnail)
}

/// An object of no fields, then a file: `multipart/mixed`, streamed.
struct Parts {
    boundary: String,
    content_type: String,
    disposition: String,
    bytes: u64,
    body: ByteStream,
}

impl Reply for Parts {
    fn into_http(self) -> Response {
        let Self { boundary, content_type, disposition, bytes, body } = self;
        let head = format!(
            "--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\nContent-Type: {content_type}\r\nContent-Disposition: {disposition}\r\n\r\n"
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let length = head.len() as u64 + bytes + tail.len() as u64;
        let around = |text: String| stream::iter([Ok::<_, std::io::Error>(Bytes::from(text))]);
        let mut response = Response::new(Body::from_stream(around(head).chain(body).chain(around(tail))));
        let content_type = format!("multipart/mixed; boundary={boundary}");
        if let Ok(content_type) = HeaderValue::from_str(&content_type) {
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        }
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        response
    }
}

/// `GET /_matrix/federation/v1/media/download/{mediaId}`
async fn get_file(args: Args<download::Request>) -> Answer<Parts> {
    let entry = own(&args.hs, &args.request.media_id, args.request.timeout_ms).await?;
    whole(&args.hs, &entry).await
}

/// `GET /_matrix/federation/v1/media/thumbnail/{mediaId}`
async fn get_thumbnail(args: Args<thumbnail::Request>) -> Answer<Parts> {
    let (hs, request) = (&args.hs, &args.request);
    let side = |pixels: ruma::UInt| u32::try_from(u64::from(pixels)).unwrap_or(u32::MAX);
    let (width, height) = (side(request.width), side(request.height));
    if width == 0 || height == 0 {
        return Err(ApiError::invalid_param("width and height must be positive"));
    }
    let method = match request.method {
        Some(Method::Crop) => samtal_media::Method::Crop,
        _ => samtal_media::Method::Scale,
    };
    let entry = own(hs, &request.media_id, request.timeout_ms).await?;
    match hs
        .media
        .thumbnail(&entry, Wanted { width, height, method, animated: request.animated.unwrap_or(false) })
        .await
        .map_err(told)?
    {
        Thumbnail::Original => whole(hs, &entry).await,
        Thumbnail::Smaller { content_type, bytes, body } => {
            let disposition = content_disposition(Some(&content_type), None);
            Ok(Parts { boundary: hs.random.alphanumeric(32), content_type, disposition, bytes, body })
        }
    }
}

async fn own(hs: &Homeserver, media_id: &str, wait: Duration) -> Result<Entry, ApiError> {
    match hs.file(&hs.name, media_id, Effort { wait, remote: false }).await {
        Ok(entry) => Ok(entry),
        Err(FileError::Media(error)) => Err(told(error)),
        Err(other) => Err(ApiError::internal(other)),
    }
}

async fn whole(hs: &Homeserver, entry: &Entry) -> Answer<Parts> {
    let text = entry.content_type.as_deref().unwrap_or(UNKNOWN_TYPE);
    // It becomes a line of its own: nothing in it may end that line.
    let content_type = HeaderValue::from_str(text).ok().and_then(|value| value.to_str().map(ToOwned::to_owned).ok());
    let disposition = content_disposition(Some(text), entry.file_name.as_deref());
    let body = hs.media.read(entry, None).await.map_err(told)?;
    Ok(Parts {
        boundary: hs.random.alphanumeric(32),
        content_type: content_type.unwrap_or_else(|| UNKNOWN_TYPE.to_owned()),
        disposition,
        bytes: entry.bytes,
        body,
    })
}

fn told(error: MediaError) -> ApiError {
    match error {
        MediaError::NotFound => ApiError::not_found("There is no such file"),
        MediaError::NotYetUploaded => {
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, "M_NOT_YET_UPLOADED", "The file has not been uploaded yet")
        }
        MediaError::NoPicture(why) => {
            ApiError::new(StatusCode::BAD_REQUEST, "M_UNKNOWN", format!("There is no thumbnail of this file: {why}"))
        }
        MediaError::PictureTooLarge => ApiError::too_large("The picture is too large to be made smaller"),
        other => ApiError::internal(other),
    }
}
