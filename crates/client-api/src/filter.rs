//! Filters.

use http::Method;
use ruma::{
    OwnedUserId,
    api::{auth_scheme::AccessToken, client::filter::FilterDefinition},
};
use serde_json::{Value, json, value::RawValue};

use crate::{Answer, ApiError, Json, RawArgs, Routes};

pub(crate) fn routes() -> Routes {
    Routes::new()
        .raw::<AccessToken, _, _, _>(
            Method::POST,
            &["/_matrix/client/r0/user/{user_id}/filter", "/_matrix/client/v3/user/{user_id}/filter"],
            create,
        )
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &[
                "/_matrix/client/r0/user/{user_id}/filter/{filter_id}",
                "/_matrix/client/v3/user/{user_id}/filter/{filter_id}",
            ],
            get,
        )
}

/// `POST /user/{userId}/filter`. The filter is kept as it came, so that what this version does not know is not lost.
async fn create(args: RawArgs) -> Answer<Json<Value>> {
    args.who.require_self(&args.path::<OwnedUserId>(0)?)?;
    let filter: Box<RawValue> = args.json().await?;
    check(filter.get())?;
    let filter_id = args.hs.accounts.create_filter(&args.who.user_id, &filter).await?;
    Ok(Json(json!({ "filter_id": filter_id })))
}

/// Refuses a filter that no sync could use.
pub(crate) fn check(filter: &str) -> Result<FilterDefinition, ApiError> {
    serde_json::from_str(filter).map_err(|error| ApiError::bad_json(format!("This is not a filter: {error}")))
}

/// `GET /user/{userId}/filter/{filterId}`
async fn get(args: RawArgs) -> Answer<Json<Box<RawValue>>> {
    args.who.require_self(&args.path::<OwnedUserId>(0)?)?;
    let id = args.path.get(1).map_or("", String::as_str);
    let filter = args.hs.accounts.filter(&args.who.user_id, id).await?;
    filter.map(Json).ok_or_else(|| ApiError::not_found("There is no such filter"))
}
