//! Mail addresses: registering with one, adding one, logging in and getting a new password with it.

use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, channel};

use crate::{
    harness::{Answer, Node, PASSWORD, Person, each_engine, each_engine_with, settings},
    mail_server,
};

/// A mail server that takes everything, and gives the links in the mails.
async fn mail_server() -> (samtal_ops::Mail, Receiver<(String, String)>) {
    let (mail, mut texts) = mail_server::start().await;
    let (sender, links) = channel(16);
    #[expect(clippy::disallowed_methods, reason = "a server beside the house")]
    tokio::spawn(async move {
        while let Some((to, text)) = texts.recv().await {
            let link = text.split_whitespace().find(|word| word.starts_with("https://")).unwrap_or_default();
            let _ = sender.send((to, link.to_owned())).await;
        }
    });
    (mail, links)
}

async fn each_engine_with_mail(test: impl AsyncFn(Node, Receiver<(String, String)>)) {
    let (mail, links) = mail_server().await;
    let links = std::cell::RefCell::new(Some(links));
    let mut settings = settings();
    settings.public_base_url = Some("https://samtal.test".into());
    // One engine: what the database does with addresses is the account engine's, tested on both below.
    settings.mail = Some(mail);
    let directory = samtal_db::testing::Directory::new();
    let node = Node::open(&samtal_db::testing::sqlite(&directory), settings).await;
    let links = links.borrow_mut().take().unwrap();
    test(node, links).await;
}

async fn request(node: &Node, path: &str, email: &str, attempt: u32) -> Answer {
    let body = json!({ "client_secret": "monkeys.are-fun", "email": email, "send_attempt": attempt });
    node.post(path, body).await
}

async fn follow(node: &Node, link: &str) -> Answer {
    node.get(link.strip_prefix("https://samtal.test").unwrap()).await
}

fn credentials(sid: &Value) -> Value {
    json!({ "sid": sid, "client_secret": "monkeys.are-fun" })
}

#[tokio::test]
async fn an_address_registers_logs_in_and_gets_a_new_password() {
    each_engine_with_mail(async |node, mut links| {
        let body = json!({ "username": "alice", "password": PASSWORD });
        let asked = node.post("/v3/register", body.clone()).await.expect(401);
        assert_eq!(asked["flows"], json!([{ "stages": ["m.login.dummy"] }, { "stages": ["m.login.email.identity"] }]));
        let path = "/v3/register/email/requestToken";
        let sid = request(&node, path, "Alice@Example.ORG", 1).await.ok()["sid"].clone();
        let (to, link) = links.recv().await.unwrap();
        assert_eq!(to, "alice@example.org");
        // The same attempt once more sends nothing.
        assert_eq!(request(&node, path, "alice@example.org", 1).await.ok()["sid"], sid);
        let mut body = body;
        body["auth"] = json!({
            "type": "m.login.email.identity",
            "session": asked["session"],
            "threepid_creds": credentials(&sid),
        });
        node.post("/v3/register", body.clone()).await.refused(401, "M_FORBIDDEN");
        assert_eq!(follow(&node, &link.replace("token=", "token=x")).await.status, 400);
        assert_eq!(follow(&node, &link).await.status, 200);
        let alice = Person::of(&node.post("/v3/register", body).await.ok());
        let known = node.get_as(&alice, "/v3/account/3pid").await.ok();
        assert_eq!(known["threepids"][0]["address"], "alice@example.org");
        request(&node, path, "alice@example.org", 2).await.refused(400, "M_THREEPID_IN_USE");

        let by_mail = json!({ "type": "m.id.thirdparty", "medium": "email", "address": "ALICE@example.org" });
        node.log_in(&alice, json!({ "identifier": by_mail })).await.ok();

        let path = "/v3/account/password/email/requestToken";
        request(&node, path, "bob@example.org", 1).await.refused(400, "M_THREEPID_NOT_FOUND");
        let sid = request(&node, path, "alice@example.org", 1).await.ok()["sid"].clone();
        let (_, link) = links.recv().await.unwrap();
        let reset = json!({
            "new_password": "another good one",
            "auth": { "type": "m.login.email.identity", "threepid_creds": credentials(&sid) },
        });
        // A program that looks into the mail follows the link, and nothing is proven by it.
        assert_eq!(follow(&node, &link).await.status, 200);
        node.post("/v3/account/password", reset.clone()).await.refused(401, "M_FORBIDDEN");
        let (path, form) = link.strip_prefix("https://samtal.test").unwrap().split_once('?').unwrap();
        assert_eq!(node.bytes(http::Method::POST, path, None, form.to_owned()).await.status, 200);
        node.post("/v3/account/password", reset).await.ok();
        node.get_as(&alice, "/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        node.log_in(&alice, json!({ "password": "another good one" })).await.ok();
    })
    .await;
}

#[tokio::test]
async fn an_address_is_added_by_who_shows_it_and_the_password_and_is_one_users() {
    each_engine_with_mail(async |node, mut links| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let path = "/v3/account/3pid/email/requestToken";
        let sid = request(&node, path, "a@example.org", 1).await.ok()["sid"].clone();
        let (_, link) = links.recv().await.unwrap();
        let add = async |who: &Person| {
            let asked = node.post_as(who, "/v3/account/3pid/add", credentials(&sid)).await.expect(401);
            let mut body = credentials(&sid);
            body["auth"] = who.auth(&asked["session"]);
            node.post_as(who, "/v3/account/3pid/add", body).await
        };
        add(&alice).await.refused(400, "M_THREEPID_AUTH_FAILED");
        follow(&node, &link).await;
        add(&alice).await.ok();
        add(&bob).await.refused(400, "M_THREEPID_IN_USE");
        let gone = json!({ "medium": "email", "address": "A@example.org" });
        node.post_as(&bob, "/v3/account/3pid/delete", gone.clone()).await.ok();
        assert_eq!(node.get_as(&alice, "/v3/account/3pid").await.ok()["threepids"].as_array().unwrap().len(), 1);
        let answer = node.post_as(&alice, "/v3/account/3pid/delete", gone).await.ok();
        assert_eq!(answer, json!({ "id_server_unbind_result": "no-support" }));
        assert_eq!(node.get_as(&alice, "/v3/account/3pid").await.ok(), json!({ "threepids": [] }));
        for email in ["", "a", "@", "a@", "a b@c", "a@b@c"] {
            request(&node, path, email, 1).await.refused(400, "M_INVALID_PARAM");
        }
    })
    .await;
}

#[tokio::test]
async fn a_validation_is_for_one_purpose_and_one_day() {
    use samtal_account::Purpose;
    each_engine(async |node| {
        let accounts = &node.hs.accounts;
        let begin =
            async |attempt| accounts.begin_validation("a@b.c", "secret", attempt, Purpose::Add, None).await.unwrap();
        let begun = begin(1).await;
        let token = begun.token.clone().unwrap();
        assert_eq!(begin(1).await.token, None);
        assert_eq!(begin(2).await, begun);
        assert_eq!(accounts.validate(&begun.sid, "other", &token).await.unwrap(), None);
        let validated = async |purpose| accounts.validated_address(&begun.sid, "secret", purpose).await.unwrap();
        assert_eq!(validated(Purpose::Add).await, None);
        assert_eq!(accounts.validate(&begun.sid, "secret", &token).await.unwrap(), Some(None));
        assert_eq!(validated(Purpose::Add).await.as_deref(), Some("a@b.c"));
        assert_eq!(validated(Purpose::Password).await, None);
        node.clock.advance(std::time::Duration::from_secs(24 * 3_600));
        assert_eq!(validated(Purpose::Add).await, None);
        assert_ne!(begin(1).await.sid, begun.sid);
    })
    .await;
}

#[tokio::test]
async fn without_a_mail_server_no_address_can_be_shown() {
    each_engine(async |node| {
        request(&node, "/v3/register/email/requestToken", "a@b.c", 1).await.refused(403, "M_THREEPID_DENIED");
        let alice = node.somebody().await;
        let all = node.get_as(&alice, "/v3/capabilities").await.ok();
        assert_eq!(all["capabilities"]["m.3pid_changes"]["enabled"], false);
    })
    .await;
}

#[tokio::test]
async fn a_stage_that_a_client_does_not_know_has_a_page() {
    let mut with_terms = settings();
    let url = "https://samtal.test/<terms>".to_owned();
    with_terms.accounts.terms = Some(samtal_account::Terms { version: "1".into(), name: "Terms".into(), url });
    each_engine_with(with_terms, async |node| {
        let body = json!({ "username": "alice", "password": PASSWORD });
        let asked = node.post("/v3/register", body.clone()).await.expect(401);
        let session = asked["session"].as_str().unwrap();
        let path = "/v3/auth/m.login.terms/fallback/web";
        let shown = node.get(&format!("{path}?session={session}")).await;
        assert_eq!(shown.status, 200);
        assert!(shown.headers.get("content-security-policy").unwrap().to_str().unwrap().contains("default-src 'none'"));
        assert_eq!(node.get(&format!("{path}?session=nothing")).await.status, 400);
        node.get("/v3/auth/m.login.magic/fallback/web?session=x").await;
        let sent = node.bytes(http::Method::POST, path, None, format!("session={session}")).await;
        assert_eq!(sent.status, 200);
        let mut body = body;
        body["auth"] = json!({ "session": session });
        node.post("/v3/register", body).await.ok();
    })
    .await;
}
