//! `/_matrix/federation/v1/openid/userinfo`: the only call with a token in its query and no signature.

use ruma::api::federation::openid::get_openid_userinfo::v1;

use crate::{
    ApiError,
    args::Args,
    routes::{Answer, Routes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.route::<v1::Request, _, _, _>(userinfo)
}

/// `GET /_matrix/federation/v1/openid/userinfo`
async fn userinfo(args: Args<v1::Request>) -> Answer<v1::Response> {
    let user = args.hs.accounts.openid_user(&args.request.access_token).await?;
    user.map(v1::Response::new).ok_or_else(|| ApiError::unknown_token("The token is not known, or has expired"))
}
