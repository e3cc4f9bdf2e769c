//! The examples of the appendix "Canonical JSON", and agreement with `serde_json`.

use proptest::prelude::*;
use samtal_event::json::{JsonError, Numbers, parse};
use serde_json::Value;

fn canonical(text: &str) -> String {
    parse(text, Numbers::Strict).unwrap().to_canonical()
}

#[test]
fn the_specifications_examples_come_out_canonical() {
    for (given, expected) in [
        ("{}", "{}"),
        (r#"{ "one": 1, "two": "Two" }"#, r#"{"one":1,"two":"Two"}"#),
        (r#"{ "b": "2", "a": "1" }"#, r#"{"a":"1","b":"2"}"#),
        (r#"{"b":"2","a":"1"}"#, r#"{"a":"1","b":"2"}"#),
        (
            r#"{"auth":{"success":true,"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe",
                "three_pids":[{"medium":"email","address":"john.doe@example.org"},
                              {"medium":"msisdn","address":"123456789"}]}}}"#,
            r#"{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}"#,
        ),
        (r#"{ "a": "日本語" }"#, r#"{"a":"日本語"}"#),
        (r#"{ "本": 2, "日": 1 }"#, r#"{"日":1,"本":2}"#),
        (r#"{ "a": "\u65E5" }"#, r#"{"a":"日"}"#),
        (r#"{ "a": null }"#, r#"{"a":null}"#),
    ] {
        assert_eq!(canonical(given), expected);
    }
}

#[test]
fn note_01_numbers_that_are_not_canonical_are_refused_from_room_version_6_and_kept_before() {
    for number in ["1.0", "1e3", "-0", "9007199254740992", "-9007199254740992", "1e-5", "-0.0"] {
        let text = format!("[{number}]");
        assert_eq!(parse(&text, Numbers::Strict), Err(JsonError::Number(1)), "{number}");
        let kept = if number == "-0" { "[0]" } else { text.as_str() };
        assert_eq!(parse(&text, Numbers::Lax).unwrap().to_canonical(), kept);
    }
    assert_eq!(canonical("[9007199254740991,-9007199254740991,0]"), "[9007199254740991,-9007199254740991,0]");
}

#[test]
fn what_is_not_json_is_refused() {
    for text in [
        "",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "01",
        "+1",
        "1.",
        ".5",
        "\"\\x\"",
        "\"\\ud800\"",
        "\"\u{1}\"",
        "{a:1}",
        "nul",
        "[1 2]",
        "{} {}",
        "\"\\ud800\\u0041\"",
        "-",
        "1e",
    ] {
        assert!(parse(text, Numbers::Lax).is_err(), "{text}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(parse(&deep, Numbers::Lax), Err(JsonError::Nesting));
}

#[test]
fn the_last_of_equal_keys_counts() {
    assert_eq!(canonical(r#"{"a":1,"b":2,"a":3,"a":4}"#), r#"{"a":4,"b":2}"#);
}

#[test]
fn keys_are_sorted_by_code_point_and_not_by_utf_16() {
    assert_eq!(canonical("{\"\u{1F600}\":1,\"\u{FFFD}\":2}"), "{\"\u{FFFD}\":2,\"\u{1F600}\":1}");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-9_007_199_254_740_991_i64..=9_007_199_254_740_991).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[ -~\\n\\t\"\\\\]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_we_print_we_parse_back_and_others_read_the_same(value in any_json()) {
        let text = serde_json::to_string_pretty(&value).unwrap();
        let ours = canonical(&text);
        prop_assert_eq!(&canonical(&ours), &ours);
        prop_assert_eq!(serde_json::from_str::<Value>(&ours).unwrap(), value.clone());
        let rumas: ruma::CanonicalJsonValue = value.try_into().unwrap();
        prop_assert_eq!(rumas.to_string(), ours);
    }

    #[test]
    fn any_text_is_refused_exactly_when_serde_json_refuses_it(text in "[\\[\\]{}:,\"\\\\ 0-9eE+.\\-a-fnrtul]{0,24}") {
        let theirs = serde_json::from_str::<Value>(&text);
        // Numbers beyond what a double holds are the one thing we read and they do not.
        let beyond = theirs.as_ref().is_err_and(|error| error.to_string().contains("number out of range"));
        if !beyond {
            prop_assert_eq!(parse(&text, Numbers::Lax).is_ok(), theirs.is_ok(), "{}", text);
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = parse(&text, Numbers::Strict);
        for rules in crate::VERSIONS {
            let _ = samtal_event::ParsedPdu::from_bytes(&bytes, rules);
        }
    }
}
