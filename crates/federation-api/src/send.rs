//! `/_matrix/federation/v1/send`: transactions.

use http::StatusCode;
use ruma::api::federation::transactions::send_transaction_message::v1;
use samtal_event::{TransactionBody, TransactionBodyError};
use samtal_ops::Transaction;
use serde_json::{Map, Value, json};

use crate::{
    ApiError,
    args::Args,
    routes::{Answer, Customs, JsonText, Routes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.with::<v1::Request, _, _, _>(
        Customs::defaults(&[("origin", r#""left.out""#), ("origin_server_ts", "0")]),
        send,
    )
}

/// `PUT /_matrix/federation/v1/send/{txnId}`
async fn send(args: Args<v1::Request>) -> Answer<JsonText> {
    let body = TransactionBody::parse(&args.json).map_err(|error| match error {
        TransactionBodyError::Json(error) => ApiError::bad_json(error.to_string()),
        TransactionBodyError::TooMany => ApiError::new(StatusCode::BAD_REQUEST, "M_UNKNOWN", error.to_string()),
    })?;
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
