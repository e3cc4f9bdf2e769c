//! A few servers that reach each other by function call.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId, ServerName, UserId,
    events::room::member::MembershipState,
};
use samtal_account::{Client, NewUser};
use samtal_event::Draft;
use samtal_kit::{Clock, Random};
use samtal_ops::{Content, CreateRoom, Homeserver, Settings};
use samtal_remote::{Limits, LocalFirst, Network, NetworkError};
use samtal_room::LocalDraft;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt;

/// Beyond the servers of the test there is nothing, unless a test goes to the web.
pub struct Nowhere(pub Option<samtal_remote::Internet>);

impl Network for Nowhere {
    fn exchange<'a>(
        &'a self,
        to: &'a ServerName,
        _: Request<Bytes>,
        _: Limits,
    ) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
        Box::pin(async move { Err(NetworkError::Unresolved(to.to_string())) })
    }

    fn get<'a>(&'a self, url: &'a str, limits: Limits) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
        match &self.0 {
            Some(web) => web.get(url, limits),
            None => Box::pin(async move { Err(NetworkError::Unresolved(url.to_owned())) }),
        }
    }
}

/// One server.
#[derive(Clone)]
pub struct Node {
    pub hs: Arc<Homeserver>,
    is_up: Arc<AtomicBool>,
    /// Requests whose path holds this text are not answered for now.
    held: watch::Sender<Option<&'static str>>,
    /// What it says otherwise than it is.
    lie: watch::Sender<Option<Lie>>,
}

/// Changes the answer to a request for this path.
pub type Lie = fn(path: &str, answer: &mut Value);

/// All servers.
pub struct World {
    pub network: Arc<LocalFirst<Nowhere>>,
    pub clock: Clock,
    /// The schemas of its servers, if they are on PostgreSQL.
    schemas: Option<parking_lot::Mutex<Vec<samtal_db::Options>>>,
}

/// Runs a test with servers in memory, and with servers on PostgreSQL where there is one.
pub async fn each_engine(test: impl AsyncFn(&World)) {
    test(&World::new()).await;
    if samtal_db::testing::postgres().is_some() {
        let world = World { schemas: Some(parking_lot::Mutex::default()), ..World::new() };
        test(&world).await;
        for schema in world.schemas.map(parking_lot::Mutex::into_inner).unwrap_or_default() {
            samtal_db::testing::drop_schema(&schema).await;
        }
    }
}

impl World {
    pub fn new() -> Self {
        Self::with_web(None)
    }

    /// Servers that can go to the web besides.
    pub fn with_web(web: Option<samtal_remote::Internet>) -> Self {
        Self {
            network: Arc::new(LocalFirst::new(Nowhere(web))),
            clock: Clock::manual(1_700_000_000_000),
            schemas: None,
        }
    }

    /// Adds a server with a user called `user`.
    pub async fn node(&self, name: &str) -> Node {
        self.node_with(name, Settings::default()).await
    }

    pub async fn node_with(&self, name: &str, settings: Settings) -> Node {
        let storage = match (&self.schemas, samtal_db::testing::postgres()) {
            (Some(schemas), Some(storage)) => {
                schemas.lock().push(storage.clone());
                storage
            }
            _ => samtal_db::Options::Memory,
        };
        self.node_on(name, settings, &storage).await
    }

    /// Adds a server, or one more node of it, on this database. Others reach the one that came last.
    pub async fn node_on(&self, name: &str, settings: Settings, storage: &samtal_db::Options) -> Node {
        let name: OwnedServerName = name.try_into().unwrap();
        let settings = Settings {
            encrypted_by_default: samtal_ops::EncryptedByDefault::None,
            presence: true,
            directory: samtal_ops::Directory { over_federation: true, ..settings.directory },
            ..settings
        };
        let random = Random::seeded(name.as_bytes().iter().map(|byte| u64::from(*byte)).sum());
        let network: Arc<dyn Network> = Arc::clone(&self.network) as _;
        let opening = Homeserver::open_with(name.clone(), storage, settings, self.clock.clone(), random, network);
        let hs = Box::pin(opening).await.unwrap();
        let is_up = Arc::new(AtomicBool::new(true));
        let router = samtal_federation_api::router().layer(axum::Extension(Arc::clone(&hs)));
        let up = Arc::clone(&is_up);
        let held = watch::Sender::new(None);
        let lie = watch::Sender::new(None::<Lie>);
        let lying = lie.clone();
        let holding = held.clone();
        self.network.insert(
            name,
            Box::new(move |request: Request<Bytes>| {
                let (router, up, mut holding) = (router.clone(), Arc::clone(&up), holding.subscribe());
                let lie = *lying.borrow();
                Box::pin(async move {
                    let path = request.uri().path().to_owned();
                    let _ = holding.wait_for(|held| held.is_none_or(|part| !path.contains(part))).await;
                    if !up.load(Ordering::SeqCst) {
                        return Response::builder().status(502).body(Bytes::new().into()).unwrap();
                    }
                    let response = router.oneshot(request.map(Body::from)).await.unwrap();
                    let Some(lie) = lie else { return response.map(samtal_remote::Body::from_http) };
                    let (parts, body) = response.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let body = match serde_json::from_slice::<Value>(&body) {
                        Ok(mut answer) => {
                            lie(&path, &mut answer);
                            answer.to_string().into()
                        }
                        Err(_) => body,
                    };
                    Response::from_parts(parts, body.into())
                })
            }),
        );
        let node = Node { hs, is_up, held, lie };
        if node.hs.accounts.user(&node.user()).await.unwrap().is_none() {
            node.hs.accounts.create(NewUser::normal(node.user()), &Client::default()).await.unwrap();
        }
        node
    }
}

impl Node {
    pub fn name(&self) -> &ServerName {
        &self.hs.name
    }

    pub fn user(&self) -> OwnedUserId {
        format!("@user:{}", self.hs.name).try_into().unwrap()
    }

    /// Takes the server off the network, or puts it back.
    pub fn set_up(&self, up: bool) {
        self.is_up.store(up, Ordering::SeqCst);
    }

    /// Lets requests whose path holds this text wait, or (nothing) lets them go on.
    pub fn hold(&self, part: Option<&'static str>) {
        self.held.send_replace(part);
    }

    /// Has answers changed from now on, or (nothing) says how things are.
    pub fn lie(&self, lie: Option<Lie>) {
        self.lie.send_replace(lie);
    }

    pub fn is_partial(&self, room: &OwnedRoomId) -> bool {
        self.hs.rooms.store().partial.is_partial(room)
    }

    pub async fn public_room(&self, version: RoomVersionId) -> OwnedRoomId {
        let mut wish = CreateRoom::new(self.user());
        wish.version = Some(version);
        wish.preset = Some(ruma::api::client::room::create_room::v3::RoomPreset::PublicChat);
        self.hs.create_room(wish).await.unwrap()
    }

    pub async fn private_room(&self, version: RoomVersionId) -> OwnedRoomId {
        let mut wish = CreateRoom::new(self.user());
        wish.version = Some(version);
        self.hs.create_room(wish).await.unwrap()
    }

    pub async fn join(&self, room: &OwnedRoomId, via: &Node) {
        self.hs.join(&self.user(), room, std::slice::from_ref(&via.hs.name), Content::new()).await.unwrap();
    }

    pub async fn say(&self, room: &OwnedRoomId, text: &str) -> OwnedEventId {
        let content = json!({ "msgtype": "m.text", "body": text });
        let draft = Draft::message_of("m.room.message", &content).unwrap();
        self.hs.rooms.send_one(room, LocalDraft::new(self.user(), draft)).await.unwrap()
    }

    pub async fn set_state(&self, room: &OwnedRoomId, event_type: &str, content: Value) -> OwnedEventId {
        let draft = Draft::state_of(&event_type.into(), "", &content).unwrap();
        self.hs.rooms.send_one(room, LocalDraft::new(self.user(), draft)).await.unwrap()
    }

    pub async fn has(&self, event: &OwnedEventId) -> bool {
        self.hs.rooms.store().graph.event(event).await.unwrap().is_some_and(|event| event.is_visible())
    }

    pub async fn membership(&self, user: &UserId, room: &OwnedRoomId) -> MembershipState {
        self.hs.membership(user, room).await.unwrap()
    }

    /// The ids of the current state, once all of it is here.
    pub async fn state(&self, room: &OwnedRoomId) -> BTreeSet<OwnedEventId> {
        tokio::time::timeout(Duration::from_secs(20), self.hs.rooms.until_whole(room)).await.unwrap().unwrap();
        self.state_so_far(room).await
    }

    /// The ids of the current state as far as it is here.
    pub async fn state_so_far(&self, room: &OwnedRoomId) -> BTreeSet<OwnedEventId> {
        let room = self.hs.rooms.room(room).await.unwrap();
        let head = self.hs.rooms.head(&room).await.unwrap();
        let state = self.hs.rooms.store().state(head.snapshot).await.unwrap();
        state.iter().map(|event| event.pdu.event_id().to_owned()).collect()
    }
}

/// Waits until something is so; a test that fails says what it waited for.
pub async fn until<F: AsyncFn() -> bool>(what: &str, is_so: F) {
    for _ in 0..2_000 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain until {what}");
}
