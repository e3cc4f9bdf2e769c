//! What is done in all rooms of a user goes on after a crash.

use ruma::OwnedUserId;
use samtal_db::testing::{Directory, drop_schema, postgres, sqlite};
use samtal_jobs::State;
use samtal_ops::member_task::MemberTask;
use serde_json::json;

use crate::Node;

/// Waits until the job has ended, and says how.
async fn ended(node: &Node, id: &str) -> State {
    loop {
        match node.hs.jobs.get("member_task", id).await.unwrap().unwrap().state {
            State::Waiting => tokio::task::yield_now().await,
            state => return state,
        }
    }
}

async fn resumes(database: &samtal_db::Options) {
    let node = Node::open(database).await;
    let (bob, carol) = (node.user("bob", false).await, node.user("carol", false).await);
    let room = node.room(&bob, json!({ "preset": "public_chat" })).await;
    node.post(&format!("/_matrix/client/v3/join/{room}"), &carol, json!({})).await;
    let user = |name: &str| OwnedUserId::try_from(format!("@{name}:samtal.test")).unwrap();
    // A crash between the deactivation and the leaving, and one between the new name and the telling.
    let leave = MemberTask::LeaveEverything { user: user("bob") };
    let leave = node.hs.store_member_task(&leave).await.unwrap();
    let batch = node.hs.accounts.deactivation(&user("bob"), false).await.unwrap();
    node.hs.db.commit(batch).await.unwrap();
    let tell = node.hs.store_member_task(&MemberTask::TellRooms { user: user("carol") }).await.unwrap();
    node.hs.accounts.set_profile_field(&user("carol"), "displayname", Some(&json!("Carola"))).await.unwrap();
    // One that was stored for a deactivation that never came to be.
    let idle = node.hs.store_member_task(&MemberTask::LeaveEverything { user: user("carol") }).await.unwrap();
    node.hs.tasks.shut_down(std::time::Duration::ZERO).await;
    node.hs.db.close().await;
    // On PostgreSQL another node takes it up once the one that began it has had its time.
    let node = Node::open_at(database, 1_700_000_000_000 + 16 * 60_000).await;
    for id in [&leave, &tell, &idle] {
        assert_eq!(ended(&node, id).await, State::Done);
    }
    let member = async |name: &str| {
        let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/@{name}:samtal.test");
        node.get(&path, &carol).await
    };
    assert_eq!(member("bob").await["membership"], "leave");
    assert_eq!(member("carol").await["displayname"], "Carola");
    assert_eq!(member("carol").await["membership"], "join");
}

#[tokio::test]
async fn a_crash_stops_neither_a_new_name_nor_a_farewell() {
    let directory = Directory::new();
    resumes(&sqlite(&directory)).await;
    if let Some(options) = postgres() {
        resumes(&options).await;
        drop_schema(&options).await;
    }
}
