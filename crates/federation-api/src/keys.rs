//! `/_matrix/key/v2`: our keys, and others' as a notary sees them.

use ruma::{
    OwnedServerName,
    api::federation::discovery::{
        get_remote_server_keys as query_one, get_remote_server_keys_batch as query, get_server_keys as own,
    },
};

use crate::{
    ApiError,
    args::Args,
    routes::{Answer, Customs, JsonText, Routes},
};

/// Most servers asked about at once.
const SERVERS_MAX: usize = 100;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .route::<own::v2::Request, _, _, _>(server)
        // Old servers name the key they want; the answer is the same.
        .with::<own::v2::Request, _, _, _>(
            Customs::paths(&["/_matrix/key/v2/server/", "/_matrix/key/v2/server/{key_id}"]),
            server,
        )
        .route::<query_one::v2::Request, _, _, _>(query_server)
        .with::<query_one::v2::Request, _, _, _>(
            Customs::paths(&["/_matrix/key/v2/query/{server_name}/{key_id}"]),
            query_server,
        )
        .route::<query::v2::Request, _, _, _>(query_servers)
}

/// `GET /_matrix/key/v2/server`
async fn server(args: Args<own::v2::Request>) -> Answer<JsonText> {
    Ok(JsonText(args.hs.keyring.own_document()))
}

/// `GET /_matrix/key/v2/query/{serverName}`
async fn query_server(args: Args<query_one::v2::Request>) -> Answer<JsonText> {
    let wanted_ms = args.request.minimum_valid_until_ts.get().into();
    Ok(answer(args.hs.keyring.notarized(&args.request.server_name, &[], Some(wanted_ms), &args.hs.remote).await?))
}

/// `POST /_matrix/key/v2/query`
async fn query_servers(args: Args<query::v2::Request>) -> Answer<JsonText> {
    if args.request.server_keys.len() > SERVERS_MAX {
        return Err(ApiError::too_large("Too many servers are asked about"));
    }
    let mut documents = Vec::new();
    for (server, keys) in args.request.server_keys {
        let wanted = keys.values().filter_map(|criteria| criteria.minimum_valid_until_ts).max();
        let server: OwnedServerName = server;
        let wanted_ms = wanted.map(|ts| ts.get().into());
        let ids: Vec<String> = keys.keys().map(ToString::to_string).collect();
        documents.extend(args.hs.keyring.notarized(&server, &ids, wanted_ms, &args.hs.remote).await?);
    }
    Ok(answer(documents))
}

fn answer(documents: Vec<String>) -> JsonText {
    JsonText(format!(r#"{{"server_keys":[{}]}}"#, documents.join(",")))
}
