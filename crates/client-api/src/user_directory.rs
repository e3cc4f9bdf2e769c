//! Finding people (CS API, "User Directory").

use ruma::{OwnedMxcUri, api::client::user_directory::search_users::v3};

use crate::{Answer, Args, Routes};

/// Most people in one answer.
const LIMIT_MAX: usize = 100;

pub(crate) fn routes() -> Routes {
    Routes::new().route(search)
}

/// `POST /user_directory/search`
async fn search(args: Args<v3::Request>) -> Answer<v3::Response> {
    let limit = usize::try_from(u64::from(args.body.limit)).unwrap_or(LIMIT_MAX).min(LIMIT_MAX);
    let found = args.hs.search.people(&args.who.user_id, &args.body.search_term, limit).await?;
    let users = found.people.into_iter().map(|person| {
        let mut user = v3::User::new(person.user_id);
        user.display_name = person.display_name;
        user.avatar_url = person.avatar_url.map(OwnedMxcUri::from);
        user
    });
    Ok(v3::Response::new(users.collect(), found.limited))
}
