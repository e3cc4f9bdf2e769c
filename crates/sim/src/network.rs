//! The network between the nodes, and its weather.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use samtal_kit::{Random, Tasks};
use samtal_remote::{Limits, Network, NetworkError};
use tower::ServiceExt;

/// How badly requests fare. Probabilities are in thousandths.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Longest delay each way, in ms; delays differ, so requests overtake each other.
    pub delay_ms_max: u64,
    /// How often a request never arrives.
    pub lost: u64,
    /// How often a request is handled but its answer never arrives.
    pub answer_lost: u64,
    /// How often a request arrives twice.
    pub twice: u64,
}

impl Weather {
    /// Everything arrives, soon.
    pub const FAIR: Self = Self { delay_ms_max: 5, lost: 0, answer_lost: 0, twice: 0 };
    /// What a bad day brings.
    pub const FOUL: Self = Self { delay_ms_max: 2_000, lost: 80, answer_lost: 80, twice: 50 };
}

/// How long a node waits for an answer that will not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// All links.
pub(crate) struct Wires {
    routers: Mutex<BTreeMap<OwnedServerName, Router>>,
    cut: Mutex<BTreeSet<(OwnedServerName, OwnedServerName)>>,
    weather: Mutex<Weather>,
    random: Random,
    tasks: Tasks,
    trace: Mutex<Vec<String>>,
}

impl Wires {
    pub(crate) fn new(random: Random) -> Arc<Self> {
        Arc::new(Self {
            routers: Mutex::default(),
            cut: Mutex::default(),
            weather: Mutex::new(Weather::FAIR),
            random,
            tasks: Tasks::new(),
            trace: Mutex::default(),
        })
    }

    /// Makes a node reachable, or lets another take its name.
    pub(crate) fn attach(&self, name: OwnedServerName, router: Router) {
        self.routers.lock().insert(name, router);
    }

    /// Takes a node off the network.
    pub(crate) fn detach(&self, name: &ServerName) {
        self.routers.lock().remove(name);
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        *self.weather.lock() = weather;
    }

    /// Cuts the link between two nodes in both directions.
    pub(crate) fn cut(&self, one: &ServerName, other: &ServerName) {
        let mut cut = self.cut.lock();
        cut.insert((one.to_owned(), other.to_owned()));
        cut.insert((other.to_owned(), one.to_owned()));
    }

    /// Mends all links.
    pub(crate) fn mend(&self) {
        self.cut.lock().clear();
    }

    /// What has been sent, in order: the same for the same seed.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.trace.lock().clone()
    }

    fn chance(&self, thousandths: u64) -> bool {
        self.random.below(1_000) < thousandths
    }

    async fn delay(&self) {
        let most = self.weather.lock().delay_ms_max;
        tokio::time::sleep(Duration::from_millis(1 + self.random.below(most))).await;
    }

    async fn carry(
        self: Arc<Self>,
        from: OwnedServerName,
        to: OwnedServerName,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, NetworkError> {
        let path = request.uri().path().split('/').take(5).collect::<Vec<_>>().join("/");
        self.trace.lock().push(format!("{from} > {to} {} {path} {}", request.method(), request.body().len()));
        let weather = *self.weather.lock();
        self.delay().await;
        if self.cut.lock().contains(&(from, to.clone())) || self.chance(weather.lost) {
            tokio::time::sleep(PATIENCE).await;
            return Err(NetworkError::Timeout);
        }
        let router = self.routers.lock().get(&to).cloned();
        let Some(router) = router else { return Err(NetworkError::Unreachable("nobody is there".into())) };
        if self.chance(weather.twice) {
            let (again, router, wires) = (copy(&request), router.clone(), Arc::clone(&self));
            self.tasks.spawn("duplicate", async move {
                wires.delay().await;
                let _ = ask(router, again).await;
            });
        }
        let answer = ask(router, request).await?;
        if self.chance(weather.answer_lost) {
            tokio::time::sleep(PATIENCE).await;
            return Err(NetworkError::Timeout);
        }
        self.delay().await;
        Ok(answer)
    }
}

fn copy(request: &http::Request<Bytes>) -> http::Request<Bytes> {
    let mut again = http::Request::new(request.body().clone());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    again
}

async fn ask(router: Router, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, NetworkError> {
    let request = request.map(axum::body::Body::from);
    let answer = router.oneshot(request).await.map_err(|never| match never {})?;
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.map_err(|error| NetworkError::Malformed(error.to_string()))?;
    Ok(http::Response::from_parts(parts, body.to_bytes()))
}

/// The network as one node sees it.
pub(crate) struct Link {
    pub(crate) wires: Arc<Wires>,
    pub(crate) from: OwnedServerName,
}

impl Network for Link {
    fn exchange<'a>(
        &'a self,
        destination: &'a ServerName,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> BoxFuture<'a, Result<http::Response<Bytes>, NetworkError>> {
        let carried = Arc::clone(&self.wires).carry(self.from.clone(), destination.to_owned(), request);
        async move { tokio::time::timeout(limits.time, carried).await.map_err(|_| NetworkError::Timeout)? }.boxed()
    }

    fn get<'a>(&'a self, url: &'a str, _limits: Limits) -> BoxFuture<'a, Result<http::Response<Bytes>, NetworkError>> {
        async move { Err(NetworkError::Unresolved(url.to_owned())) }.boxed()
    }
}
