//! Telling identity servers whose an address is, and that it no longer is (CS API, "Adding Account Administrative Contact
//! Information").

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use ruma::{ServerName, UserId};
use samtal_account::Binding;
use samtal_http::FetchLimits;
use serde_json::{Value, json};

use crate::{Homeserver, OpError};

/// What a request to an identity server may cost.
const LIMITS: FetchLimits = FetchLimits { time: Duration::from_secs(20), bytes_max: 64 * 1024 };
/// How long all of somebody's identity servers may take.
const TOGETHER: Duration = Duration::from_secs(30);
const BIND: &str = "/_matrix/identity/v2/3pid/bind";
const UNBIND: &str = "/_matrix/identity/v2/3pid/unbind";

/// What proves to an identity server that somebody owns an address.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The identity server: a host name, perhaps with a port.
    pub id_server: String,
    /// The user's access token there.
    pub id_access_token: String,
    /// The session in which the address was shown to be the user's.
    pub sid: String,
    /// The client's secret of that session.
    pub client_secret: String,
}

impl Homeserver {
    /// Lets an identity server give an address out as the user's.
    pub async fn bind_address(&self, user: &UserId, proof: &Proof) -> Result<(), OpError> {
        let server = name(&proof.id_server)?;
        let body = json!({ "sid": proof.sid, "client_secret": proof.client_secret, "mxid": user });
        let answer = self.tell(server, BIND, &format!("Bearer {}", proof.id_access_token), body).await?;
        let said = |field: &str| answer.get(field).and_then(Value::as_str).map(ToOwned::to_owned);
        let (Some(medium), Some(address)) = (said("medium"), said("address")) else {
            return Err(OpError::BadRemote("the identity server did not say which address it is".into()));
        };
        let binding = Binding { medium, address, id_server: proof.id_server.clone() };
        Ok(self.accounts.add_binding(user, &binding).await?)
    }

    /// Lets identity servers forget that an address is the user's: the one that is named, or those that were told through
    /// us. Answers whether they did; where nobody was told, nobody did.
    pub async fn unbind_address(
        &self,
        user: &UserId,
        medium: &str,
        address: &str,
        id_server: Option<&str>,
    ) -> Result<bool, OpError> {
        if let Some(id_server) = id_server {
            let (medium, address) = (medium.to_owned(), address.to_owned());
            return self.unbind(user, &Binding { medium, address, id_server: id_server.to_owned() }).await;
        }
        let bindings = self.accounts.bindings(user).await?;
        let mut done = false;
        for binding in bindings.iter().filter(|binding| binding.medium == medium && binding.address == address) {
            done = self.unbind(user, binding).await?;
        }
        Ok(done)
    }

    /// As [`Self::unbind_address`], of all addresses of a user, as far as half a minute suffices. Answers whether nothing
    /// is left.
    pub async fn unbind_everything(&self, user: &UserId) -> Result<bool, OpError> {
        let all = async {
            let mut done = true;
            for binding in self.accounts.bindings(user).await? {
                done &= self.unbind(user, &binding).await?;
            }
            Ok(done)
        };
        tokio::time::timeout(TOGETHER, all).await.unwrap_or(Ok(false))
    }

    async fn unbind(&self, user: &UserId, binding: &Binding) -> Result<bool, OpError> {
        let server = name(&binding.id_server)?;
        let threepid = json!({ "medium": binding.medium, "address": binding.address });
        let body = json!({ "mxid": user, "threepid": threepid });
        // Signed, since the user's token there is not ours to keep.
        let signed = self.keyring.sign_request(server, "POST", UNBIND, &body.to_string());
        let signed = signed.map_err(|error| OpError::BadContent(error.to_string()))?;
        match self.tell(server, UNBIND, &signed.to_string(), body).await {
            Ok(_) => self.accounts.delete_binding(user, binding).await?,
            Err(error) => {
                tracing::info!(%error, "an address stays bound");
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn tell(&self, server: &ServerName, path: &str, authorization: &str, body: Value) -> Result<Value, OpError> {
        let failed = |why: String| OpError::BadRemote(format!("the identity server {server}: {why}"));
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://{server}{path}"))
            .header(header::AUTHORIZATION, authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Bytes::from(body.to_string()))
            .map_err(|error| failed(error.to_string()))?;
        let response = self.web.fetch(request, LIMITS).await.map_err(|error| failed(error.to_string()))?;
        if !response.status().is_success() {
            return Err(failed(format!("status {}", response.status())));
        }
        serde_json::from_slice(response.body()).map_err(|error| failed(error.to_string()))
    }
}

fn name(id_server: &str) -> Result<&ServerName, OpError> {
    <&ServerName>::try_from(id_server).map_err(|_| OpError::Invalid("id_server is not the name of a server".into()))
}
