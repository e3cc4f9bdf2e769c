//! Requests to other servers, over a scripted network.

use std::collections::VecDeque;

use parking_lot::Mutex;
use ruma::{api::federation::discovery::get_server_version, server_name};
use samtal_db::{Db, testing::each_engine};
use samtal_keyring::{SignedRequest, XMatrix};
use samtal_kit::Random;

use super::*;
use crate::LocalFirst;

/// Answers from a list, and keeps what was asked.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Result<Response<Bytes>, NetworkError>>>,
    asked: Mutex<Vec<Request<Bytes>>>,
}

impl Script {
    fn answer(&self, status: u16, body: &'static str) {
        self.answers.lock().push_back(Ok(Response::builder().status(status).body(body.into()).unwrap()));
    }
}

impl Network for Script {
    fn exchange<'a>(
        &'a self,
        _: &'a ServerName,
        request: Request<Bytes>,
        _: Limits,
    ) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
        self.asked.lock().push(request);
        let answer = self.answers.lock().pop_front().unwrap_or(Err(NetworkError::Timeout));
        Box::pin(async move { answer })
    }

    fn get<'a>(&'a self, _: &'a str, _: Limits) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
        Box::pin(async { Err(NetworkError::Timeout) })
    }
}

struct World {
    remote: Remote,
    script: Arc<Script>,
    policy: Policy,
    keyring: Keyring,
    clock: Clock,
}

async fn world(db: Db) -> World {
    let clock = Clock::manual(1_000_000);
    let (random, script, policy) = (Random::seeded(5), Arc::new(Script::default()), Policy::default());
    let us = server_name!("us.example").to_owned();
    let keyring = Keyring::open(db.clone(), clock.clone(), random.clone(), us, vec![]).await.unwrap();
    let destinations = Destinations::open(db, clock.clone(), random).await.unwrap();
    let remote = Remote::new(keyring.clone(), policy.clone(), script.clone(), destinations, clock.clone());
    World { remote, script, policy, keyring, clock }
}

const SCHEMAS: &[samtal_db::Schema] = &[samtal_keyring::SCHEMA, crate::SCHEMA];

#[tokio::test]
async fn note_30_a_request_is_signed_with_its_destination() {
    each_engine(SCHEMAS, |db| async move {
        let World { remote, script, keyring, .. } = world(db).await;
        script.answer(200, r#"{"server":{"name":"Other"}}"#);
        let answer =
            remote.send(server_name!("them.example:1234"), get_server_version::v1::Request::new()).await.unwrap();
        assert_eq!(answer.server.unwrap().name.unwrap(), "Other");
        let asked = script.asked.lock().pop().unwrap();
        assert_eq!(asked.uri(), "/_matrix/federation/v1/version");
        let header = XMatrix::parse(asked.headers()["authorization"].to_str().unwrap()).unwrap();
        assert_eq!(header.destination.as_ref().unwrap(), "them.example:1234");
        let public_key = keyring.own().current().public_key();
        assert!(
            header
                .verify(server_name!("them.example:1234"), &public_key, "GET", "/_matrix/federation/v1/version", "")
                .unwrap()
        );
    })
    .await;
}

#[tokio::test]
async fn errors_say_what_happened() {
    each_engine(SCHEMAS, |db| async move {
        let World { remote, script, policy, .. } = world(db).await;
        let them = server_name!("them.example");
        let send = async || remote.send(them, get_server_version::v1::Request::new()).await.unwrap_err();

        script.answer(403, r#"{"errcode":"M_FORBIDDEN","error":"no"}"#);
        let error = send().await;
        assert_eq!((error.errcode(), error.status()), (Some("M_FORBIDDEN"), Some(StatusCode::FORBIDDEN)));
        script.answer(404, "<html>");
        assert_eq!(send().await.errcode(), Some("M_UNKNOWN"));
        script.answer(200, "<html>");
        assert!(matches!(send().await, RemoteError::Malformed { .. }));
        assert!(matches!(send().await, RemoteError::Timeout(_)));
        script.answers.lock().push_back(Err(NetworkError::DeniedNetwork("them.example".into())));
        assert!(matches!(send().await, RemoteError::Unreachable { .. }));
        policy.replace(samtal_policy::Settings { default: samtal_policy::Unnamed::Closed, ..Default::default() });
        assert!(matches!(send().await, RemoteError::Refused(_)));
    })
    .await;
}

#[tokio::test]
async fn a_silent_server_is_left_alone_until_it_shows_up() {
    each_engine(SCHEMAS, |db| async move {
        let World { remote, script, clock, .. } = world(db).await;
        let them = server_name!("them.example");
        let send = async |options| remote.send_with(them, get_server_version::v1::Request::new(), options).await;

        assert!(matches!(send(Options::background()).await, Err(RemoteError::Timeout(_))));
        assert!(matches!(send(Options::background()).await, Err(RemoteError::BackingOff { .. })));
        assert_eq!(script.asked.lock().len(), 1);
        script.answer(503, "");
        clock.advance(Duration::from_secs(2));
        assert!(matches!(send(Options::background()).await, Err(RemoteError::Status { .. })));
        assert!(
            remote.destinations().failing(them).unwrap().interval_ms > 1000,
            "a gateway's error is no answer of the server"
        );

        script.answer(200, "{}");
        assert!(send(Options::default()).await.is_ok(), "a person does not wait for short silences");
        assert_eq!(remote.destinations().failing(them), None);
    })
    .await;
}

#[tokio::test]
async fn the_tenants_of_a_process_reach_each_other_by_a_call() {
    each_engine(SCHEMAS, |db| async move {
        let World { keyring, policy, clock, remote, .. } = world(db).await;
        let network = LocalFirst::new(Script::default());
        network.insert(
            server_name!("neighbor.example").to_owned(),
            Box::new(|request: Request<Bytes>| {
                let path = request.uri().path().to_owned();
                Box::pin(async move {
                    Response::new(format!(r#"{{"server":{{"name":"{path}"}}}}"#).into()).map(|body: Bytes| body.into())
                })
            }),
        );
        let remote = Remote::new(keyring, policy, Arc::new(network), remote.destinations().clone(), clock);
        let answer =
            remote.send(server_name!("neighbor.example"), get_server_version::v1::Request::new()).await.unwrap();
        assert_eq!(answer.server.unwrap().name.unwrap(), "/_matrix/federation/v1/version");
    })
    .await;
}

#[tokio::test]
async fn keys_of_a_tenant_next_door_verify_its_requests() {
    each_engine(SCHEMAS, |db| async move {
        let World { keyring, script, remote, .. } = world(db).await;
        let seed = samtal_keyring::OwnKey::from_seed("ed25519:k", [3; 32], 0, None).unwrap();
        let theirs = samtal_keyring::OwnKeys::new(vec![seed]).unwrap();
        let them = server_name!("them.example");
        let document = theirs.document(them, 2_000_000);
        script.answers.lock().push_back(Ok(Response::new(document.into())));
        let header =
            XMatrix::sign(them, keyring.server(), theirs.current().pair(), "PUT", "/x", "{}").unwrap().to_string();
        let request = SignedRequest { authorization: &header, method: "PUT", uri: "/x", content: b"{}" };
        assert_eq!(keyring.verify_request(request, &remote).await.unwrap(), "them.example");
        assert!(
            !script.asked.lock()[0].headers().contains_key("authorization"),
            "keys are asked for without a signature"
        );
    })
    .await;
}
