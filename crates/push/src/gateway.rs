//! Speaking to push gateways (Push Gateway API).

use std::{future::Future, pin::Pin, time::Duration};

use bytes::Bytes;
use http::{Method, Request, header};
use samtal_http::{Client, ClientError, FetchLimits};
use serde::Deserialize;
use serde_json::Value;

/// Longest that one notification may take.
const TIME: Duration = Duration::from_secs(20);
/// Longest answer of a gateway.
const ANSWER_BYTES_MAX: u64 = 65_536;

/// Why a gateway did not take a notification.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// It cannot be reached.
    #[error("the gateway cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It answered with an error.
    #[error("the gateway answered {0}")]
    Status(u16),
}

/// What a gateway answers: the pushkeys that no longer exist, or why it took nothing.
pub type Notified<'a> = Pin<Box<dyn Future<Output = Result<Vec<String>, GatewayError>> + Send + 'a>>;

/// The way to gateways; in tests another one than the Internet.
pub trait Gateway: Send + Sync {
    /// Hands over one notification.
    fn notify<'a>(&'a self, url: &'a str, body: &'a Value) -> Notified<'a>;
}

/// Gateways on the Internet.
#[derive(Debug)]
pub struct HttpGateway(Client);

impl HttpGateway {
    /// By this client, whose address policy says where no gateway can be.
    pub fn new(client: Client) -> Self {
        Self(client)
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    rejected: Vec<String>,
}

impl Gateway for HttpGateway {
    fn notify<'a>(&'a self, url: &'a str, body: &'a Value) -> Notified<'a> {
        Box::pin(async move {
            let unreachable = |error: http::Error| GatewayError::Unreachable(Box::new(error));
            let request = Request::builder()
                .method(Method::POST)
                .uri(url)
                .header(header::CONTENT_TYPE, "application/json")
                .body(Bytes::from(body.to_string()))
                .map_err(unreachable)?;
            let limits = FetchLimits { time: TIME, bytes_max: ANSWER_BYTES_MAX };
            let answer = self.0.fetch(request, limits).await;
            let answer = answer.map_err(|error: ClientError| GatewayError::Unreachable(Box::new(error)))?;
            if !answer.status().is_success() {
                return Err(GatewayError::Status(answer.status().as_u16()));
            }
            Ok(serde_json::from_slice::<Answer>(answer.body()).map(|answer| answer.rejected).unwrap_or_default())
        })
    }
}
