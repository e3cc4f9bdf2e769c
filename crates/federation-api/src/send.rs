//! `/_matrix/federation/v1/send`: transactions.

use ruma::api::federation::transactions::send_transaction_message::v1;
use samtal_ops::Transaction;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    ApiError,
    args::Args,
    routes::{Answer, Customs, JsonText, Routes},
};

/// Most events of a transaction.
const PDUS_MAX: usize = 50;
/// Most passing messages of a transaction.
const EDUS_MAX: usize = 100;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.with::<v1::Request, _, _, _>(
        Customs::defaults(&[("origin", r#""left.out""#), ("origin_server_ts", "0")]),
        send,
    )
}

/// `PUT /_matrix/federation/v1/send/{txnId}`
async fn send(args: Args<v1::Request>) -> Answer<JsonText> {
    // ruma's list of passing messages is typed; ours may hold what nobody knows.
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        pdus: Vec<Box<RawValue>>,
        #[serde(default)]
        edus: Vec<Box<RawValue>>,
    }
    let body: Body = serde_json::from_slice(&args.json).map_err(|error| ApiError::bad_json(error.to_string()))?;
    if body.pdus.len() > PDUS_MAX || body.edus.len() > EDUS_MAX {
        return Err(ApiError::new(
            http::StatusCode::BAD_REQUEST,
            "M_UNKNOWN",
            "The transaction has too many events or messages",
        ));
    }
    let outcome = args
        .hs
        .ingest_transaction(Transaction {
            origin: args.who.server,
            id: args.request.transaction_id.to_string(),
            pdus: body.pdus,
            edus: body.edus,
        })
        .await?;
    let pdus: Map<String, Value> = outcome
        .into_iter()
        .map(|(id, outcome)| {
            let said = match outcome {
                Ok(()) => json!({}),
                Err(reason) => json!({ "error": reason }),
            };
            (id.to_string(), said)
        })
        .collect();
    Ok(JsonText(json!({ "pdus": pdus }).to_string()))
}
