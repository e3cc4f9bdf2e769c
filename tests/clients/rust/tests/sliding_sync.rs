//! matrix-sdk-ui as Element X uses it: SyncService, RoomListService and Timeline.

#![recursion_limit = "256"]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use matrix_sdk::encryption::recovery::RecoveryState;
use matrix_sdk::ruma::api::client::room::create_room::v3::{CreationContent, Request as CreateRoom, RoomPreset};
use matrix_sdk::ruma::events::InitialStateEvent;
use matrix_sdk::ruma::events::room::join_rules::{JoinRule, RoomJoinRulesEventContent};
use matrix_sdk::ruma::events::room::message::RoomMessageEventContent;
use matrix_sdk::ruma::events::space::child::SpaceChildEventContent;
use matrix_sdk::ruma::room::RoomType;
use matrix_sdk::ruma::serde::Raw;
use matrix_sdk::ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, assign};
use matrix_sdk::{Client, RoomState};
use matrix_sdk_ui::eyeball_im::Vector;
use matrix_sdk_ui::room_list_service::RoomListLoadingState;
use matrix_sdk_ui::room_list_service::filters::new_filter_non_left;
use matrix_sdk_ui::spaces::SpaceService;
use matrix_sdk_ui::sync_service::{State, SyncService};
use matrix_sdk_ui::timeline::{RoomExt, Timeline, TimelineItem};
use samtal_clients::verification::bootstrap_cross_signing;
use samtal_clients::{Device, Encryption, PATIENCE, log_in, log_in_keeping, register, restore, room_of, until};

/// Somebody whose client syncs by sliding sync.
async fn sliding(name: &str) -> Result<(Device, SyncService)> {
    syncing(log_in(&register(name).await?).await?, &[]).await
}

/// A client of somebody, once it syncs by sliding sync, these rooms in particular.
async fn syncing(client: Client, rooms: &[&RoomId]) -> Result<(Device, SyncService)> {
    client.event_cache().subscribe()?;
    let service = SyncService::builder(client.clone()).build().await?;
    service.room_list_service().subscribe_to_rooms(rooms).await;
    let device = Device::of_client(client);
    service.start().await;
    let mut state = service.state();
    tokio::time::timeout(PATIENCE, async {
        while !matches!(state.get(), State::Running) {
            state.next().await.context("the service goes on")?;
        }
        anyhow::Ok(())
    })
    .await??;
    Ok((device, service))
}

/// The order in which the room list shows rooms, once it fulfills a condition.
async fn room_list(service: &SyncService, fits: impl Fn(&[OwnedRoomId]) -> bool) -> Result<Vec<OwnedRoomId>> {
    let list = service.room_list_service().all_rooms().await?;
    let (entries, control) = list.entries_with_dynamic_adapters(50);
    control.set_filter(Box::new(new_filter_non_left()));
    let mut entries = Box::pin(entries);
    let mut rooms = Vector::new();
    tokio::time::timeout(PATIENCE, async {
        loop {
            for change in entries.next().await.context("the list goes on")? {
                change.apply(&mut rooms);
            }
            let ids: Vec<OwnedRoomId> = rooms.iter().map(|room| room.room_id().to_owned()).collect();
            if fits(&ids) {
                return anyhow::Ok(ids);
            }
        }
    })
    .await
    .context("the room list never looked as it should")?
}

/// The text of each message of a timeline. Each counts once: where pages are asked for while the sync brings the same
/// events, and keys come meanwhile, the client now and then shows one event twice. The server tells no event twice in a
/// timeline (its own tests demand that), and the client's cache drops an event that it gets again.
fn texts(items: &Vector<Arc<TimelineItem>>) -> Vec<String> {
    let mut shown = HashSet::new();
    let events = items.iter().filter_map(|item| item.as_event());
    let once = events.filter(|event| event.event_id().is_none_or(|id| shown.insert(id.to_owned())));
    once.filter_map(|event| Some(event.content().as_message()?.body().to_owned())).collect()
}

async fn until_texts(timeline: &Timeline, expected: &[&str]) -> Result<()> {
    let found = until("the timeline shows the messages", || async {
        Ok((texts(&timeline.items().await) == expected).then_some(()))
    })
    .await;
    if found.is_err() {
        assert_eq!(texts(&timeline.items().await), expected);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_room_list_is_ordered_by_activity() -> Result<()> {
    let (alice, service) = sliding("alice").await?;
    let bob = Device::of_new("bob").await?;
    let mut rooms = Vec::new();
    for _ in 0..3 {
        let room_id = room_of(&bob, &[], Encryption::Off).await?;
        alice.client.join_room_by_id(&room_id).await?;
        bob.say(&room_id, "hello").await?;
        rooms.push(room_id);
    }
    rooms.reverse();
    room_list(&service, |ids| ids == rooms).await?;
    let oldest = rooms.pop().context("three rooms")?;
    bob.say(&oldest, "up again").await?;
    rooms.insert(0, oldest);
    room_list(&service, |ids| ids == rooms).await?;
    let list = service.room_list_service().all_rooms().await?;
    let mut loading = list.loading_state();
    tokio::time::timeout(PATIENCE, async {
        while !matches!(loading.get(), RoomListLoadingState::Loaded { maximum_number_of_rooms: Some(3) }) {
            loading.next().await.context("the list goes on")?;
        }
        anyhow::Ok(())
    })
    .await
    .context("the number of rooms is known")??;
    service.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_is_shown_and_accepted() -> Result<()> {
    let (alice, service) = sliding("alice").await?;
    let bob = Device::of_new("bob").await?;
    let room_id = room_of(&bob, &[], Encryption::Off).await?;
    bob.room(&room_id)?.invite_user_by_id(alice.user_id()).await?;
    room_list(&service, |ids| ids == [room_id.clone()]).await?;
    let room = alice.room(&room_id)?;
    assert_eq!(room.state(), RoomState::Invited);
    room.join().await?;
    until("the room is joined", || async { Ok((room.state() == RoomState::Joined).then_some(())) }).await?;
    room.leave().await?;
    room_list(&service, |ids| ids.is_empty()).await?;
    service.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_knock_is_shown_answered_and_taken_up() -> Result<()> {
    let (alice, service) = sliding("alice").await?;
    let bob = Device::of_new("bob").await?;
    let rule = RoomJoinRulesEventContent::new(JoinRule::Knock);
    let request = assign!(CreateRoom::new(), {
        preset: Some(RoomPreset::PrivateChat),
        name: Some("Behind a door".to_owned()),
        initial_state: vec![InitialStateEvent::with_empty_state_key(rule).to_raw_any()],
    });
    let room_id = bob.client.create_room(request).await?.room_id().to_owned();
    let door = bob.is_in(&room_id).await?;
    let room = alice.client.knock(room_id.clone().into(), Some("let me in".to_owned()), Vec::new()).await?;
    room_list(&service, |ids| ids == [room_id.clone()]).await?;
    until("the knock is known as one", || async { Ok((room.state() == RoomState::Knocked).then_some(())) }).await?;
    until("the name is known from outside", || async {
        Ok((room.name().as_deref() == Some("Behind a door")).then_some(()))
    })
    .await?;
    until("the knock is heard", || async {
        let member = door.get_member_no_sync(alice.user_id()).await?;
        Ok(member.filter(|member| member.membership().as_str() == "knock"))
    })
    .await?;
    door.invite_user_by_id(alice.user_id()).await?;
    until("the knock is answered", || async { Ok((room.state() == RoomState::Invited).then_some(())) }).await?;
    room.join().await?;
    until("the room is joined", || async { Ok((room.state() == RoomState::Joined).then_some(())) }).await?;
    service.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_space_shows_its_rooms_joined_or_not() -> Result<()> {
    let (alice, service) = sliding("alice").await?;
    let creation = assign!(CreationContent::new(), { room_type: Some(RoomType::Space) });
    let request = assign!(CreateRoom::new(), {
        preset: Some(RoomPreset::PublicChat),
        name: Some("Housing".to_owned()),
        creation_content: Some(Raw::new(&creation)?),
    });
    let space_id = alice.client.create_room(request).await?.room_id().to_owned();
    let (bob, mut children) = (Device::of_new("bob").await?, Vec::new());
    for owner in [&alice, &bob] {
        let room_id = room_of_any(owner).await?;
        let via = vec![alice.user_id().server_name().to_owned()];
        alice.is_in(&space_id).await?.send_state_event_for_key(&room_id, SpaceChildEventContent::new(via)).await?;
        children.push(room_id);
    }
    children.sort();
    let spaces = SpaceService::new(alice.client.clone()).await;
    until("the space is among those at the top", || async {
        Ok(spaces.top_level_joined_spaces().await.into_iter().find(|space| space.room_id == space_id))
    })
    .await?;
    let list = spaces.space_room_list(space_id.clone()).await;
    list.paginate().await?;
    let rooms = list.rooms().await;
    let mut found: Vec<_> = rooms.iter().map(|room| room.room_id.clone()).collect();
    found.sort();
    assert_eq!(found, children, "alice's room and bob's");
    assert!(rooms.iter().all(|room| room.num_joined_members == 1));
    service.stop().await;
    Ok(())
}

async fn room_of_any(owner: &Device) -> Result<OwnedRoomId> {
    let request = assign!(CreateRoom::new(), { preset: Some(RoomPreset::PublicChat) });
    Ok(owner.client.create_room(request).await?.room_id().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_shows_an_encrypted_conversation() -> Result<()> {
    let ((alice, alice_sync), (bob, bob_sync)) = (sliding("alice").await?, sliding("bob").await?);
    let room_id = room_of(&alice, &[&bob], Encryption::On).await?;
    for (device, service) in [(&alice, &alice_sync), (&bob, &bob_sync)] {
        service.room_list_service().subscribe_to_rooms(&[&room_id]).await;
        device.is_in(&room_id).await?;
    }
    let hers = alice.room(&room_id)?.timeline().await?;
    let his = bob.room(&room_id)?.timeline().await?;
    hers.send(RoomMessageEventContent::text_plain("hello").into()).await?;
    until_texts(&his, &["hello"]).await?;
    his.send(RoomMessageEventContent::text_plain("hi").into()).await?;
    until_texts(&hers, &["hello", "hi"]).await?;
    until_texts(&his, &["hello", "hi"]).await?;

    // A reaction, an edit and a redaction, each seen by the other side.
    let item = last(&hers).await?;
    hers.toggle_reaction(&item.identifier(), "🎂").await?;
    until("the reaction is there", || async {
        let item = last(&his).await?;
        Ok(item.content().reactions().is_some_and(|r| r.contains_key("🎂")).then_some(()))
    })
    .await?;
    let own = last(&his).await?;
    let edited = RoomMessageEventContent::text_plain("hi!").into();
    his.edit(&own.identifier(), matrix_sdk::room::edit::EditedContent::RoomMessage(edited)).await?;
    until_texts(&hers, &["hello", "hi!"]).await?;
    his.redact(&own.identifier(), None).await?;
    until_texts(&hers, &["hello"]).await?;
    alice_sync.stop().await;
    bob_sync.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_pages_back_to_the_beginning() -> Result<()> {
    let bob = Device::of_new("bob").await?;
    let room_id = room_of(&bob, &[], Encryption::Off).await?;
    let expected: Vec<String> = (0..60).map(|i| i.to_string()).collect();
    let mut last: Option<OwnedEventId> = None;
    for text in &expected {
        last = Some(bob.say(&room_id, text).await?);
    }
    let (alice, service) = sliding("alice").await?;
    alice.client.join_room_by_id(&room_id).await?;
    service.room_list_service().subscribe_to_rooms(&[&room_id]).await;
    let timeline = alice.is_in(&room_id).await?.timeline().await?;
    while !timeline.paginate_backwards(20).await? {}
    let all: Vec<&str> = expected.iter().map(String::as_str).collect();
    until_texts(&timeline, &all).await?;
    timeline
        .send_single_receipt(
            matrix_sdk::ruma::api::client::receipt::create_receipt::v3::ReceiptType::Read,
            last.context("sent")?,
        )
        .await?;
    service.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_while_stopped_comes_on_start() -> Result<()> {
    let (alice, service) = sliding("alice").await?;
    let bob = Device::of_new("bob").await?;
    let room_id = room_of(&bob, &[], Encryption::Off).await?;
    alice.client.join_room_by_id(&room_id).await?;
    alice.is_in(&room_id).await?;
    service.stop().await;
    let missed = bob.say(&room_id, "while you were away").await?;
    tokio::time::timeout(Duration::from_secs(10), service.start()).await?;
    assert_eq!(alice.sees(&missed).await?.body, "while you were away");
    service.stop().await;
    Ok(())
}

/// A phone talks and is set up for recovery; a laptop that knows nothing but the recovery key reads all of it, talks
/// on, and still can after a restart, as can what it writes to.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_session_recovers_talks_on_and_still_can_after_a_restart() -> Result<()> {
    let (phone, phone_sync) = sliding("alice").await?;
    bootstrap_cross_signing(&phone.client).await?;
    let bob = Device::of_new("bob").await?;
    let room_id = room_of(&phone, &[&bob], Encryption::On).await?;
    let (mut said, mut latest) = (Vec::new(), None);
    for i in 0..10 {
        for (who, other) in [(&phone, &bob), (&bob, &phone)] {
            let text = format!("{i} from {}", who.user_id());
            latest = Some(who.say(&room_id, &text).await?);
            other.sees(latest.as_ref().context("just said")?).await?;
            said.push(text);
        }
    }
    let latest = latest.context("twenty were said")?;
    let recovery = phone.client.encryption().recovery();
    let key = recovery.enable().wait_for_backups_to_upload().await?;
    is_recovered(&phone.client).await?;
    phone_sync.stop().await;

    let kept = tempfile::tempdir()?;
    let (laptop, laptop_sync) = syncing(log_in_keeping(phone.user_id(), kept.path()).await?, &[&room_id]).await?;
    let timeline = from_the_beginning(&laptop, &room_id, &latest).await?;
    until("what was said is there, and cannot be read", || async {
        let items = timeline.items().await;
        let unread = items.iter().filter(|i| i.as_event().is_some_and(|e| e.content().is_unable_to_decrypt())).count();
        Ok((unread == said.len()).then_some(()))
    })
    .await?;
    let recovery = laptop.client.encryption().recovery();
    until("it is known that there is something to recover", || async {
        Ok((recovery.state() == RecoveryState::Incomplete).then_some(()))
    })
    .await?;
    assert!(recovery.recover("EsTc wrong wrong wrong").await.is_err(), "another key opens nothing");
    recovery.recover(&key).await?;
    is_recovered(&laptop.client).await?;
    until_texts(&timeline, &strs(&said)).await?;

    timeline.send(RoomMessageEventContent::text_plain("from the laptop").into()).await?;
    said.push("from the laptop".to_owned());
    until_texts(&timeline, &strs(&said)).await?;
    let heard = sent(&timeline, "from the laptop").await?;
    assert_eq!(bob.sees(&heard).await?.body, "from the laptop");

    // The laptop is closed; bob talks on; the laptop starts again with what it kept.
    laptop_sync.stop().await;
    let session = laptop.client.session().context("logged in")?;
    drop((timeline, laptop, laptop_sync));
    let missed = bob.say(&room_id, "while it was closed").await?;
    said.push("while it was closed".to_owned());
    let (laptop, laptop_sync) = syncing(restore(session, kept.path()).await?, &[&room_id]).await?;
    is_recovered(&laptop.client).await?;
    let timeline = from_the_beginning(&laptop, &room_id, &missed).await?;
    until_texts(&timeline, &strs(&said)).await?;
    timeline.send(RoomMessageEventContent::text_plain("I am back").into()).await?;
    said.push("I am back".to_owned());
    until_texts(&timeline, &strs(&said)).await?;
    let heard = sent(&timeline, "I am back").await?;
    assert_eq!(bob.sees(&heard).await?.body, "I am back");

    // The keys of what came since are in the backup as well: a third session gets all from there.
    laptop.client.encryption().backups().wait_for_steady_state().await?;
    laptop_sync.stop().await;
    let (tablet, tablet_sync) = syncing(log_in(laptop.user_id()).await?, &[&room_id]).await?;
    let timeline = from_the_beginning(&tablet, &room_id, &heard).await?;
    tablet.client.encryption().recovery().recover(&key).await?;
    until_texts(&timeline, &strs(&said)).await?;
    tablet_sync.stop().await;
    Ok(())
}

/// Waits until a client has all secrets, uses the backup, and is signed by its owner.
async fn is_recovered(client: &Client) -> Result<()> {
    let encryption = client.encryption();
    until("the client is recovered", || async {
        let all = encryption.recovery().state() == RecoveryState::Enabled
            && encryption.backups().are_enabled().await
            && encryption.cross_signing_status().await.is_some_and(|status| status.is_complete())
            && encryption.get_own_device().await?.is_some_and(|device| device.is_cross_signed_by_owner());
        Ok(all.then_some(()))
    })
    .await
}

/// A room's timeline, back to the beginning, once the sync has brought the latest event.
async fn from_the_beginning(device: &Device, room_id: &RoomId, latest: &EventId) -> Result<Timeline> {
    let timeline = device.is_in(room_id).await?.timeline().await?;
    until("the sync brings the latest event", || async {
        let items = timeline.items().await;
        let mut ids = items.iter().filter_map(|item| item.as_event()?.event_id().map(ToOwned::to_owned));
        Ok(ids.any(|id| id == *latest).then_some(()))
    })
    .await?;
    while !timeline.paginate_backwards(50).await? {}
    Ok(timeline)
}

/// The id of what was sent with this text, once the server has given it one.
async fn sent(timeline: &Timeline, text: &str) -> Result<OwnedEventId> {
    until("the message is sent", || async {
        let items = timeline.items().await;
        let events = items.iter().filter_map(|item| item.as_event());
        let mut said = events.filter(|event| event.content().as_message().is_some_and(|m| m.body() == text));
        Ok(said.find_map(|event| event.event_id().map(ToOwned::to_owned)))
    })
    .await
}

fn strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

async fn last(timeline: &Timeline) -> Result<matrix_sdk_ui::timeline::EventTimelineItem> {
    until("there is a message", || async {
        Ok(timeline
            .items()
            .await
            .iter()
            .rev()
            .filter_map(|i| i.as_event())
            .find(|i| i.content().is_message() && i.event_id().is_some())
            .cloned())
    })
    .await
}
