//! Stores that speak HTTP: S3 and what is like it, Azure's blobs, Google's. All of it goes through our own HTTP client,
//! under its address policy and with the certificates that it trusts.

use std::{path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt;
use object_store::{
    ObjectStore, aws,
    azure::MicrosoftAzureBuilder,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    },
    gcp::GoogleCloudStorageBuilder,
    path::Path,
    prefix::PrefixStore,
};
use samtal_http::{Client, ClientError, ClientOptions};
use samtal_kit::Secret;
use url::Url;

use crate::MediaError;

/// Until the first byte of an answer.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// A store that speaks HTTP.
#[derive(Clone, Debug)]
pub struct Cloud {
    /// Which, and where in it: `s3://bucket/below`, `az://container/below` or `gs://bucket/below`.
    pub url: String,
    /// Where it is spoken to, if not where its maker does: for others who offer the same.
    pub endpoint: Option<String>,
    /// The region of an S3 bucket.
    pub region: Option<String>,
    /// S3: the access key's id. Azure: the account.
    pub key_id: Option<String>,
    /// S3: the secret access key. Azure: the account's key. Google: a service account's key, as JSON.
    pub key: Option<Secret<String>>,
    /// How it is connected to.
    pub http: ClientOptions,
    /// Where copies of what is read are kept, and how many bytes of them; without it everything is read from afar.
    pub copies: Option<(PathBuf, u64)>,
}

impl Cloud {
    pub(crate) fn open(&self) -> Result<Arc<dyn ObjectStore>, MediaError> {
        let wrong = |what: &'static str| MediaError::Location(what);
        let url = Url::parse(&self.url).map_err(|_| wrong("the store is no address"))?;
        let bucket = url.host_str().filter(|host| !host.is_empty()).ok_or(wrong("the store names no bucket"))?;
        let connector = Connector(Client::new(&self.http)?);
        let plain = self.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let key = self.key.as_ref().map(|key| key.expose().to_owned());
        let store: Arc<dyn ObjectStore> = match url.scheme() {
            "s3" => {
                let mut builder = aws::AmazonS3Builder::new()
                    .with_bucket_name(bucket)
                    .with_region(self.region.as_deref().unwrap_or("us-east-1"))
                    // Not all who speak S3 know how to delete many at once.
                    .with_disable_bulk_delete(true)
                    .with_allow_http(plain)
                    .with_http_connector(connector);
                if let (Some(id), Some(key)) = (&self.key_id, key) {
                    builder = builder.with_access_key_id(id).with_secret_access_key(key);
                }
                if let Some(endpoint) = &self.endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                Arc::new(builder.build()?)
            }
            "az" => {
                let account = self.key_id.as_deref().ok_or(wrong("the store's account is missing"))?;
                let mut builder = MicrosoftAzureBuilder::new()
                    .with_account(account)
                    .with_container_name(bucket)
                    .with_allow_http(plain)
                    .with_http_connector(connector);
                if let Some(key) = key {
                    builder = builder.with_access_key(key);
                }
                if let Some(endpoint) = &self.endpoint {
                    builder = builder.with_endpoint(endpoint.clone());
                }
                Arc::new(builder.build()?)
            }
            "gs" => {
                let mut builder =
                    GoogleCloudStorageBuilder::new().with_bucket_name(bucket).with_http_connector(connector);
                if let Some(key) = key {
                    builder = builder.with_service_account_key(key);
                }
                Arc::new(builder.build()?)
            }
            _ => return Err(wrong("the store is none of s3, az, gs and file")),
        };
        let below = url.path().trim_matches('/');
        Ok(if below.is_empty() { store } else { Arc::new(PrefixStore::new(store, Path::from(below))) })
    }
}

/// Our client, as the store's library wants one.
#[derive(Clone, Debug)]
struct Connector(Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &object_store::ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

type Called<'a> = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'a>>;

impl HttpService for Connector {
    fn call<'life0, 'async_trait>(&'life0 self, request: HttpRequest) -> Called<'async_trait>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body: Bytes = body.collect().await?.to_bytes();
            let request = http::Request::from_parts(parts, body);
            let response = self.0.open(request, ANSWER_TIME).await.map_err(told)?;
            Ok(response.map(|body| {
                HttpResponseBody::new(body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error)))
            }))
        })
    }
}

fn told(error: ClientError) -> HttpError {
    let kind = match &error {
        ClientError::Connect(_) => HttpErrorKind::Connect,
        ClientError::TimedOut(_) => HttpErrorKind::Timeout,
        ClientError::Broken(_) | ClientError::Body(_) => HttpErrorKind::Interrupted,
        ClientError::Redirect => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error)
}
