//! Files: uploading, downloading, smaller pictures.

use std::{ops::Range, time::Duration};

use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use ruma::{
    OwnedServerName,
    api::auth_scheme::{AccessToken, NoAuthentication},
};
use samtal_media::{
    About, ByteStream, Entry, MediaError, Target, Thumbnail, Wanted,
    disposition::{CONTENT_SECURITY_POLICY, content_disposition},
    preview::PreviewError,
};
use samtal_ops::{
    Homeserver,
    media::{Effort, FileError},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Answer, ApiError, Json, Raw, RawArgs, Routes};

/// How long a download waits for its upload when the client does not say.
const WAIT_MS: u64 = 20_000;
/// Longest media type and file name that are kept, in bytes.
const NAME_BYTES_MAX: usize = 1_024;
/// What a file without a media type is.
const UNKNOWN_TYPE: &str = "application/octet-stream";

pub(crate) fn routes() -> Routes {
    Routes::new()
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &[
                "/_matrix/client/v1/media/config",
                "/_matrix/media/v3/config",
                "/_matrix/media/r0/config",
                "/_matrix/media/v1/config",
            ],
            config,
        )
        .raw::<AccessToken, _, _, _>(
            Method::POST,
            &["/_matrix/media/v3/upload", "/_matrix/media/r0/upload", "/_matrix/media/v1/upload"],
            upload,
        )
        .raw::<AccessToken, _, _, _>(Method::POST, &["/_matrix/media/v1/create"], create)
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &[
                "/_matrix/client/v1/media/preview_url",
                "/_matrix/media/v3/preview_url",
                "/_matrix/media/r0/preview_url",
                "/_matrix/media/v1/preview_url",
            ],
            preview,
        )
        .raw::<AccessToken, _, _, _>(
            Method::PUT,
            &["/_matrix/media/v3/upload/{server_name}/{media_id}"],
            upload_reserved,
        )
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &[
                "/_matrix/client/v1/media/download/{server_name}/{media_id}",
                "/_matrix/client/v1/media/download/{server_name}/{media_id}/{file_name}",
            ],
            download,
        )
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/v1/media/thumbnail/{server_name}/{media_id}"],
            thumbnail,
        )
        .raw::<NoAuthentication, _, _, _>(
            Method::GET,
            &[
                "/_matrix/media/v3/download/{server_name}/{media_id}",
                "/_matrix/media/v3/download/{server_name}/{media_id}/{file_name}",
                "/_matrix/media/r0/download/{server_name}/{media_id}",
                "/_matrix/media/r0/download/{server_name}/{media_id}/{file_name}",
                "/_matrix/media/v1/download/{server_name}/{media_id}",
                "/_matrix/media/v1/download/{server_name}/{media_id}/{file_name}",
            ],
            legacy_download,
        )
        .raw::<NoAuthentication, _, _, _>(
            Method::GET,
            &[
                "/_matrix/media/v3/thumbnail/{server_name}/{media_id}",
                "/_matrix/media/r0/thumbnail/{server_name}/{media_id}",
                "/_matrix/media/v1/thumbnail/{server_name}/{media_id}",
            ],
            legacy_thumbnail,
        )
}

/// `GET /media/config`
async fn config(args: RawArgs) -> Answer<Json<Value>> {
    Ok(Json(json!({ "m.upload.size": args.hs.media.options().upload_bytes_max })))
}

/// `POST /media/v1/create`
async fn create(args: RawArgs) -> Answer<Json<Value>> {
    let reserved = args.hs.media.reserve(&args.who.user_id).await?;
    Ok(Json(json!({
        "content_uri": format!("mxc://{}/{}", args.hs.name, reserved.media_id),
        "unused_expires_at": reserved.expires_ms,
    })))
}

/// `POST /media/v3/upload`
async fn upload(args: RawArgs) -> Answer<Json<Value>> {
    let media_id = receive(&args, Target::New).await?;
    Ok(Json(json!({ "content_uri": format!("mxc://{}/{media_id}", args.hs.name) })))
}

/// `PUT /media/v3/upload/{serverName}/{mediaId}`
async fn upload_reserved(args: RawArgs) -> Answer<Json<Value>> {
    let server: OwnedServerName = args.path(0)?;
    if !args.hs.media.is_own(&server) {
        return Err(ApiError::not_found("The id is of another server"));
    }
    let media_id: String = args.path(1)?;
    receive(&args, Target::Reserved(&media_id)).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct UploadQuery {
    filename: Option<String>,
}

async fn receive(args: &RawArgs, target: Target<'_>) -> Result<String, ApiError> {
    let query: UploadQuery = args.query()?;
    let text = |name| args.parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let content_type = text(header::CONTENT_TYPE).filter(|text| !text.is_empty()).unwrap_or(UNKNOWN_TYPE);
    let file_name = query.filename.as_deref().filter(|name| !name.is_empty());
    if content_type.len() > NAME_BYTES_MAX || file_name.is_some_and(|name| name.len() > NAME_BYTES_MAX) {
        return Err(ApiError::invalid_param("The media type or the file name is too long"));
    }
    let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let about = About { content_type: Some(content_type), file_name };
    let body = args.take_body().into_data_stream();
    Ok(args.hs.media.upload(&args.who.user_id, target, about, length, body).await?)
}

#[derive(Deserialize)]
struct DownloadQuery {
    timeout_ms: Option<u64>,
    #[serde(default = "yes")]
    allow_remote: bool,
}

fn yes() -> bool {
    true
}

impl DownloadQuery {
    fn effort(&self) -> Effort {
        Effort { wait: Duration::from_millis(self.timeout_ms.unwrap_or(WAIT_MS)), remote: self.allow_remote }
    }
}

/// What both the authenticated and the old endpoints need.
struct Asked<'a> {
    hs: &'a Homeserver,
    path: &'a [String],
    headers: &'a HeaderMap,
}

impl<'a> Asked<'a> {
    fn of<A: crate::Scheme>(args: &'a RawArgs<A>) -> Self {
        Self { hs: &args.hs, path: &args.path, headers: &args.parts.headers }
    }

    async fn entry(&self, effort: Effort) -> Result<Entry, ApiError> {
        let [server, media_id, ..] = self.path else { return Err(no_file()) };
        let server = OwnedServerName::try_from(server.as_str())
            .map_err(|_| ApiError::invalid_param("This is not a server name"))?;
        Ok(self.hs.file(&server, media_id, effort).await?)
    }

    /// The file itself, or the part of it that is asked for.
    async fn whole(&self, entry: &Entry) -> Answer<Raw> {
        let name = self.path.get(2).map(String::as_str).or(entry.file_name.as_deref());
        let content_type = entry.content_type.as_deref().unwrap_or(UNKNOWN_TYPE);
        let etag = etag(entry);
        let known = self.headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok());
        if known.is_some_and(|known| is_among(&etag, known)) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(Raw(response));
        }
        let asked = self.headers.get(header::RANGE).and_then(|range| range.to_str().ok());
        if asked.is_some_and(|asked| begins_after(asked, entry.bytes)) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            set(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{}", entry.bytes));
            return Ok(Raw(response));
        }
        let range = asked.and_then(|asked| part(asked, entry.bytes));
        let body = self.hs.media.read(entry, range.clone()).await?;
        let bytes = range.as_ref().map_or(entry.bytes, |range| range.end - range.start);
        let mut response = given(content_type, name, bytes, body);
        let headers = response.headers_mut();
        set(headers, header::ETAG, &etag);
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(range) = range {
            set(headers, header::CONTENT_RANGE, &format!("bytes {}-{}/{}", range.start, range.end - 1, entry.bytes));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Ok(Raw(response))
    }

    async fn smaller(&self, query: &ThumbnailQuery) -> Answer<Raw> {
        if query.width == 0 || query.height == 0 {
            return Err(ApiError::invalid_param("width and height must be positive"));
        }
        let method = match query.method.as_deref() {
            None | Some("scale") => samtal_media::Method::Scale,
            Some("crop") => samtal_media::Method::Crop,
            Some(_) => return Err(ApiError::invalid_param("method must be scale or crop")),
        };
        let wait = query.timeout_ms.unwrap_or(WAIT_MS);
        let entry = self.entry(Effort { wait: Duration::from_millis(wait), remote: query.allow_remote }).await?;
        let animated = query.animated.unwrap_or(false);
        let wanted = Wanted { width: query.width, height: query.height, method, animated };
        match self.hs.media.thumbnail(&entry, wanted).await? {
            Thumbnail::Original => self.whole(&entry).await,
            Thumbnail::Smaller { content_type, bytes, body } => {
                let name = match content_type.as_str() {
                    "image/jpeg" => "thumbnail.jpg",
                    "image/gif" => "thumbnail.gif",
                    _ => "thumbnail.png",
                };
                Ok(Raw(given(&content_type, Some(name), bytes, body)))
            }
        }
    }
}

#[derive(Deserialize)]
struct ThumbnailQuery {
    width: u32,
    height: u32,
    method: Option<String>,
    animated: Option<bool>,
    timeout_ms: Option<u64>,
    #[serde(default = "yes")]
    allow_remote: bool,
}

/// `GET /media/download/{serverName}/{mediaId}`, with a file name or without
async fn download(args: RawArgs) -> Answer<Raw> {
    let query: DownloadQuery = args.query()?;
    let asked = Asked::of(&args);
    asked.whole(&asked.entry(query.effort()).await?).await
}

/// `GET /media/thumbnail/{serverName}/{mediaId}`
async fn thumbnail(args: RawArgs) -> Answer<Raw> {
    let query: ThumbnailQuery = args.query()?;
    Asked::of(&args).smaller(&query).await
}

#[derive(Deserialize)]
struct PreviewQuery {
    url: String,
}

/// `GET /media/preview_url`
async fn preview(args: RawArgs) -> Answer<Json<Value>> {
    let query: PreviewQuery = args.query()?;
    let preview = args.hs.media.preview(&query.url).await?;
    Ok(Json(Value::Object((*preview).clone())))
}

/// The same without authentication, where the operator still allows it.
async fn legacy_download(args: RawArgs<NoAuthentication>) -> Answer<Raw> {
    check_legacy(&args.hs)?;
    let query: DownloadQuery = args.query()?;
    let asked = Asked::of(&args);
    asked.whole(&asked.entry(query.effort()).await?).await
}

async fn legacy_thumbnail(args: RawArgs<NoAuthentication>) -> Answer<Raw> {
    check_legacy(&args.hs)?;
    let query: ThumbnailQuery = args.query()?;
    Asked::of(&args).smaller(&query).await
}

fn check_legacy(hs: &Homeserver) -> Result<(), ApiError> {
    if hs.media.options().legacy_downloads { Ok(()) } else { Err(no_file()) }
}

fn no_file() -> ApiError {
    ApiError::not_found("There is no such file")
}

/// Contents never change under their hash.
fn etag(entry: &Entry) -> String {
    use std::fmt::Write as _;
    let mut etag = String::from("\"");
    for byte in entry.sha256.iter().take(16) {
        // Writing to a string cannot fail.
        let _ = write!(etag, "{byte:02x}");
    }
    etag.push('"');
    etag
}

/// The one range of a `Range` header; nothing for what we do not serve in parts.
fn part(header: &str, bytes: u64) -> Option<Range<u64>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.trim(), last.trim()) {
        ("", last) => bytes.saturating_sub(last.parse().ok()?)..bytes,
        (first, "") => first.parse().ok()?..bytes,
        (first, last) => first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?.min(bytes),
    };
    (range.start < range.end && range.end <= bytes).then_some(range)
}

/// Whether one range is asked for that begins where the file has ended: whoever resumes a download has all of it.
fn begins_after(header: &str, bytes: u64) -> bool {
    let range = header.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    let Some((first, last)) = range else { return false };
    let Ok(first) = first.trim().parse::<u64>() else { return false };
    first >= bytes && (last.trim().is_empty() || last.trim().parse::<u64>().is_ok_and(|last| last >= first))
}

/// Whether a list of entity tags names this one. Proxies that compress make weak ones of them (`W/"…"`).
fn is_among(etag: &str, known: &str) -> bool {
    known.split(',').map(str::trim).any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == etag)
}

/// An answer with a file, under headers that keep it from acting in our name.
fn given(content_type: &str, name: Option<&str>, bytes: u64, body: ByteStream) -> Response {
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    set(headers, header::CONTENT_TYPE, content_type);
    set(headers, header::CONTENT_DISPOSITION, &content_disposition(Some(content_type), name));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("cross-origin"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=86400, immutable"));
    response
}

/// Sets a header whose value came from outside; what cannot be one becomes the unknown type.
fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    headers.insert(name, HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static(UNKNOWN_TYPE)));
}

impl From<MediaError> for ApiError {
    fn from(error: MediaError) -> Self {
        match error {
            MediaError::NotFound => no_file(),
            MediaError::NotYetUploaded => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "M_NOT_YET_UPLOADED", "The file has not been uploaded yet")
            }
            MediaError::TooLarge { bytes_max } => Self::too_large(format!("A file may have {bytes_max} bytes")),
            MediaError::QuotaExceeded { bytes_max } => {
                Self::forbidden(format!("You may upload {bytes_max} more bytes"))
            }
            MediaError::ServerFull { .. } => {
                Self::new(StatusCode::FORBIDDEN, "M_RESOURCE_LIMIT_EXCEEDED", "The server keeps no more files")
            }
            // As the Matrix content scanner says it.
            MediaError::NotClean(what) => {
                tracing::warn!(%what, "a file was refused");
                Self::new(StatusCode::FORBIDDEN, "MCS_MEDIA_NOT_CLEAN", "The file is not clean")
            }
            MediaError::NotScanned(_) => {
                Self::new(StatusCode::BAD_GATEWAY, "MCS_MEDIA_REQUEST_FAILED", "The file could not be scanned")
            }
            MediaError::Location(why) => Self::internal(why),
            MediaError::TooManyReservations => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED", "Too many uploads are under way")
            }
            MediaError::CannotOverwrite => {
                Self::new(StatusCode::CONFLICT, "M_CANNOT_OVERWRITE_MEDIA", "The id has its file already")
            }
            MediaError::NotYours => Self::forbidden("The id was reserved by somebody else"),
            MediaError::NoPicture(why) => Self::bad_request(format!("There is no thumbnail of this file: {why}")),
            MediaError::PictureTooLarge => Self::too_large("The picture is too large to be made smaller"),
            MediaError::Broken(_) => Self::bad_request("The upload broke off"),
            MediaError::Certificates(error) => Self::internal(error),
            MediaError::Store(error) => Self::internal(error),
            MediaError::Files(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "M_UNKNOWN", "The server's disk is full")
            }
            MediaError::Files(error) => Self::internal(error),
            MediaError::Database(error) => error.into(),
        }
    }
}

impl From<PreviewError> for ApiError {
    fn from(error: PreviewError) -> Self {
        match error {
            PreviewError::Off => Self::unrecognized("This server makes no previews"),
            PreviewError::Url(why) => Self::invalid_param(why),
            PreviewError::Denied => Self::forbidden("This server does not go to that address"),
            PreviewError::Fetch(why) => {
                tracing::info!(%why, "a page could not be fetched");
                Self::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", "The page could not be fetched")
            }
            PreviewError::Media(error) => error.into(),
        }
    }
}

impl From<FileError> for ApiError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Media(error) => error.into(),
            FileError::Failed(why) => Self::internal(why),
            FileError::RemoteTooLarge => {
                Self::new(StatusCode::BAD_GATEWAY, "M_TOO_LARGE", "The file is longer than this server fetches")
            }
            FileError::Remote(why) => {
                tracing::info!(%why, "a file could not be fetched");
                Self::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", "The file's server did not give it")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::part;

    #[test]
    fn one_range_is_served_and_anything_else_is_the_whole() {
        for (header, range) in [
            ("bytes=0-3", Some(0..4)),
            ("bytes=2-", Some(2..10)),
            ("bytes=-3", Some(7..10)),
            ("bytes=5-99", Some(5..10)),
            ("bytes=10-", None),
            ("bytes=4-2", None),
            ("bytes=0-1,3-4", None),
            ("bytes=a-b", None),
            ("lines=0-1", None),
            ("bytes=-0", None),
            ("bytes=0-18446744073709551615", None),
        ] {
            assert_eq!(part(header, 10), range, "{header}");
        }
    }
}
