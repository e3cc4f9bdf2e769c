//! Rooms over HTTP: making them, being in them, what is refused. The engine's own tests are beside the engine.

use serde_json::{Value, json};

use crate::harness::{Node, Person, each_engine, each_engine_with, settings};

pub async fn create(node: &Node, who: &Person, wish: Value) -> String {
    let made = node.post_as(who, "/v3/createRoom", wish).await.ok();
    made["room_id"].as_str().unwrap().to_owned()
}

pub async fn public(node: &Node, who: &Person, others: &[&Person]) -> String {
    let room = create(node, who, json!({ "preset": "public_chat" })).await;
    for other in others {
        join(node, other, &room).await.ok();
    }
    room
}

pub async fn join(node: &Node, who: &Person, room: &str) -> crate::harness::Answer {
    node.post_as(who, &format!("/v3/rooms/{room}/join"), json!({})).await
}

pub async fn act(node: &Node, who: &Person, room: &str, what: &str, on: &Person) -> crate::harness::Answer {
    node.post_as(who, &format!("/v3/rooms/{room}/{what}"), json!({ "user_id": on.user_id })).await
}

pub async fn say(node: &Node, who: &Person, room: &str, txn: &str, body: &str) -> crate::harness::Answer {
    let path = format!("/v3/rooms/{room}/send/m.room.message/{txn}");
    node.put_as(who, &path, json!({ "msgtype": "m.text", "body": body })).await
}

pub async fn set(node: &Node, who: &Person, room: &str, event_type: &str, content: Value) -> crate::harness::Answer {
    node.put_as(who, &format!("/v3/rooms/{room}/state/{event_type}/"), content).await
}

pub async fn state(node: &Node, who: &Person, room: &str, event_type: &str) -> Value {
    node.get_as(who, &format!("/v3/rooms/{room}/state/{event_type}/")).await.ok()
}

/// Event types in the order in which they were sent.
async fn types(node: &Node, who: &Person, room: &str) -> Vec<String> {
    let page = node.get_as(who, &format!("/v3/rooms/{room}/messages?dir=f&limit=100")).await.ok();
    page["chunk"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

/// Conformance note 27.
#[tokio::test]
async fn note_27_a_room_begins_in_the_order_of_the_specification() {
    let mut settings = settings();
    settings.encrypted_by_default = samtal_ops::EncryptedByDefault::None;
    each_engine_with(settings, async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let wish = json!({
            "preset": "private_chat",
            "room_alias_name": "begin",
            "name": "Begin",
            "topic": "In order",
            "invite": [bob.user_id],
            "initial_state": [
                { "type": "m.room.join_rules", "content": { "join_rule": "knock" } },
                { "type": "m.room.name", "content": { "name": "beaten" } },
                { "type": "org.example.x", "state_key": "key", "content": { "a": 1 } },
            ],
            "creation_content": { "room_version": "1", "creator": "@mallory:samtal.test", "org.example": true },
        });
        let room = create(&node, &alice, wish).await;
        assert_eq!(
            types(&node, &alice, &room).await,
            [
                "m.room.create",
                "m.room.member",
                "m.room.power_levels",
                "m.room.canonical_alias",
                "m.room.history_visibility",
                "m.room.guest_access",
                "m.room.join_rules",
                "org.example.x",
                "m.room.name",
                "m.room.topic",
                "m.room.member",
            ]
        );
        let created = state(&node, &alice, &room, "m.room.create").await;
        assert_eq!(created, json!({ "room_version": "12", "org.example": true }));
        assert_eq!(state(&node, &alice, &room, "m.room.join_rules").await["join_rule"], "knock");
        assert_eq!(state(&node, &alice, &room, "m.room.name").await["name"], "Begin");
        let topic = state(&node, &alice, &room, "m.room.topic").await;
        assert_eq!(topic["m.topic"]["m.text"][0]["body"], "In order");
        for (version, status, errcode) in
            [(json!(10), 400, "M_BAD_JSON"), (json!("nope"), 400, "M_UNSUPPORTED_ROOM_VERSION")]
        {
            let wish = json!({ "room_version": version });
            node.post_as(&alice, "/v3/createRoom", wish).await.refused(status, errcode);
        }
        let taken = json!({ "room_alias_name": "begin" });
        node.post_as(&alice, "/v3/createRoom", taken).await.refused(400, "M_ROOM_IN_USE");
        let alias = json!({ "room_alias_name": "be:gin" });
        node.post_as(&alice, "/v3/createRoom", alias).await.refused(400, "M_INVALID_PARAM");
        let powerless = json!({
            "room_version": "11", "name": "n", "power_level_content_override": { "users": { &*alice.user_id: 0 } },
        });
        node.post_as(&alice, "/v3/createRoom", powerless).await.refused(400, "M_INVALID_ROOM_STATE");
    })
    .await;
}

#[tokio::test]
async fn the_operator_decides_who_lists_rooms_and_who_sees_the_list() {
    let mut settings = settings();
    settings.encrypted_by_default = samtal_ops::EncryptedByDefault::All;
    settings.directory = samtal_ops::Directory {
        publishers: samtal_ops::Publishers::Administrators,
        without_login: true,
        over_federation: false,
    };
    each_engine_with(settings, async |node| {
        let alice = node.person("alice").await;
        assert_eq!(node.get("/v3/publicRooms").await.ok()["chunk"], json!([]));
        let listed = json!({ "visibility": "public" });
        node.post_as(&alice, "/v3/createRoom", listed.clone()).await.refused(403, "M_FORBIDDEN");
        let room = create(&node, &alice, json!({ "preset": "public_chat" })).await;
        assert_eq!(state(&node, &alice, &room, "m.room.encryption").await["algorithm"], "m.megolm.v1.aes-sha2");
        let path = format!("/v3/directory/list/room/{room}");
        node.put_as(&alice, &path, listed.clone()).await.refused(403, "M_FORBIDDEN");
        let operator = node.admin("operator").await;
        let theirs = create(&node, &operator, listed).await;
        assert_eq!(node.get("/v3/publicRooms").await.ok()["chunk"][0]["room_id"], theirs);
    })
    .await;
}

#[tokio::test]
async fn private_rooms_are_encrypted_unless_the_creator_says_otherwise() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let algorithm = json!({ "algorithm": "org.example.own" });
        let own = json!([{ "type": "m.room.encryption", "content": algorithm }]);
        for (wish, expected) in [
            (json!({ "preset": "private_chat" }), Some("m.megolm.v1.aes-sha2")),
            (json!({ "preset": "trusted_private_chat" }), Some("m.megolm.v1.aes-sha2")),
            (json!({ "preset": "private_chat", "initial_state": own }), Some("org.example.own")),
            (json!({ "preset": "public_chat" }), None),
            (json!({ "preset": "private_chat", "creation_content": { "type": "m.space" } }), None),
        ] {
            let room = create(&node, &alice, wish.clone()).await;
            let answer = node.get_as(&alice, &format!("/v3/rooms/{room}/state/m.room.encryption")).await;
            match expected {
                Some(expected) => assert_eq!(answer.ok()["algorithm"], expected, "{wish}"),
                None => _ = answer.refused(404, "M_NOT_FOUND"),
            }
        }
    })
    .await;
}

/// Conformance note 26.
#[tokio::test]
async fn version_12_has_creators_above_all_levels() {
    each_engine(async |node| {
        let (alice, bob, carol) = (node.person("alice").await, node.person("bob").await, node.person("carol").await);
        let wish = json!({ "preset": "trusted_private_chat", "invite": [bob.user_id, bob.user_id] });
        let room = create(&node, &alice, wish).await;
        assert!(!room.contains(':'), "{room}");
        let created = node.get_as(&alice, &format!("/v3/rooms/{room}/state/m.room.create?format=event")).await.ok();
        assert_eq!(created["room_id"], *room);
        assert_eq!(created["event_id"], room.replacen('!', "$", 1));
        assert_eq!(created["content"]["additional_creators"], json!([bob.user_id]));
        assert_eq!(state(&node, &alice, &room, "m.room.power_levels").await["users"], json!({}));
        assert_eq!(state(&node, &alice, &room, "m.room.power_levels").await["events"]["m.room.tombstone"], 150);
        join(&node, &bob, &room).await.ok();
        act(&node, &alice, &room, "kick", &bob).await.refused(403, "M_FORBIDDEN");
        act(&node, &bob, &room, "invite", &carol).await.ok();
        let named = json!({ "users": { &*alice.user_id: 100 } });
        let wish = json!({ "power_level_content_override": named });
        node.post_as(&alice, "/v3/createRoom", wish).await.refused(400, "M_INVALID_PARAM");
        let second = json!({ "room_version": "12" });
        set(&node, &alice, &room, "m.room.create", second.clone()).await.refused(400, "M_UNKNOWN");
        let path = format!("/v3/rooms/{room}/send/m.room.create/t");
        node.put_as(&alice, &path, second).await.refused(403, "M_FORBIDDEN");
    })
    .await;
}

/// Conformance notes 20 and 21.
#[tokio::test]
async fn note_21_kicks_need_somebody_there_and_bans_do_not() {
    each_engine(async |node| {
        let (alice, bob, carol) = (node.person("alice").await, node.person("bob").await, node.person("carol").await);
        let room = public(&node, &alice, &[&bob]).await;
        act(&node, &alice, &room, "kick", &carol).await.refused(403, "M_FORBIDDEN");
        act(&node, &bob, &room, "kick", &alice).await.refused(403, "M_FORBIDDEN");
        act(&node, &carol, &room, "ban", &bob).await.refused(403, "M_FORBIDDEN");
        act(&node, &alice, &room, "unban", &bob).await.refused(403, "M_FORBIDDEN");
        act(&node, &alice, &room, "ban", &carol).await.ok();
        join(&node, &carol, &room).await.refused(403, "M_FORBIDDEN");
        act(&node, &alice, &room, "invite", &carol).await.refused(403, "M_FORBIDDEN");
        act(&node, &alice, &room, "unban", &carol).await.ok();
        act(&node, &alice, &room, "invite", &carol).await.ok();
        join(&node, &carol, &room).await.ok();
        act(&node, &alice, &room, "kick", &carol).await.ok();
        say(&node, &carol, &room, "t", "gone").await.refused(403, "M_FORBIDDEN");
        node.post_as(&carol, &format!("/v3/rooms/{room}/leave"), json!({})).await.ok();
    })
    .await;
}

/// Conformance note 19.
#[tokio::test]
async fn note_19_levels_are_integers_whatever_the_version() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        for version in ["5", "9", "12"] {
            let room = create(&node, &alice, json!({ "preset": "public_chat", "room_version": version })).await;
            for wrong in [json!({ "ban": "50" }), json!({ "users": { "@x:y": "1" } }), json!({ "events": [] })] {
                set(&node, &alice, &room, "m.room.power_levels", wrong).await.refused(400, "M_BAD_JSON");
            }
            let float = json!({ "ban": 50.5 });
            set(&node, &alice, &room, "m.room.power_levels", float).await.refused(400, "M_BAD_JSON");
        }
    })
    .await;
}

/// Conformance note 22.
#[tokio::test]
async fn a_restricted_room_lets_in_whom_somebody_may_vouch_for() {
    each_engine(async |node| {
        let (alice, bob, carol) = (node.person("alice").await, node.person("bob").await, node.person("carol").await);
        let hall = public(&node, &alice, &[&bob]).await;
        let allow = json!([{ "type": "m.room_membership", "room_id": hall }]);
        let rules = json!({ "join_rule": "restricted", "allow": allow });
        let initial = json!([{ "type": "m.room.join_rules", "content": rules }]);
        let room = create(&node, &alice, json!({ "initial_state": initial })).await;
        join(&node, &carol, &room).await.refused(403, "M_FORBIDDEN");
        join(&node, &bob, &room).await.ok();
        let path = format!("/v3/rooms/{room}/state/m.room.member/{}", bob.user_id);
        let member = node.get_as(&bob, &path).await.ok();
        assert_eq!(member["join_authorised_via_users_server"], alice.user_id);
        act(&node, &alice, &room, "invite", &carol).await.ok();
        join(&node, &carol, &room).await.ok();
        let path = format!("/v3/rooms/{room}/state/m.room.member/{}", carol.user_id);
        assert!(node.get_as(&carol, &path).await.ok().get("join_authorised_via_users_server").is_none());
    })
    .await;
}

/// Conformance note 24.
#[tokio::test]
async fn a_knock_waits_at_the_door_until_it_is_answered() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let rules = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }]);
        let room = create(&node, &alice, json!({ "initial_state": rules })).await;
        let knock = format!("/v3/knock/{room}");
        let membership = async |expected: &str| {
            let path = format!("/v3/rooms/{room}/state/m.room.member/{}", bob.user_id);
            assert_eq!(node.get_as(&alice, &path).await.ok()["membership"], expected);
        };
        join(&node, &bob, &room).await.refused(403, "M_FORBIDDEN");
        for _ in 0..2 {
            node.post_as(&bob, &knock, json!({ "reason": "let me in" })).await.ok();
        }
        membership("knock").await;
        node.post_as(&bob, &format!("/v3/rooms/{room}/leave"), json!({})).await.ok();
        membership("leave").await;
        node.post_as(&bob, &knock, json!({})).await.ok();
        act(&node, &alice, &room, "invite", &bob).await.ok();
        node.post_as(&bob, &knock, json!({})).await.refused(403, "M_FORBIDDEN");
        join(&node, &bob, &room).await.ok();
        node.post_as(&bob, &knock, json!({})).await.refused(403, "M_FORBIDDEN");
        let closed = create(&node, &alice, json!({ "preset": "private_chat" })).await;
        node.post_as(&bob, &format!("/v3/knock/{closed}"), json!({})).await.refused(403, "M_FORBIDDEN");
        let old = json!({ "room_version": "6", "preset": "private_chat" });
        let old = create(&node, &alice, old).await;
        node.post_as(&bob, &format!("/v3/knock/{old}"), json!({})).await.refused(403, "M_FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn an_invite_that_is_not_wanted_does_not_come() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room = public(&node, &alice, &[]).await;
        let path = format!("/v3/user/{}/account_data/m.invite_permission_config", bob.user_id);
        node.put_as(&bob, &path, json!({ "default_action": "block" })).await.ok();
        act(&node, &alice, &room, "invite", &bob).await.refused(403, "M_INVITE_BLOCKED");
        let wish = json!({ "invite": [bob.user_id] });
        node.post_as(&alice, "/v3/createRoom", wish).await.refused(403, "M_INVITE_BLOCKED");
        node.put_as(&bob, &path, json!({})).await.ok();
        act(&node, &alice, &room, "invite", &bob).await.ok();
    })
    .await;
}

#[tokio::test]
async fn a_room_is_forgotten_after_leaving_and_comes_back_with_an_invite() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room = public(&node, &alice, &[&bob]).await;
        let forget = format!("/v3/rooms/{room}/forget");
        let messages = format!("/v3/rooms/{room}/messages?dir=b");
        node.post_as(&bob, &forget, json!({})).await.refused(400, "M_UNKNOWN");
        node.post_as(&bob, &format!("/v3/rooms/{room}/leave"), json!({})).await.ok();
        node.get_as(&bob, &messages).await.ok();
        node.post_as(&bob, &forget, json!({})).await.ok();
        node.get_as(&bob, &messages).await.refused(403, "M_FORBIDDEN");
        act(&node, &alice, &room, "invite", &bob).await.ok();
        join(&node, &bob, &room).await.ok();
        node.get_as(&bob, &messages).await.ok();
    })
    .await;
}

/// Conformance note 28.
#[tokio::test]
async fn note_28_an_upgrade_takes_names_state_and_bans_along_but_no_members() {
    each_engine(async |node| {
        let (alice, bob, eve) = (node.person("alice").await, node.person("bob").await, node.person("eve").await);
        for (from, to) in [("9", "11"), ("11", "12"), ("12", "12")] {
            let alias = format!("up{from}{to}");
            let wish = json!({
                "preset": "public_chat", "room_version": from, "room_alias_name": alias, "name": "Old", "visibility": "public",
                "creation_content": { "type": "org.example.kind" },
            });
            let old = create(&node, &alice, wish).await;
            join(&node, &bob, &old).await.ok();
            act(&node, &alice, &old, "ban", &eve).await.ok();
            let tag = format!("/v3/user/{}/rooms/{old}/tags/m.favourite", bob.user_id);
            node.put_as(&bob, &tag, json!({ "order": 0.5 })).await.ok();
            let path = format!("/v3/rooms/{old}/upgrade");
            node.post_as(&bob, &path, json!({ "new_version": to })).await.refused(403, "M_FORBIDDEN");
            let unknown = json!({ "new_version": "nope" });
            node.post_as(&alice, &path, unknown).await.refused(400, "M_UNSUPPORTED_ROOM_VERSION");
            let made = node.post_as(&alice, &path, json!({ "new_version": to })).await.ok();
            let new = made["replacement_room"].as_str().unwrap();
            assert_eq!(state(&node, &alice, &old, "m.room.tombstone").await["replacement_room"], new);
            let created = state(&node, &alice, new, "m.room.create").await;
            assert_eq!(created["predecessor"]["room_id"], *old);
            assert_eq!((created["room_version"].as_str(), created["type"].as_str()), (Some(to), Some("org.example.kind")));
            assert_eq!(state(&node, &alice, new, "m.room.name").await["name"], "Old");
            let named = node.get(&format!("/v3/directory/room/%23{alias}:samtal.test")).await.ok();
            assert_eq!(named["room_id"], new);
            for (room, visibility) in [(&*old, "private"), (new, "public")] {
                let listed = node.get(&format!("/v3/directory/list/room/{room}")).await.ok();
                assert_eq!(listed["visibility"], visibility);
            }
            let members = node.get_as(&alice, &format!("/v3/rooms/{new}/members")).await.ok();
            let mut found: Vec<(String, String)> = members["chunk"].as_array().unwrap().iter().map(|member| {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                (text(&member["state_key"]), text(&member["content"]["membership"]))
            }).collect();
            found.sort();
            let expected = [(alice.user_id.clone(), "join".to_owned()), (eve.user_id.clone(), "ban".to_owned())];
            assert_eq!(found, expected);
            say(&node, &bob, &old, "t", "still here").await.refused(403, "M_FORBIDDEN");
            join(&node, &bob, new).await.ok();
            let tags = node.get_as(&bob, &format!("/v3/user/{}/rooms/{new}/tags", bob.user_id)).await.ok();
            assert_eq!(tags["tags"]["m.favourite"]["order"], 0.5);
        }
    })
    .await;
}

/// Conformance note 66.
#[tokio::test]
async fn note_66_canonical_aliases_name_the_room_that_they_are_set_in() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let (room, other) = (public(&node, &alice, &[&bob]).await, public(&node, &alice, &[]).await);
        let put = async |who: &Person, alias: &str, room: &str| {
            node.put_as(who, &format!("/v3/directory/room/{alias}"), json!({ "room_id": room })).await
        };
        put(&alice, "%23%E2%98%95:samtal.test", &room).await.ok();
        put(&alice, "%23other:samtal.test", &other).await.ok();
        put(&bob, "%23other:samtal.test", &room).await.refused(409, "M_UNKNOWN");
        put(&bob, "%23else:elsewhere.test", &room).await.refused(400, "M_INVALID_PARAM");
        let found = node.get("/v3/directory/room/%23%E2%98%95:samtal.test").await.ok();
        assert_eq!((&found["room_id"], &found["servers"]), (&json!(room), &json!(["samtal.test"])));
        for (content, status, errcode) in [
            (json!({ "alias": "#nowhere:samtal.test" }), 400, "M_BAD_ALIAS"),
            (json!({ "alias": "#other:samtal.test" }), 400, "M_BAD_ALIAS"),
            (json!({ "alt_aliases": ["#other:samtal.test"] }), 400, "M_BAD_ALIAS"),
            (json!({ "alias": "no alias" }), 400, "M_INVALID_PARAM"),
            (json!({ "alt_aliases": "#a:b" }), 400, "M_BAD_JSON"),
        ] {
            set(&node, &alice, &room, "m.room.canonical_alias", content).await.refused(status, errcode);
        }
        set(&node, &alice, &room, "m.room.canonical_alias", json!({ "alias": "#☕:samtal.test" })).await.ok();
        node.delete_as(&bob, "/v3/directory/room/%23%E2%98%95:samtal.test", json!({}))
            .await
            .refused(403, "M_FORBIDDEN");
        node.delete_as(&alice, "/v3/directory/room/%23%E2%98%95:samtal.test", json!({})).await.ok();
        assert_eq!(state(&node, &alice, &room, "m.room.canonical_alias").await, json!({}));
        node.delete_as(&alice, "/v3/directory/room/%23%E2%98%95:samtal.test", json!({}))
            .await
            .refused(404, "M_NOT_FOUND");
    })
    .await;
}

#[tokio::test]
async fn the_directory_is_searched_and_read_in_pages() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        for number in 0..5 {
            let name = format!("Fika {number}");
            create(&node, &alice, json!({ "visibility": "public", "name": name })).await;
        }
        let space = json!({ "visibility": "public", "name": "Torget", "creation_content": { "type": "m.space" } });
        create(&node, &alice, space).await;
        create(&node, &alice, json!({ "name": "Fika unlisted" })).await;
        let search = async |body: Value| node.post_as(&alice, "/v3/publicRooms", body).await.ok();
        let mut found = Vec::new();
        let mut since = None;
        loop {
            let mut body = json!({ "limit": 2, "filter": { "generic_search_term": "fika" } });
            if let Some(since) = since {
                body["since"] = since;
            }
            let page = search(body).await;
            assert_eq!(page["total_room_count_estimate"], 5);
            found
                .extend(page["chunk"].as_array().unwrap().iter().map(|room| room["name"].as_str().unwrap().to_owned()));
            since = page.get("next_batch").cloned();
            if since.is_none() {
                break;
            }
        }
        found.sort();
        assert_eq!(found, ["Fika 0", "Fika 1", "Fika 2", "Fika 3", "Fika 4"]);
        let spaces = search(json!({ "filter": { "room_types": ["m.space"] } })).await;
        assert_eq!(spaces["chunk"].as_array().unwrap().len(), 1);
        assert_eq!(node.get_as(&alice, "/v3/publicRooms").await.ok()["chunk"].as_array().unwrap().len(), 6);
        node.get("/v3/publicRooms").await.refused(401, "M_MISSING_TOKEN");
        node.get_as(&alice, "/v3/publicRooms?since=nonsense").await.refused(400, "M_INVALID_PARAM");
    })
    .await;
}

#[tokio::test]
async fn a_space_shows_what_its_reader_may_see_in_order() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let wish = json!({ "preset": "public_chat", "creation_content": { "type": "m.space" } });
        let (space, inner) = (create(&node, &alice, wish.clone()).await, create(&node, &alice, wish).await);
        let (second, deep) = (public(&node, &alice, &[]).await, public(&node, &alice, &[]).await);
        let secret = create(&node, &alice, json!({ "preset": "private_chat" })).await;
        let child = async |parent: &str, child: &str, content: Value| {
            let path = format!("/v3/rooms/{parent}/state/m.space.child/{child}");
            node.put_as(&alice, &path, content).await.ok();
        };
        let via = json!(["samtal.test"]);
        child(&space, &second, json!({ "via": via, "order": "b" })).await;
        child(&space, &inner, json!({ "via": via, "order": "a", "suggested": true })).await;
        child(&space, &secret, json!({ "via": via })).await;
        child(&inner, &deep, json!({ "via": via })).await;
        child(&inner, &space, json!({ "via": via })).await;
        let rooms = async |who: &Person, query: &str| {
            let answer = node.get_as(who, &format!("/v1/rooms/{space}/hierarchy?{query}")).await.ok();
            let rooms = answer["rooms"].as_array().unwrap().clone();
            let ids: Vec<String> = rooms.iter().map(|room| room["room_id"].as_str().unwrap().to_owned()).collect();
            (ids, answer)
        };
        assert_eq!(rooms(&bob, "").await.0, [&*space, &*inner, &*deep, &*second]);
        assert_eq!(rooms(&alice, "").await.0, [&*space, &*inner, &*deep, &*second, &*secret]);
        assert_eq!(rooms(&bob, "max_depth=1").await.0, [&*space, &*inner, &*second]);
        assert_eq!(rooms(&bob, "suggested_only=true&max_depth=1").await.0, [&*space, &*inner]);
        let (first, answer) = rooms(&bob, "limit=3").await;
        assert_eq!(first, [&*space, &*inner, &*deep]);
        let from = answer["next_batch"].as_str().unwrap();
        assert_eq!(rooms(&bob, &format!("limit=3&from={from}")).await.0, [&*second]);
        node.get_as(&bob, &format!("/v1/rooms/{secret}/hierarchy")).await.refused(403, "M_FORBIDDEN");
        let summary = node.get(&format!("/v1/room_summary/{space}")).await.ok();
        assert_eq!((&summary["room_type"], &summary["num_joined_members"]), (&json!("m.space"), &json!(1)));
        node.get_as(&bob, &format!("/v1/room_summary/{secret}")).await.refused(404, "M_NOT_FOUND");
    })
    .await;
}

#[tokio::test]
async fn what_strangers_ask_about_a_room_is_refused_alike_whether_it_exists_or_not() {
    each_engine(async |node| {
        let (alice, eve) = (node.person("alice").await, node.person("eve").await);
        let room = create(&node, &alice, json!({ "preset": "private_chat" })).await;
        let said = say(&node, &alice, &room, "t", "secret").await.ok()["event_id"].as_str().unwrap().to_owned();
        for room in [&*room, "!nothing:samtal.test"] {
            for path in
                ["state", "state/m.room.name", "members", "joined_members", "messages?dir=b", "aliases", "initialSync"]
            {
                node.get_as(&eve, &format!("/v3/rooms/{room}/{path}")).await.refused(403, "M_FORBIDDEN");
            }
            node.get_as(&eve, &format!("/v3/rooms/{room}/context/{said}")).await.refused(403, "M_FORBIDDEN");
            node.get_as(&eve, &format!("/v3/rooms/{room}/event/{said}")).await.refused(404, "M_NOT_FOUND");
            node.get_as(&eve, &format!("/v1/rooms/{room}/relations/{said}")).await.refused(404, "M_NOT_FOUND");
            node.get_as(&eve, &format!("/v1/rooms/{room}/threads")).await.refused(403, "M_FORBIDDEN");
            say(&node, &eve, room, "t", "hello?").await.refused(403, "M_FORBIDDEN");
            set(&node, &eve, room, "m.room.topic", json!({ "topic": "x" })).await.refused(403, "M_FORBIDDEN");
            act(&node, &eve, room, "invite", &eve).await.refused(403, "M_FORBIDDEN");
            let redact = format!("/v3/rooms/{room}/redact/{said}/t");
            node.put_as(&eve, &redact, json!({})).await.refused(403, "M_FORBIDDEN");
            let report = format!("/v3/rooms/{room}/report/{said}");
            node.post_as(&eve, &report, json!({ "reason": "x" })).await.refused(404, "M_NOT_FOUND");
        }
        join(&node, &eve, &room).await.refused(403, "M_FORBIDDEN");
        join(&node, &eve, "!nothing:samtal.test").await.refused(404, "M_NOT_FOUND");
    })
    .await;
}

#[tokio::test]
async fn reports_become_cases() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room = public(&node, &alice, &[&bob]).await;
        let said = say(&node, &bob, &room, "t", "bad").await.ok()["event_id"].as_str().unwrap().to_owned();
        node.post_as(&alice, &format!("/v3/rooms/{room}/report/{said}"), json!({ "reason": "rude", "score": -100 }))
            .await
            .ok();
        node.post_as(&alice, &format!("/v3/rooms/{room}/report"), json!({ "reason": "loud" })).await.ok();
        node.post_as(&alice, &format!("/v3/users/{}/report", bob.user_id), json!({ "reason": "both" })).await.ok();
        node.post_as(&alice, "/v3/rooms/!nothing:samtal.test/report", json!({ "reason": "x" }))
            .await
            .refused(404, "M_NOT_FOUND");
        let cases = node.hs.rooms.cases(i64::MAX, 10).await.unwrap();
        let found: Vec<_> = cases.iter().map(|case| (&*case.reason, case.event_id.as_deref())).collect();
        assert_eq!(found, [("both", None), ("loud", None), ("rude", Some(&*said))]);
    })
    .await;
}
