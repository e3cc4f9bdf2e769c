//! Server notices: one room for each user, which they may leave but not refuse.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{Node, each_engine};

/// The one room that the user is invited to.
async fn invited(node: &Node, token: &str) -> String {
    let sync = node.get("/_matrix/client/v3/sync", token).await;
    let rooms = sync["rooms"]["invite"].as_object().cloned().unwrap_or_default();
    assert_eq!(rooms.len(), 1, "{sync}");
    rooms.keys().next().unwrap().clone()
}

fn said(body: &str) -> Value {
    json!({ "user_id": "@bob:samtal.test", "content": { "msgtype": "m.text", "body": body } })
}

#[tokio::test]
async fn a_notice_cannot_be_refused_and_all_come_in_one_room() {
    each_engine(async |node: Node| {
        let (admin, bob) = (node.user("root", true).await, node.user("bob", false).await);
        let first = node.post("/v1/send_server_notice", &admin, said("The server moves.")).await;
        let room = invited(&node, &bob).await;
        let sync = node.get("/_matrix/client/v3/sync", &bob).await;
        let state = sync["rooms"]["invite"][&room]["invite_state"]["events"].as_array().unwrap().clone();
        assert!(state.iter().all(|event| event["type"] != "m.room.encryption"), "nobody has keys for it: {state:?}");
        assert_eq!(state[0]["sender"], "@_server:samtal.test");
        // Neither way out is open while it is an invite.
        let leave = format!("/_matrix/client/v3/rooms/{room}/leave");
        let (status, refused) = node.ask(Method::POST, &leave, &bob, json!({})).await;
        let cannot = json!("M_CANNOT_LEAVE_SERVER_NOTICE_ROOM");
        assert_eq!((status, &refused["errcode"]), (StatusCode::FORBIDDEN, &cannot));
        let member = format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/@bob:samtal.test");
        let (status, refused) = node.ask(Method::PUT, &member, &bob, json!({ "membership": "leave" })).await;
        assert_eq!((status, &refused["errcode"]), (StatusCode::FORBIDDEN, &cannot));
        node.post(&format!("/_matrix/client/v3/join/{room}"), &bob, json!({})).await;
        let sync = node.get("/_matrix/client/v3/sync", &bob).await;
        let events = sync["rooms"]["join"][&room]["timeline"]["events"].as_array().unwrap().clone();
        assert!(events.iter().any(|event| event["event_id"] == first["event_id"]), "{events:?}");
        let data = sync["rooms"]["join"][&room]["account_data"]["events"].as_array().unwrap().clone();
        assert!(data.iter().any(|data| data["content"]["tags"]["m.server_notice"].is_object()), "{data:?}");
        let send = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
        let (status, _) = node.ask(Method::PUT, &send, &bob, json!({ "msgtype": "m.text", "body": "No!" })).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "nobody answers there");
        node.post(&leave, &bob, json!({})).await;
        node.post("/v1/send_server_notice", &admin, said("Again.")).await;
        assert_eq!(invited(&node, &bob).await, room, "the room is used again");
        let once = "/v1/send_server_notice/txn";
        let one = Node::ok(node.ask(Method::PUT, once, &admin, said("Once.")).await);
        assert_eq!(Node::ok(node.ask(Method::PUT, once, &admin, said("Once.")).await), one);
    })
    .await;
}

#[tokio::test]
async fn nobody_else_speaks_in_the_servers_name() {
    each_engine(async |node: Node| {
        let (admin, bob) = (node.user("root", true).await, node.user("bob", false).await);
        let path = "/_matrix/client/v3/register/available?username=_server";
        let (status, taken) = node.ask(Method::GET, path, &bob, json!({})).await;
        assert_eq!((status, &taken["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_EXCLUSIVE")));
        // Somebody who had the name before is not made the server's voice.
        node.user("_server", false).await;
        let (status, _) = node.ask(Method::POST, "/v1/send_server_notice", &admin, said("x")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    })
    .await;
}

#[tokio::test]
async fn notices_are_for_users_of_this_server() {
    each_engine(async |node: Node| {
        let admin = node.user("root", true).await;
        let nobody = json!({ "user_id": "@nobody:samtal.test", "content": { "body": "x" } });
        let (status, _) = node.ask(Method::POST, "/v1/send_server_notice", &admin, nobody).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        let other = json!({ "user_id": "@bob:elsewhere.test", "content": { "body": "x" } });
        let (status, _) = node.ask(Method::POST, "/v1/send_server_notice", &admin, other).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let bad = json!({ "user_id": "@root:samtal.test", "content": "x" });
        let (status, answer) = node.ask(Method::POST, "/v1/send_server_notice", &admin, bad).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_BAD_JSON")));
    })
    .await;
}
