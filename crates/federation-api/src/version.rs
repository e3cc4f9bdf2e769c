//! `/_matrix/federation/v1/version`

use ruma::api::federation::discovery::get_server_version::v1;

use crate::{
    args::Args,
    routes::{Answer, Routes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.route::<v1::Request, _, _, _>(version)
}

/// `GET /_matrix/federation/v1/version`
async fn version(_: Args<v1::Request>) -> Answer<v1::Response> {
    let mut server = v1::Server::new();
    server.name = Some("Samtal".to_owned());
    server.version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let mut response = v1::Response::new();
    response.server = Some(server);
    Ok(response)
}
