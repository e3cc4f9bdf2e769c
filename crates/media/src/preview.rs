//! Previews of pages that users link to.
//!
//! The server goes where a user points, so it goes nowhere that the address policy denies: names are resolved first, each
//! address is judged, and that very address is connected to, for the page, for its oEmbed document, for its picture and for
//! each redirect.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{Uri, header};
use samtal_db::Batch;
use samtal_http::{Client, ClientError, FetchLimits};
use samtal_kit::{Cache, Memory};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use url::Url;

use crate::{About, Media, MediaError, engine::Inner, oembed, page, picture};

/// Longest page.
const PAGE_BYTES_MAX: u64 = 4 << 20;
/// Longest picture.
const PICTURE_BYTES_MAX: u64 = 8 << 20;
/// Longest oEmbed document.
const OEMBED_BYTES_MAX: u64 = 128 << 10;
/// Longest address.
const URL_BYTES_MAX: usize = 4_096;
/// For the page, and again for its picture.
const TIME: Duration = Duration::from_secs(15);
const REDIRECTS_MAX: usize = 5;
/// Pages fetched at the same time.
const AT_ONCE: usize = 4;
/// How long a preview is remembered, if there is room for it.
const KNOWN_MS: u64 = 3_600_000;

/// What a property of a preview takes in memory beside its texts.
const PROPERTY_BYTES: usize = 96;

/// A preview, and when it was made.
type Known = (u64, Arc<Map<String, Value>>);

/// Fetches pages.
pub(crate) struct Previews {
    client: Client,
    turns: Semaphore,
    known: Cache<String, Known>,
}

impl std::fmt::Debug for Previews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Previews")
    }
}

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// The operator has not allowed them.
    #[error("there are no previews here")]
    Off,
    /// It is no address of a page.
    #[error("{0}")]
    Url(&'static str),
    /// The address lies where the server does not go.
    #[error("the address lies in a network that is not connected to")]
    Denied,
    /// The page could not be fetched.
    #[error("the page could not be fetched: {0}")]
    Fetch(String),
    /// Its picture could not be kept.
    #[error(transparent)]
    Media(#[from] MediaError),
}

impl From<ClientError> for PreviewError {
    fn from(error: ClientError) -> Self {
        if error.is_denied() { Self::Denied } else { Self::Fetch(error.to_string()) }
    }
}

impl Previews {
    pub(crate) fn new(client: Client, memory: &Memory) -> Self {
        Self { client, turns: Semaphore::new(AT_ONCE), known: Cache::new(memory) }
    }

    async fn get(&self, url: &Url, bytes_max: u64) -> Result<(http::Response<Bytes>, Url), PreviewError> {
        let uri: Uri = url.as_str().parse().map_err(|_| PreviewError::Url("not an address of a page"))?;
        let limits = FetchLimits { time: TIME, bytes_max };
        let (answer, at) = self.client.get_following(uri, limits, REDIRECTS_MAX).await?;
        if !answer.status().is_success() {
            return Err(PreviewError::Fetch(format!("status {}", answer.status())));
        }
        Ok((answer, Url::parse(&at.to_string()).unwrap_or_else(|_| url.clone())))
    }

    /// Adds what the page's oEmbed document says and the page itself does not. A page without it has a preview too.
    async fn add_oembed(&self, preview: &mut Map<String, Value>, page: &Url, address: &str) {
        let says_all = ["og:title", "og:description", "og:image"].iter().all(|name| preview.contains_key(*name));
        let Some(url) = page.join(address).ok().and_then(|url| checked(url.as_str()).ok()) else { return };
        if says_all {
            return;
        }
        let Ok((answer, at)) = self.get(&url, OEMBED_BYTES_MAX).await else { return };
        for (name, value) in oembed::properties(answer.body()) {
            let value = match name.as_str() {
                "og:image" => at.join(&value).map(String::from).unwrap_or(value),
                _ => value,
            };
            preview.entry(name).or_insert_with(|| value.into());
        }
    }
}

impl Media {
    /// The preview of a page: its OpenGraph properties. A picture in it becomes a file of this server.
    pub async fn preview(&self, url: &str) -> Result<Arc<Map<String, Value>>, PreviewError> {
        let previews = self.inner().previews.as_ref().ok_or(PreviewError::Off)?;
        let url = checked(url)?;
        let now_ms = self.inner().clock.now_ms();
        if let Some((since_ms, preview)) = previews.known.get(url.as_str())
            && now_ms.saturating_sub(since_ms) < KNOWN_MS
        {
            return Ok(preview);
        }
        // Never closed.
        let _turn = previews.turns.acquire().await;
        let preview = Arc::new(self.fetch_preview(previews, &url).await?);
        let bytes = url.as_str().len() + bytes_of(&preview);
        previews.known.put(url.into(), (now_ms, Arc::clone(&preview)), bytes);
        Ok(preview)
    }

    async fn fetch_preview(&self, previews: &Previews, url: &Url) -> Result<Map<String, Value>, PreviewError> {
        let (answer, at) = previews.get(url, PAGE_BYTES_MAX).await?;
        let content_type = content_type(&answer);
        let mut preview = Map::new();
        if content_type.starts_with("image/") {
            self.add_picture(&mut preview, &content_type, answer.into_body()).await?;
            return Ok(preview);
        }
        if !matches!(content_type.as_str(), "text/html" | "application/xhtml+xml") {
            return Ok(preview);
        }
        let sent_as = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let (sent_as, body) = (sent_as.unwrap_or_default().to_owned(), answer.into_body());
        let found = tokio::task::spawn_blocking(move || page::read(&page::text(&sent_as, &body)))
            .await
            .map_err(|error| PreviewError::Fetch(error.to_string()))?;
        preview.extend(found.properties.into_iter().map(|(name, value)| (name, Value::from(value))));
        if let Some(oembed) = found.oembed {
            previews.add_oembed(&mut preview, &at, &oembed).await;
        }
        // What the page says of its picture's size is the page's word; ours is looked at.
        for name in ["og:image:width", "og:image:height", "og:image:type"] {
            preview.remove(name);
        }
        let picture = preview.remove("og:image").and_then(|picture| at.join(picture.as_str()?).ok());
        if let Some(picture) = picture.filter(|picture| checked(picture.as_str()).is_ok()) {
            // A page without its picture is a preview too.
            if let Ok((answer, _)) = previews.get(&picture, PICTURE_BYTES_MAX).await {
                let content_type = self::content_type(&answer);
                if content_type.starts_with("image/") {
                    self.add_picture(&mut preview, &content_type, answer.into_body()).await?;
                }
            }
        }
        Ok(preview)
    }

    async fn add_picture(
        &self,
        preview: &mut Map<String, Value>,
        content_type: &str,
        body: Bytes,
    ) -> Result<(), MediaError> {
        let bytes = body.len();
        let size = picture::size(&body);
        let about = About { content_type: Some(content_type), file_name: None };
        let media_id = self.store_generated(about, stream::iter([Ok::<_, std::io::Error>(body)])).await?;
        preview.insert("og:image".to_owned(), format!("mxc://{}/{media_id}", self.inner().name).into());
        preview.insert("og:image:type".to_owned(), content_type.into());
        preview.insert("matrix:image:size".to_owned(), bytes.into());
        if let Some((width, height)) = size {
            preview.insert("og:image:width".to_owned(), width.into());
            preview.insert("og:image:height".to_owned(), height.into());
        }
        Ok(())
    }

    /// Keeps a file that nobody uploaded.
    async fn store_generated<S>(&self, about: About<'_>, body: S) -> Result<String, MediaError>
    where
        S: futures_util::Stream<Item = Result<Bytes, std::io::Error>> + Unpin,
    {
        let inner: &Inner = self.inner();
        let media_id = inner.random.alphanumeric(24);
        let (path, written) = self.write_new(body, PICTURE_BYTES_MAX).await?;
        let mut batch = Batch::new();
        crate::upload::insert_ownerless(&mut batch, inner, &inner.name, &media_id, &written, about);
        if let Err(error) = self.keep(&path, &written, batch).await {
            self.discard(&path).await;
            return Err(error);
        }
        Ok(media_id)
    }
}

/// About how much a preview takes in memory.
fn bytes_of(preview: &Map<String, Value>) -> usize {
    preview.iter().map(|(name, value)| PROPERTY_BYTES + name.len() + value.as_str().map_or(0, str::len)).sum()
}

/// An address on the web, without a log-in in it.
fn checked(text: &str) -> Result<Url, PreviewError> {
    if text.len() > URL_BYTES_MAX {
        return Err(PreviewError::Url("the address is too long"));
    }
    let mut url = Url::parse(text).map_err(|_| PreviewError::Url("not an address of a page"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(PreviewError::Url("only pages on the web have previews"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(PreviewError::Url("an address with a log-in in it has no preview"));
    }
    url.set_fragment(None);
    Ok(url)
}

fn content_type<B>(answer: &http::Response<B>) -> String {
    let value = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::checked;

    #[test]
    fn note_73_only_addresses_on_the_web_are_fetched() {
        for good in ["https://a.example/x?y#z", "http://a.example:8080", "https://[2001:db8::1]/"] {
            assert!(checked(good).is_ok(), "{good}");
        }
        for bad in [
            "file:///etc/passwd",
            "ftp://a/",
            "https://u:p@a/",
            "https://u@a/",
            "a.example",
            "",
            "gopher://a",
            "https://",
        ] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }
}
