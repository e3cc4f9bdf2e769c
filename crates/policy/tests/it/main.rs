//! The stored rules, on both engines: what is stored is in force at once, on every node, and survives.

use ruma::{ServerName, server_name};
use samtal_db::{Db, testing::each_engine};
use samtal_kit::{Clock, Tasks};
use samtal_policy::{
    Action, Decision, Direction, Effect, Pattern, Policy, Question, RuleError, Rulebook, SCHEMA, ServerRule, Setting,
    Settings, Unnamed, Which,
};

/// One node of a tenant.
struct Node {
    policy: Policy,
    rulebook: Rulebook,
}

impl Node {
    async fn new(db: &Db, clock: &Clock) -> Self {
        let policy = Policy::new(Settings::default());
        let rulebook = Rulebook::open(db.clone(), clock.clone(), policy.clone()).await.unwrap();
        Self { policy, rulebook }
    }

    fn lets_in(&self, server: &ServerName) -> bool {
        self.policy.review(&Question::new(server, Direction::Inbound, Action::Query)) == Decision::Allow
    }
}

fn clock() -> Clock {
    Clock::manual(1_700_000_000_000)
}

#[tokio::test]
async fn a_rule_is_in_force_at_once_and_after_a_restart_until_it_is_removed() {
    each_engine(&[SCHEMA], async |db| {
        let (node, evil) = (Node::new(&db, &clock()).await, server_name!("mx.evil.example"));
        assert!(node.lets_in(evil));
        node.rulebook.put(Effect::Deny, &ServerRule::new("*.evil.example", "spam")).await.unwrap();
        assert!(!node.lets_in(evil));
        let again = Node::new(&db, &clock()).await;
        assert!(!again.lets_in(evil));
        assert_eq!(again.rulebook.stored(), node.rulebook.stored());
        // The same servers the other way takes the place of the first.
        again.rulebook.put(Effect::Allow, &ServerRule::new("*.Evil.example", "")).await.unwrap();
        assert!(again.lets_in(evil));
        assert_eq!(again.rulebook.stored().rules.len(), 1);
        assert_eq!(again.rulebook.remove(&Pattern::new("*.evil.example"), Which::All).await.unwrap(), 1);
        assert_eq!(again.rulebook.remove(&Pattern::new("*.evil.example"), Which::All).await.unwrap(), 0);
        assert!(again.rulebook.stored().rules.is_empty());
    })
    .await;
}

#[tokio::test]
async fn rules_for_a_direction_and_a_kind_are_kept_apart() {
    each_engine(&[SCHEMA], async |db| {
        let node = Node::new(&db, &clock()).await;
        let rule = |direction, action| ServerRule { direction, action, ..ServerRule::new("a.example", "") };
        for (direction, action) in [
            (None, None),
            (Some(Direction::Inbound), None),
            (None, Some(Action::Media)),
            (Some(Direction::Outbound), Some(Action::Media)),
        ] {
            node.rulebook.put(Effect::Deny, &rule(direction, action)).await.unwrap();
        }
        assert_eq!(node.rulebook.stored().rules.len(), 4);
        let which = Which::One(Some(Direction::Outbound), Some(Action::Media));
        assert_eq!(node.rulebook.remove(&Pattern::new("a.example"), which).await.unwrap(), 1);
        assert_eq!(node.rulebook.remove(&Pattern::new("a.example"), Which::All).await.unwrap(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_stored_default_goes_before_the_files_until_it_is_taken_back() {
    each_engine(&[SCHEMA], async |db| {
        let (node, server) = (Node::new(&db, &clock()).await, server_name!("a.example"));
        let default = |unnamed| [Setting::Default { direction: Direction::Inbound, unnamed }];
        node.rulebook.set(&default(Some(Unnamed::Closed))).await.unwrap();
        assert!(!node.lets_in(server), "closed, and nobody is named");
        assert!(!Node::new(&db, &clock()).await.lets_in(server));
        node.rulebook.put(Effect::Allow, &ServerRule::new("a.example", "")).await.unwrap();
        assert!(node.lets_in(server) && !node.lets_in(server_name!("b.example")));
        node.rulebook.set(&default(None)).await.unwrap();
        assert!(node.lets_in(server_name!("b.example")));
        node.rulebook.set(&[Setting::EncryptedOnly(Some(true))]).await.unwrap();
        assert!(node.policy.encrypted_only() && Node::new(&db, &clock()).await.policy.encrypted_only());
    })
    .await;
}

#[tokio::test]
async fn what_could_name_no_server_is_not_stored() {
    each_engine(&[SCHEMA], async |db| {
        let node = Node::new(&db, &clock()).await;
        for pattern in ["", "a b", "a.example:8448", "https://a.example/", "ä.example", &"a".repeat(300)] {
            let refused = node.rulebook.put(Effect::Deny, &ServerRule::new(pattern, "")).await;
            assert!(matches!(refused, Err(RuleError::Pattern(_))), "{pattern}");
        }
        let long = ServerRule::new("a.example", &"x".repeat(2_000));
        assert!(matches!(node.rulebook.put(Effect::Deny, &long).await, Err(RuleError::Reason)));
        for pattern in ["*", "a?.example", "192.0.2.*", "[2001:db8::1]"] {
            node.rulebook.put(Effect::Deny, &ServerRule::new(pattern, "")).await.unwrap();
        }
        assert!(!node.lets_in(server_name!("[2001:db8::1]:8448")));
    })
    .await;
}

#[tokio::test]
async fn another_node_of_the_tenant_hears_of_a_change() {
    each_engine(&[SCHEMA], async |db| {
        let (one, other) = (Node::new(&db, &clock()).await, Node::new(&db, &clock()).await);
        let tasks = Tasks::new();
        tasks.spawn("rules", other.rulebook.clone().run(tasks.clone()));
        let server = server_name!("a.example");
        one.rulebook.put(Effect::Deny, &ServerRule::new("a.example", "")).await.unwrap();
        until(|| !other.lets_in(server)).await;
        one.rulebook.remove(&Pattern::new("a.example"), Which::All).await.unwrap();
        until(|| other.lets_in(server)).await;
        tasks.shut_down(std::time::Duration::from_secs(5)).await;
    })
    .await;
}

#[tokio::test]
async fn refusals_are_counted_told_apart_and_kept() {
    each_engine(&[SCHEMA], async |db| {
        let clock = clock();
        let node = Node::new(&db, &clock).await;
        node.rulebook.put(Effect::Deny, &ServerRule::new("*.example", "spam")).await.unwrap();
        for _ in 0..3 {
            assert!(!node.lets_in(server_name!("a.example")));
        }
        assert!(!node.lets_in(server_name!("b.example")));
        let of_a = node.rulebook.refusals(Some(server_name!("a.example")), 10).await.unwrap();
        let [refusal] = of_a.as_slice() else { panic!("{of_a:?}") };
        assert_eq!((refusal.count, refusal.rule.as_str(), refusal.action.as_str()), (3, "denied", "query"));
        assert_eq!(refusal.direction, "inbound");
        assert!(refusal.words.contains("*.example"), "{}", refusal.words);
        clock.advance(std::time::Duration::from_secs(60));
        // Another process adds to them.
        let again = Node::new(&db, &clock).await;
        assert!(!again.lets_in(server_name!("a.example")));
        let all = again.rulebook.refusals(None, 10).await.unwrap();
        assert_eq!(
            all.iter().map(|refusal| (refusal.server.as_str(), refusal.count)).collect::<Vec<_>>(),
            [("a.example", 4), ("b.example", 1)]
        );
        assert_eq!(all[0].last_ms - all[0].first_ms, 60_000);
    })
    .await;
}

#[tokio::test]
async fn whoever_makes_up_names_fills_neither_memory_nor_disk() {
    each_engine(&[SCHEMA], async |db| {
        let clock = clock();
        let node = Node::new(&db, &clock).await;
        node.policy.replace(Settings::only(&[]));
        for round in 0..3 {
            for name in 0..1_100 {
                let name: ruma::OwnedServerName = format!("n{round}-{name}.example").try_into().unwrap();
                assert!(!node.lets_in(&name));
            }
            node.rulebook.refusals(None, 1).await.unwrap();
            clock.advance(std::time::Duration::from_secs(1));
        }
        let kept = node.rulebook.refusals(None, 100_000).await.unwrap();
        assert!(kept.len() <= 2_001, "{}", kept.len());
        let others = kept.iter().find(|refusal| refusal.server == "(others)").unwrap();
        assert_eq!(others.count, 300, "those beyond the bound are counted together");
    })
    .await;
}

async fn until(is_so: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("waited in vain");
}
