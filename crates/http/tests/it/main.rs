//! A server and a client of ours, over real sockets on the loopback address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, StatusCode, Uri};
use samtal_http::connect::ConnectError;
use samtal_http::{
    AddressPolicy, Certificate, Certificates, Client, ClientError, ClientOptions, FetchLimits, Listener, Network,
    Resolve, Server, ServerOptions, Target,
};
use samtal_kit::{Random, Tasks};
use samtal_telemetry::Metrics;

const LIMITS: FetchLimits = FetchLimits { time: Duration::from_secs(10), bytes_max: 1000 };

struct Running {
    address: SocketAddr,
    tasks: Tasks,
    metrics: Metrics,
}

async fn run(router: Router, certificates: Option<Arc<Certificates>>, options: ServerOptions) -> Running {
    let metrics = Metrics::new();
    let listener = Listener {
        address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        certificates,
        behind_proxy: false,
        router,
    };
    let server = Server::bind(vec![listener], &options, &metrics, &Random::seeded(1)).await.unwrap();
    let address = server.addresses()[0];
    let tasks = Tasks::new();
    server.serve(&tasks).unwrap();
    Running { address, tasks, metrics }
}

fn router() -> Router {
    Router::new()
        .route("/ok", get(|| async { "fine" }))
        .route("/long", get(|| async { "x".repeat(1001) }))
        .route("/never", get(std::future::pending::<()>))
        .route(
            "/panic",
            get(|| async {
                if true {
                    panic!("on purpose")
                }
            }),
        )
        .route("/length", post(|body: Bytes| async move { body.len().to_string() }))
        .route("/moved", get(|| async { (StatusCode::FOUND, [("location", "/ok")]) }))
        .route("/round", get(|| async { (StatusCode::FOUND, [("location", "/round")]) }))
        .route(
            "/host",
            get(|headers: http::HeaderMap, uri: Uri| async move {
                let host = headers.get("host").and_then(|h| h.to_str().ok()).unwrap_or_default().to_owned();
                if host.is_empty() { uri.authority().map(|a| a.to_string()).unwrap_or_default() } else { host }
            }),
        )
}

fn request(method: Method, address: SocketAddr, path: &str, body: &'static str) -> Request<Bytes> {
    Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"))
        .body(Bytes::from_static(body.as_bytes()))
        .unwrap()
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn requests_are_answered_and_counted() {
    let server = run(router(), None, ServerOptions::default()).await;
    let client = Client::new(&ClientOptions::default()).unwrap();
    let answer = client.fetch(request(Method::GET, server.address, "/ok", ""), LIMITS).await.unwrap();
    assert_eq!(text(answer.body()), "fine");
    assert!(answer.headers().contains_key("x-request-id"));
    let answer = client.fetch(request(Method::POST, server.address, "/length", "12345"), LIMITS).await.unwrap();
    assert_eq!(text(answer.body()), "5");
    let counted = server.metrics.render();
    let line = "samtal_http_requests_total{method=\"GET\",route=\"/ok\",status=\"2xx\"} 1";
    assert!(counted.lines().any(|l| l == line), "{counted}");
}

#[tokio::test]
async fn every_answer_has_cors_and_options_needs_no_route() {
    let server = run(router(), None, ServerOptions::default()).await;
    let client = Client::new(&ClientOptions::default()).unwrap();
    for (method, path, status) in [
        (Method::GET, "/ok", 200),
        (Method::GET, "/nothing", 404),
        (Method::GET, "/panic", 500),
        (Method::OPTIONS, "/any", 204),
    ] {
        let answer = client.fetch(request(method, server.address, path, ""), LIMITS).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.headers()["access-control-allow-origin"], "*", "{path}");
        assert!(answer.headers()["access-control-allow-headers"].to_str().unwrap().contains("Authorization"), "{path}");
    }
}

#[tokio::test]
async fn an_answer_is_bounded_in_size_and_time() {
    let server = run(router(), None, ServerOptions::default()).await;
    let client = Client::new(&ClientOptions::default()).unwrap();
    let long = client.fetch(request(Method::GET, server.address, "/long", ""), LIMITS).await;
    assert!(matches!(long, Err(ClientError::Body(_))), "{long:?}");
    let hurried = FetchLimits { time: Duration::from_millis(50), ..LIMITS };
    let never = client.fetch(request(Method::GET, server.address, "/never", ""), hurried).await;
    assert!(matches!(never, Err(ClientError::TimedOut(_))), "{never:?}");
}

#[tokio::test]
async fn a_denied_network_is_not_connected_to_by_name_or_number() {
    let server = run(router(), None, ServerOptions::default()).await;
    let denied = ["127.0.0.0/8", "::1/128"].map(|n| {
        let (address, bits) = n.split_once('/').unwrap();
        Network { address: address.parse().unwrap(), prefix_bits: bits.parse().unwrap() }
    });
    let options = ClientOptions { policy: AddressPolicy::denying(denied.to_vec()), ..ClientOptions::default() };
    let client = Client::new(&options).unwrap();
    for host in ["127.0.0.1", "localhost"] {
        let uri = format!("http://{host}:{}/ok", server.address.port());
        let refused = client.fetch(Request::get(uri).body(Bytes::new()).unwrap(), LIMITS).await;
        assert!(refused.as_ref().is_err_and(ClientError::is_denied), "{refused:?}");
    }
}

#[tokio::test]
async fn redirects_are_followed_so_far_and_no_further() {
    let server = run(router(), None, ServerOptions::default()).await;
    let client = Client::new(&ClientOptions::default()).unwrap();
    let at = |path| format!("http://{}{path}", server.address).parse::<Uri>().unwrap();
    let (answer, end) = client.get_following(at("/moved"), LIMITS, 3).await.unwrap();
    assert_eq!((text(answer.body()), end.path()), ("fine", "/ok"));
    assert!(matches!(client.get_following(at("/round"), LIMITS, 3).await, Err(ClientError::Redirect)));
}

#[tokio::test]
async fn too_many_requests_at_once_are_refused() {
    let server = run(router(), None, ServerOptions { requests_max: 0, ..ServerOptions::default() }).await;
    let client = Client::new(&ClientOptions::default()).unwrap();
    let answer = client.fetch(request(Method::GET, server.address, "/ok", ""), LIMITS).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn running_requests_are_answered_before_the_end() {
    let (enter, entered) = tokio::sync::oneshot::channel();
    let (leave, left) = tokio::sync::oneshot::channel::<()>();
    let gates = Arc::new(std::sync::Mutex::new(Some((enter, left))));
    let router = Router::new().route(
        "/slow",
        get(move || {
            let gates = gates.clone();
            async move {
                let gates = gates.lock().unwrap().take();
                if let Some((enter, left)) = gates {
                    let _ = enter.send(());
                    let _ = left.await;
                }
                "done"
            }
        }),
    );
    let server = run(router, None, ServerOptions::default()).await;
    let client = Client::new(&ClientOptions::default()).unwrap();
    let slow =
        tokio::spawn(async move { client.fetch(request(Method::GET, server.address, "/slow", ""), LIMITS).await });
    entered.await.unwrap();
    let tasks = server.tasks.clone();
    let end = tokio::spawn(async move { tasks.shut_down(Duration::from_secs(10)).await });
    server.tasks.stopping().await;
    leave.send(()).unwrap();
    assert_eq!(text(slow.await.unwrap().unwrap().body()), "done");
    assert_eq!(end.await.unwrap(), 0);
}

fn certificate(dir: &std::path::Path, name: &str) -> Certificate {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let files =
        Certificate { certificate: dir.join(format!("{name}.crt")), private_key: dir.join(format!("{name}.key")) };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.private_key, made.signing_key.serialize_pem()).unwrap();
    files
}

/// Everything is at one address; TLS expects the URI's host.
struct Here(SocketAddr);

impl Resolve for Here {
    fn resolve<'a>(&'a self, uri: &'a Uri) -> BoxFuture<'a, Result<Vec<Target>, ConnectError>> {
        let host = uri.host().unwrap_or_default().to_owned();
        let target = Target { host: self.0.ip().to_string(), port: self.0.port(), tls_name: Some(host) };
        Box::pin(std::future::ready(Ok(vec![target])))
    }
}

#[tokio::test]
async fn host_address_and_certificate_name_may_differ_and_certificates_change_live() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (certificate(dir.path(), "one.example"), certificate(dir.path(), "two.example"));
    let certificates = Certificates::load(std::slice::from_ref(&one)).unwrap();
    let server = run(router(), Some(certificates.clone()), ServerOptions::default()).await;
    let options = ClientOptions {
        trusted_certificates: vec![one.certificate.clone(), two.certificate.clone()],
        ..ClientOptions::default()
    };
    let client = Client::with_resolver(&options, Arc::new(Here(server.address))).unwrap();
    let get = |host: &str| {
        let request = Request::get(format!("https://{host}/host")).body(Bytes::new()).unwrap();
        client.fetch(request, LIMITS)
    };
    let answer = get("one.example").await.unwrap();
    assert_eq!((text(answer.body()), answer.version()), ("one.example", http::Version::HTTP_2));
    let wrong = get("two.example").await;
    assert!(matches!(wrong, Err(ClientError::Connect(ConnectError::Tls { .. }))), "{wrong:?}");
    certificates.reload(&[two]).unwrap();
    assert_eq!(text(get("two.example").await.unwrap().body()), "two.example");
    assert!(certificates.reload(&[Certificate { certificate: "nowhere".into(), ..one }]).is_err());
    assert_eq!(text(get("two.example:1").await.unwrap().body()), "two.example:1");
}

#[tokio::test]
async fn an_unknown_authority_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::load(&[certificate(dir.path(), "one.example")]).unwrap();
    let server = run(router(), Some(certificates), ServerOptions::default()).await;
    let client = Client::with_resolver(&ClientOptions::default(), Arc::new(Here(server.address))).unwrap();
    let request = Request::get("https://one.example/ok").body(Bytes::new()).unwrap();
    let refused = client.fetch(request, LIMITS).await;
    assert!(matches!(refused, Err(ClientError::Connect(ConnectError::Tls { .. }))), "{refused:?}");
}

#[tokio::test]
async fn a_listed_certificate_that_names_nobody_is_believed_and_an_unlisted_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let nameless = |file: &str| {
        let made = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
        let path = |ending: &str| dir.path().join(format!("{file}.{ending}"));
        let files = Certificate { certificate: path("crt"), private_key: path("key") };
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.private_key, made.signing_key.serialize_pem()).unwrap();
        files
    };
    let (own, other) = (nameless("own"), nameless("other"));
    let server =
        run(router(), Some(Certificates::load(std::slice::from_ref(&own)).unwrap()), ServerOptions::default()).await;
    for (listed, is_believed) in [(own, true), (other, false)] {
        let options = ClientOptions { trusted_certificates: vec![listed.certificate], ..ClientOptions::default() };
        let client = Client::with_resolver(&options, Arc::new(Here(server.address))).unwrap();
        let request = Request::get("https://any.example/ok").body(Bytes::new()).unwrap();
        let answer = client.fetch(request, LIMITS).await;
        assert_eq!(answer.is_ok(), is_believed, "{answer:?}");
    }
}

#[tokio::test]
async fn each_host_has_its_own_certificate_on_one_listener() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = ["one.example", "two.example", "three.example"];
    let files = hosts.map(|host| certificate(dir.path(), host));
    let certificates = Certificates::load(&files).unwrap();
    let server = run(router(), Some(certificates.clone()), ServerOptions::default()).await;
    let trusted = files.iter().map(|files| files.certificate.clone()).collect();
    let options = ClientOptions { trusted_certificates: trusted, ..ClientOptions::default() };
    let client = Client::with_resolver(&options, Arc::new(Here(server.address))).unwrap();
    let get = |host: &str| {
        let request = Request::get(format!("https://{host}/ok")).body(Bytes::new()).unwrap();
        client.fetch(request, LIMITS)
    };
    for host in hosts {
        assert_eq!(text(get(host).await.unwrap().body()), "fine", "{host}");
    }
    // A host that nobody is gets the first one's, and sees that it is not meant.
    assert!(matches!(get("four.example").await, Err(ClientError::Connect(ConnectError::Tls { .. }))));
    let four = certificate(dir.path(), "four.example");
    certificates.reload(&[files[0].clone(), four.clone()]).unwrap();
    let options = ClientOptions { trusted_certificates: vec![four.certificate], ..ClientOptions::default() };
    let client = Client::with_resolver(&options, Arc::new(Here(server.address))).unwrap();
    let request = Request::get("https://four.example/ok").body(Bytes::new()).unwrap();
    assert_eq!(text(client.fetch(request, LIMITS).await.unwrap().body()), "fine");
}

/// A proxy that notes what it is asked for, and connects to one place whatever that is.
async fn proxy(to: SocketAddr, answer: &'static str) -> (SocketAddr, Arc<parking_lot::Mutex<Vec<String>>>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked: Arc<parking_lot::Mutex<Vec<String>>> = Arc::default();
    let noted = asked.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let noted = noted.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                noted.lock().push(String::from_utf8(request).unwrap());
                stream.write_all(answer.as_bytes()).await.unwrap();
                if answer.contains(" 200 ") {
                    let mut beyond = tokio::net::TcpStream::connect(to).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut beyond).await;
                }
            });
        }
    });
    (address, asked)
}

#[tokio::test]
async fn a_proxy_carries_tls_that_it_cannot_read() {
    let dir = tempfile::tempdir().unwrap();
    let files = certificate(dir.path(), "one.example");
    let server =
        run(router(), Some(Certificates::load(std::slice::from_ref(&files)).unwrap()), ServerOptions::default()).await;
    let (through, asked) = proxy(server.address, "HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n").await;
    let loopback = Network { address: "127.0.0.0".parse().unwrap(), prefix_bits: 8 };
    let options = ClientOptions {
        trusted_certificates: vec![files.certificate],
        // The operator's own proxy may be anywhere; what a name leads to is the proxy's to judge, an address is ours.
        policy: AddressPolicy::denying(vec![loopback]),
        proxy: Some(format!("http://me:secret@{through}").parse().unwrap()),
        ..ClientOptions::default()
    };
    let client = Client::new(&options).unwrap();
    let request = Request::get("https://one.example:8448/ok").body(Bytes::new()).unwrap();
    assert_eq!(text(client.fetch(request, LIMITS).await.unwrap().body()), "fine");
    let said = asked.lock().first().cloned().unwrap();
    assert!(said.starts_with("CONNECT one.example:8448 HTTP/1.1\r\nHost: one.example:8448\r\n"), "{said}");
    assert!(said.contains("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n"), "{said}");
    let request = Request::get("https://127.0.0.1:8448/ok").body(Bytes::new()).unwrap();
    assert!(client.fetch(request, LIMITS).await.unwrap_err().is_denied());

    let (refusing, _) = proxy(server.address, "HTTP/1.1 403 Forbidden\r\n\r\n").await;
    let proxy = Some(format!("http://{refusing}").parse().unwrap());
    let client = Client::new(&ClientOptions { proxy, ..ClientOptions::default() }).unwrap();
    let request = Request::get("https://one.example/ok").body(Bytes::new()).unwrap();
    let refused = client.fetch(request, LIMITS).await.unwrap_err();
    assert!(matches!(refused, ClientError::Connect(ConnectError::Proxy { .. })), "{refused}");
}

#[tokio::test]
async fn who_asks_for_our_certificate_is_shown_it() {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let dir = tempfile::tempdir().unwrap();
    let (theirs, ours) = (certificate(dir.path(), "one.example"), certificate(dir.path(), "us.example"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&ours.certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&theirs.certificate).unwrap()],
            PrivateKeyDer::from_pem_file(&theirs.private_key).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nknown").await;
        }
    });
    let get = async |own: Option<Certificate>| {
        let options = ClientOptions {
            trusted_certificates: vec![theirs.certificate.clone()],
            certificate: own,
            ..ClientOptions::default()
        };
        let client = Client::with_resolver(&options, Arc::new(Here(address))).unwrap();
        let request = Request::get("https://one.example/ok").body(Bytes::new()).unwrap();
        client.fetch(request, LIMITS).await
    };
    assert_eq!(text(get(Some(ours)).await.unwrap().body()), "known");
    assert!(get(None).await.is_err());
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off_and_one_that_drips_is_given_up() {
    let endless = || async {
        let chunks = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 100])));
        axum::body::Body::from_stream(chunks)
    };
    let dripping = || async {
        let chunks = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), ()))
        });
        axum::body::Body::from_stream(chunks)
    };
    let router = Router::new().route("/endless", get(endless)).route("/dripping", get(dripping));
    let server = run(router, None, ServerOptions::default()).await;
    let client = Client::new(&ClientOptions::default()).unwrap();
    let endless = client.fetch(request(Method::GET, server.address, "/endless", ""), LIMITS).await;
    assert!(matches!(endless, Err(ClientError::Body(samtal_http::BodyError::TooLarge { max: 1000 }))), "{endless:?}");
    let limits = FetchLimits { time: Duration::from_millis(200), ..LIMITS };
    let dripping = client.fetch(request(Method::GET, server.address, "/dripping", ""), limits).await;
    assert!(matches!(dripping, Err(ClientError::TimedOut(_))), "{dripping:?}");
}

#[tokio::test]
async fn who_posts_slowly_or_without_end_is_cut_off_and_others_are_served() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let options = ServerOptions {
        header_read: Duration::from_millis(200),
        idle: Duration::from_millis(200),
        body_read: Duration::from_millis(200),
        ..ServerOptions::default()
    };
    let limited = |body: axum::body::Body| async move {
        samtal_http::collect(body, 10_000).await.map(|body| body.len().to_string()).map_err(|_| StatusCode::BAD_REQUEST)
    };
    let router = Router::new().route("/length", post(limited)).route("/ok", get(|| async { "fine" }));
    let server = run(router, None, options).await;
    let until_closed = async |begin: &[u8], more: &[u8]| {
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begin).await.unwrap();
        let (mut reading, mut writing) = stream.into_split();
        let more = more.to_vec();
        let feeding = tokio::spawn(async move { while !more.is_empty() && writing.write_all(&more).await.is_ok() {} });
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), reading.read_to_end(&mut answer)).await;
        feeding.abort();
        assert!(read.is_ok(), "the connection is closed");
        String::from_utf8_lossy(&answer).into_owned()
    };
    // Half a request's headers; a body that does not come; a body without end.
    until_closed(b"POST /length HTTP/1.1\r\nHost: a\r\nX-", b"").await;
    let slow = b"POST /length HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 100\r\n\r\nx";
    assert!(until_closed(slow, b"").await.starts_with("HTTP/1.1 400"));
    let endless = b"POST /length HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = [b"400\r\n".as_slice(), &[b'x'; 0x400], b"\r\n"].concat();
    let answer = until_closed(endless, &chunk).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    let client = Client::new(&ClientOptions::default()).unwrap();
    let answer = client.fetch(request(Method::GET, server.address, "/ok", ""), LIMITS).await.unwrap();
    assert_eq!(text(answer.body()), "fine");
}

#[tokio::test]
async fn a_connection_outlives_the_pauses_of_who_uses_it_and_is_closed_when_nobody_does() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let options = ServerOptions { header_read: Duration::from_millis(100), ..ServerOptions::default() };
    let router = Router::new().route("/ok", get(|| async { "fine" }));
    let patient = run(router.clone(), None, options.clone()).await;
    let mut stream = tokio::net::TcpStream::connect(patient.address).await.unwrap();
    let mut answer = [0; 1024];
    for _ in 0..3 {
        stream.write_all(b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].ends_with(b"fine"));
        // A pause that a new connection is not granted.
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let mut silent = tokio::net::TcpStream::connect(patient.address).await.unwrap();
    assert_eq!(silent.read(&mut answer).await.unwrap(), 0, "nothing was asked, and it is closed");
    let brief = run(router, None, ServerOptions { idle: Duration::from_millis(100), ..options }).await;
    let mut stream = tokio::net::TcpStream::connect(brief.address).await.unwrap();
    stream.write_all(b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert!(all.ends_with(b"fine"), "answered, and then closed without an error");
}

#[tokio::test]
async fn a_redirect_into_a_denied_network_is_not_followed() {
    let inner = run(router(), None, ServerOptions::default()).await;
    // The same machine by another number, which is denied.
    let location = format!("http://127.0.0.2:{}/ok", inner.address.port());
    let outer = Router::new().route("/", get(|| async move { (StatusCode::FOUND, [("location", location)]) }));
    let outer = run(outer, None, ServerOptions::default()).await;
    let denied = Network { address: "127.0.0.2".parse().unwrap(), prefix_bits: 32 };
    let options = ClientOptions { policy: AddressPolicy::denying(vec![denied]), ..ClientOptions::default() };
    let client = Client::new(&options).unwrap();
    let uri: Uri = format!("http://{}/", outer.address).parse().unwrap();
    let refused = client.get_following(uri, LIMITS, 5).await.unwrap_err();
    assert!(refused.is_denied(), "{refused}");
}

#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let options = ServerOptions { connections_each_max: 2, bounds_loopback: true, ..ServerOptions::default() };
    let server = run(router(), None, options).await;
    let ask = async || {
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let mut answer = [0; 1024];
        // One that is refused may be closed before or after it asks.
        let _ = stream.write_all(b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let read = stream.read(&mut answer).await.unwrap_or(0);
        answer[..read].ends_with(b"fine").then_some(stream)
    };
    let (first, second) = (ask().await, ask().await);
    assert!(first.is_some() && second.is_some());
    assert!(ask().await.is_none());
    drop(first);
    tokio::time::timeout(Duration::from_secs(60), async {
        while ask().await.is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("who goes makes room for the next");
    drop(second);
}

#[tokio::test]
async fn who_asks_and_takes_back_without_end_is_sent_away_and_others_are_served() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let server = run(router(), None, ServerOptions::default()).await;
    let (mut reading, mut writing) = tokio::net::TcpStream::connect(server.address).await.unwrap().into_split();
    let flood = tokio::spawn(async move {
        let mut written =
            writing.write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat()).await;
        let mut stream = 1;
        while written.is_ok() {
            let mut pairs = Vec::new();
            for _ in 0..500 {
                // GET, http, "/", and a host: HEADERS, which end both, and RST_STREAM with CANCEL.
                pairs.extend(frame(1, 0x5, stream, &[0x82, 0x86, 0x84, 0x41, 1, b'a']));
                pairs.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
                stream += 2;
            }
            written = writing.write_all(&pairs).await;
        }
    });
    let mut told = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(60), async {
        let mut part = [0; 4096];
        while let Ok(read @ 1..) = reading.read(&mut part).await {
            told.extend_from_slice(&part[..read]);
        }
        flood.await.unwrap();
    });
    let client = Client::new(&ClientOptions::default()).unwrap();
    let answer = client.fetch(request(Method::GET, server.address, "/ok", ""), LIMITS).await.unwrap();
    assert_eq!(text(answer.body()), "fine");
    closed.await.expect("the connection is ended");
    let answer = client.fetch(request(Method::GET, server.address, "/ok", ""), LIMITS).await.unwrap();
    assert_eq!(text(answer.body()), "fine");
}
