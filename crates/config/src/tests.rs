//! What an operator notices of the configuration.

use super::*;

fn problems(text: &str) -> Vec<String> {
    match Config::from_text(text) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Wrong(problems)) => problems.iter().map(ToString::to_string).collect(),
        Err(other) => vec![other.to_string()],
    }
}

#[test]
fn a_name_is_all_that_is_needed() {
    let config = Config::from_text("[server]\nname = 'example.org'").unwrap();
    assert_eq!(config.tenants.len(), 1);
    assert_eq!(config.tenants[0].name, "example.org");
    assert_eq!(config.tenants[0].public_base_url, "https://example.org");
    assert!(!config.tenants[0].options.registration.open);
    assert_eq!(config.process.listeners.len(), 1);
}

#[test]
fn a_wrong_word_is_told_with_line_and_suggestion() {
    assert_eq!(
        problems("[server]\nname = 'example.org'\n\n[registraton]\nopen = true"),
        ["samtal.toml:4:2: registraton: there is no such option; is `registration` meant?"]
    );
    assert_eq!(
        problems("[log]\nformat = 'jsn'"),
        ["samtal.toml:2:1: log.format: expected one of \"text\", \"json\", found \"jsn\"; is \"json\" meant?"]
    );
}

#[test]
fn a_text_that_is_no_toml_is_told_with_line_and_column() {
    assert_eq!(problems("[server]\nname = 'example.org")[0].split(' ').next(), Some("samtal.toml:2:20:"));
}

#[test]
fn letters_that_changed_places_are_a_small_mistake() {
    for (wrong, right) in
        [("server.nmae = 'x'", "name"), ("registration.opne = true", "open"), ("log.levle = 'x'", "level")]
    {
        let found = problems(wrong);
        assert!(found[0].ends_with(&format!("is `{right}` meant?")), "{found:?}");
    }
}

#[test]
fn the_wrong_item_of_a_list_is_told() {
    let found = problems("[[listeners]]\naddress = '127.0.0.1:1'\nserve = ['client', 'fedration']");
    assert_eq!(
        found,
        ["samtal.toml:3:1: listeners[1].serve: expected one of \"client\", \"federation\", \"admin\", \"metrics\", \
          found \"fedration\"; is \"federation\" meant?"]
    );
}

#[test]
fn a_database_address_of_another_kind_is_refused_and_not_told() {
    assert_eq!(
        problems("[server]\nname = 'example.org'\n[database]\nurl = 'mysql://me:secret@here/x'"),
        ["samtal.toml:4:1: database.url: expected an address that begins with postgres://"]
    );
}

#[test]
fn an_address_for_clients_has_a_scheme() {
    assert_eq!(
        problems("[server]\nname = 'a.example'\npublic_base_url = 'matrix.a.example'"),
        [
            "samtal.toml:3:1: server.public_base_url: expected an address that begins with https:// or http://, found \"matrix.a.example\""
        ]
    );
    assert_eq!(
        problems("[[tenants]]\nname = 'a.example'\npublic_base_url = ''"),
        [
            "samtal.toml:3:1: tenants[1].public_base_url: expected an address that begins with https:// or http://, found \"\""
        ]
    );
}

#[test]
fn a_rate_is_not_negative_in_whole_numbers_either() {
    for number in ["-1", "-1.0"] {
        assert_eq!(
            problems(&format!("[limits.login]\nper_second = {number}")),
            [format!(
                "samtal.toml:2:1: limits.login.per_second: expected a number that is not negative, found {number}"
            )]
        );
    }
    assert_eq!(
        problems("[limits.login]\nburst = 0"),
        ["samtal.toml:2:1: limits.login.burst: expected 1 to 10000000, found 0"]
    );
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let found = problems("[server]\nname = 3\n[limits]\nsync_wait_ms_max = 700000\n[[listeners]]\naddress = 'here'");
    assert_eq!(
        found,
        [
            "samtal.toml:4:1: limits.sync_wait_ms_max: expected 0 to 600000 ms, found 700000",
            "samtal.toml:6:1: listeners[1].address: expected address and port, found \"here\"",
            "samtal.toml:2:1: server.name: expected server name, found 3",
        ]
    );
}

#[test]
fn a_table_with_a_required_option_needs_it() {
    assert_eq!(
        problems("[[listeners]]\ntls = { certificate = 'a' }"),
        ["samtal.toml:2:1: listeners[1].tls.private_key: must be given"]
    );
}

#[test]
fn a_rate_half_given_keeps_its_own_default_for_the_rest() {
    let config = Config::from_text("[server]\nname = 'a.example'\n[limits.login]\nburst = 77").unwrap();
    assert_eq!(config.tenants[0].options.limits.login.burst, 77);
    assert_eq!(config.tenants[0].options.limits.login.per_second, 0.2);
}

#[test]
fn a_whole_number_is_a_number_too() {
    assert_eq!(problems("[limits.login]\nper_second = 100000"), Vec::<String>::new());
}

#[test]
fn variables_win_over_the_file() {
    let dir = std::env::temp_dir().join(format!("samtal-config-{}", std::process::id()));
    std::fs::write(&dir, "[server]\nname = 'a.example'\n").unwrap();
    let source = Source {
        file: Some(dir.clone()),
        environment: [
            ("SAMTAL_SERVER__NAME", "b.example"),
            ("SAMTAL_FEDERATION__DENIED_NETWORKS", "10.0.0.0/8, ::1"),
            ("SAMTAL_REGISTRATION__OPEN", "true"),
            ("SAMTAL_LISTENERS", "[{ address = '0.0.0.0:1', serve = ['metrics'] }]"),
            ("SAMTAL_CONFIG", "elsewhere"),
            ("HOME", "/"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .to_vec(),
        arguments: Vec::new(),
    };
    let config = source.load().unwrap();
    std::fs::remove_file(dir).unwrap();
    assert_eq!(config.tenants[0].name, "b.example");
    assert_eq!(config.tenants[0].options.federation.denied_networks.len(), 2);
    assert!(config.tenants[0].options.registration.open);
    assert_eq!(config.process.listeners[0].serve, [process::Serve::Metrics]);
}

#[test]
fn a_text_may_stand_in_quotes_or_not() {
    for (given, meant) in [
        ("2", "2"),
        ("1.5 \"quoted\"", "1.5 \"quoted\""),
        ("\"a \\\"b\\\"\"", "a \"b\""),
        ("'c'", "c"),
        ("\"d", "\"d"),
        ("", ""),
    ] {
        let arguments = [("server.name", "a.example"), ("contact.email", given)];
        let arguments = arguments.map(|(option, value)| (option.to_owned(), value.to_owned())).to_vec();
        let config = Source { arguments, ..Source::default() }.load().unwrap();
        assert_eq!(config.tenants[0].options.contact.email.as_deref(), Some(meant));
    }
}

#[test]
fn a_wrong_variable_is_told_by_its_name() {
    let source = Source { environment: vec![("SAMTAL_SERVER__NANE".to_owned(), "x".to_owned())], ..Source::default() };
    assert_eq!(
        source.load().unwrap_err().to_string(),
        "variable SAMTAL_SERVER__NANE: server.nane: there is no such option; is `name` meant?"
    );
}

#[test]
fn a_variable_with_single_underscores_is_not_passed_over() {
    for (wrong, right) in [
        ("SAMTAL_SERVER_NAME", "SAMTAL_SERVER__NAME"),
        ("SAMTAL_SERVER_DATA_DIR", "SAMTAL_SERVER__DATA_DIR"),
        ("SAMTAL_LIMITS_LOGIN_BURST", "SAMTAL_LIMITS__LOGIN__BURST"),
    ] {
        let source = Source { environment: vec![(wrong.to_owned(), "1".to_owned())], ..Source::default() };
        assert_eq!(
            source.load().unwrap_err().to_string(),
            format!("variable {wrong}: there is no such variable; is `{right}` meant?")
        );
    }
    let others = ["SAMTAL_CONFIG", "SAMTAL_TEST_POSTGRES", "SAMTAL_URL"].map(|name| (name.to_owned(), "1".to_owned()));
    Source { environment: others.to_vec(), ..Source::default() }.load().unwrap();
}

#[test]
fn a_tenant_takes_over_what_it_does_not_say() {
    let config = Config::from_text(
        "[registration]\nopen = true\nguests = true\n[mail]\nfrom = 'a@b'\n\
         [[tenants]]\nname = 'a.example'\n[tenants.registration]\nopen = false\n[[tenants]]\nname = 'b.example'",
    )
    .unwrap();
    let [a, b] = &config.tenants[..] else { panic!("two tenants") };
    assert!(!a.options.registration.open && a.options.registration.guests && a.options.mail.is_some());
    assert!(b.options.registration.open);
    assert_ne!(a.data_dir, b.data_dir);
}

#[test]
fn an_added_tenant_is_as_one_in_the_file() {
    let dir = std::env::temp_dir().join(format!("samtal-config-tenants-{}", std::process::id()));
    let added = added_tenants_dir(&dir);
    std::fs::create_dir_all(&added).unwrap();
    std::fs::write(added.join("b.toml"), "name = 'b.example'\n[rooms]\ndefault_version = '11'").unwrap();
    std::fs::write(added.join("b.txt"), "not read").unwrap();
    let text = format!("[server]\nname = 'a.example'\ndata_dir = '{}'", dir.display());
    let config = Config::from_text(&text).unwrap();
    std::fs::write(added.join("c.toml"), "name = 'c.example'\nroom = 1").unwrap();
    let wrong = problems(&text);
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(config.tenants[1].name, "b.example");
    assert_eq!(config.tenants[1].options.rooms.default_version.as_str(), "11");
    assert_eq!(wrong.len(), 1);
    assert!(wrong[0].ends_with("c.toml:2:1: tenants[2].room: there is no such option; is `rooms` meant?"), "{wrong:?}");
}

#[test]
fn a_name_cannot_be_there_twice() {
    assert_eq!(
        problems("[server]\nname = 'a.example'\n[[tenants]]\nname = 'a.example'"),
        ["samtal.toml:3:3: tenants: a.example is there twice"]
    );
    assert_eq!(
        problems("[server]\nname = 'a.example'\n[[tenants]]\nname = 'A.Example'"),
        ["samtal.toml:3:3: tenants: A.Example is there twice"]
    );
}

#[test]
fn no_two_listeners_have_one_address() {
    let listeners = |one: &str, two: &str| {
        problems(&format!("[[listeners]]\naddress = '{one}'\n[[listeners]]\nserve = ['client']\naddress = '{two}'"))
    };
    for (one, two) in [("127.0.0.1:1", "127.0.0.1:1"), ("0.0.0.0:1", "127.0.0.1:1"), ("[::1]:1", "[::]:1")] {
        assert_eq!(
            listeners(one, two),
            ["samtal.toml:5:1: listeners[2].address: listeners[1] listens there already"],
            "{one} {two}"
        );
    }
    for (one, two) in [("127.0.0.1:0", "127.0.0.1:0"), ("127.0.0.1:1", "127.0.0.1:2"), ("127.0.0.2:1", "127.0.0.1:1")] {
        assert_eq!(listeners(one, two), Vec::<String>::new(), "{one} {two}");
    }
}

#[test]
fn data_needs_a_directory() {
    assert_eq!(
        problems("[server]\ndata_dir = ''"),
        ["samtal.toml:2:1: server.data_dir: expected a directory, found nothing"]
    );
}

#[test]
fn what_only_its_use_shows_is_told_with_its_place() {
    let config = Config::from_text("[server]\nname = 'a.example'\n[[listeners]]\nserve = []").unwrap();
    let problem = config.problem("listeners[1].serve", "is of no use".to_owned());
    assert_eq!(problem.to_string(), "samtal.toml:4:1: listeners[1].serve: is of no use");
}

#[test]
fn secrets_do_not_print() {
    let config = Config::from_text(
        "[server]\nname = 'a.example'\n[registration]\nshared_secret = 'hush'\n[database]\nurl = 'postgres://x:hush@y/z'",
    )
    .unwrap();
    assert!(!format!("{config:?}").contains("hush"));
    assert_eq!(config.tenants[0].options.registration.shared_secret.as_ref().unwrap().expose(), "hush");
}

#[test]
fn the_example_file_is_right_with_and_without_its_comment_marks() {
    Config::from_text(&example()).unwrap();
    let open: String = example()
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.starts_with('[') || is_setting(rest) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    if let Err(e) = Config::from_text(&open) {
        panic!("{e}\n{open}");
    }
}

/// With `SAMTAL_WRITE_DOCS=1` the pages are written instead of compared.
#[test]
fn the_pages_in_docs_are_fresh() {
    let docs = std::path::Path::new("../../docs");
    for (name, fresh) in [("config.md", reference()), ("samtal.example.toml", example())] {
        let path = docs.join(name);
        if std::env::var_os("SAMTAL_WRITE_DOCS").is_some() {
            std::fs::create_dir_all(docs).unwrap();
            std::fs::write(&path, &fresh).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == fresh, "docs/{name} is stale: SAMTAL_WRITE_DOCS=1 cargo test -p samtal-config");
    }
}

fn is_setting(line: &str) -> bool {
    line.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
}

#[test]
fn the_suites_words_are_understood() {
    let config = Config::from_text(
        r#"
[server]
name = "localhost:8800"
data_dir = "/tmp/x"
public_base_url = "https://localhost:8800"

[[listeners]]
address = "127.0.0.1:8800"
serve = ["client", "federation"]

[listeners.tls]
certificate = "a"
private_key = "b"

[registration]
open = true
guests = true
shared_secret = "reg_secret"

[rooms]
publish = "everyone"
public_directory_without_login = true
public_directory_over_federation = true
default_version = "10"

[federation]
enabled = true
trusted_certificates = ["a"]
denied_networks = []

[outgoing]
trusted_certificates = ["a"]
denied_networks = []

[url_previews]
enabled = true

[limits.login]
per_second = 100000
burst = 100000

[application_services]
registrations = []

[log]
format = "text"
level = "info"

[mail]
smtp_host = "localhost"
smtp_port = 25
from = "samtal@localhost"
"#,
    )
    .unwrap();
    assert_eq!(config.tenants[0].options.rooms.default_version.as_str(), "10");
    assert!(config.tenants[0].options.federation.denied_networks.is_empty());
}

#[test]
fn networks_are_read_and_printed_alike() {
    for text in ["10.0.0.0/8", "::1/128", "fc00::/7"] {
        assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
    }
    assert_eq!("127.0.0.1".parse::<Network>().unwrap().prefix_bits, 32);
    for wrong in ["10.0.0.0/33", "x", "10.0.0/8", "::/129"] {
        assert!(wrong.parse::<Network>().is_err(), "{wrong}");
    }
}

#[test]
fn what_only_a_start_takes_in_is_told_until_then() {
    let began =
        "server.name = 'a.example'\ndatabase.url = 'postgres://x:old@h/d'\n[[listeners]]\naddress = '127.0.0.1:1'";
    let awaiting = |running: &Config, text: &str| {
        let mut config = Config::from_text(text).unwrap();
        let waiting = config.awaiting_restart(running);
        (config, waiting.join(", "))
    };
    let started = Config::from_text(began).unwrap();
    for (changes, waits) in [
        ("", ""),
        ("127.0.0.1:1|127.0.0.1:2", "listeners[1].address"),
        ("127.0.0.1:1'|127.0.0.1:1'\nbehind_proxy = false", ""),
        (
            "127.0.0.1:1'|127.0.0.1:1'\nserve = ['client']\n[[listeners]]\naddress = '[::1]:3'",
            "listeners[1].serve, listeners[2]",
        ),
        ("127.0.0.1:1'|127.0.0.1:1'\ntls = { certificate = 'a', private_key = 'b' }", "listeners[1].tls"),
        ("old|new", "database.url"),
        ("[[l|http.idle_ms = 1000\nlog.level = 'debug'\nregistration.open = true\n[[l", "http.idle_ms"),
        (
            "[[l|mail.from = 'a@b'\nrooms.default_version = '11'\n[[l",
            "mail (a.example), rooms.default_version (a.example)",
        ),
        ("a.example'|a.example'\ntenants = [{ name = 'b.example', presence = { enabled = false } }]", ""),
    ] {
        let (from, to) = changes.split_once('|').unwrap_or_default();
        let (config, waiting) = awaiting(&started, &began.replacen(from, to, 1));
        assert_eq!(waiting, waits, "{changes}");
        assert_eq!(awaiting(&config, &began.replacen(from, to, 1)).1, waits, "still: {changes}");
        assert_eq!(awaiting(&config, began).1, "", "taken back: {changes}");
    }
}
