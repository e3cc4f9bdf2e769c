//! Spaces and what is in them.

use ruma::api::client::space::get_hierarchy::v1;

use crate::{Answer, ApiError, Args, Routes};

const LIMIT: usize = 50;
const LIMIT_MAX: usize = 100;

pub(super) fn routes() -> Routes {
    Routes::new().route(hierarchy)
}

/// `GET /rooms/{roomId}/hierarchy`
async fn hierarchy(args: Args<v1::Request>) -> Answer<v1::Response> {
    let body = args.body;
    let number = |value: ruma::UInt| usize::try_from(u64::from(value)).unwrap_or(usize::MAX);
    let skip = match body.from.as_deref() {
        None => 0,
        Some(from) => from
            .strip_prefix('h')
            .and_then(|count| count.parse().ok())
            .ok_or_else(|| ApiError::invalid_param("from is not a token of this server"))?,
    };
    let limit = body.limit.map_or(LIMIT, number).clamp(1, LIMIT_MAX);
    let depth_max = body.max_depth.map(number);
    let walk = args.hs.hierarchy(&args.who.user_id, &body.room_id, body.suggested_only, depth_max, skip + limit + 1);
    let mut rooms = walk.await?;
    let more = rooms.len() > skip + limit;
    rooms.truncate(skip + limit);
    let mut response = v1::Response::new();
    response.rooms = rooms.split_off(skip.min(rooms.len()));
    response.next_batch = more.then(|| format!("h{}", skip + limit));
    Ok(response)
}
