//! How texts are cut into documents, and what values they hold.

#![allow(clippy::panic)] // In a helper of a test too, a panic is the failure itself.

use policy_model_kubernetes::read_documents;
use serde_json::{Value, json};

fn values(text: &str) -> Vec<Value> {
    read_documents(text)
        .into_iter()
        .map(|d| d.body.unwrap_or_else(|e| panic!("{e}\n{text}")))
        .collect()
}

fn places(text: &str) -> Vec<(usize, Option<usize>, usize)> {
    read_documents(text)
        .into_iter()
        .map(|d| (d.number, d.item, d.line))
        .collect()
}

#[test]
fn documents_are_numbered_without_the_empty_ones() {
    let text = "---\n# only a comment\n---\n\na: 1\n--- # two\nb: 2\n...\n# after the end\n---\nnull\n---\n~\n--- {c: 3}\n---\n";
    assert_eq!(values(text), [json!({"a": 1}), json!({"b": 2}), json!({"c": 3})]);
    assert_eq!(places(text), [(1, None, 5), (2, None, 7), (3, None, 14)]);
    assert_eq!(places(""), []);
    assert_eq!(places("---\n---\n...\n"), []);
    assert_eq!(values("\u{feff}a: 1"), [json!({"a": 1})]);
    assert_eq!(
        values("a: 1\r\n---\r\nb: 2\r\n"),
        [json!({"a": 1}), json!({"b": 2})]
    );
    assert_eq!(
        values("%YAML 1.1\n---\na: 1\n...\n%YAML 1.1\n---\nb: 2\n"),
        [json!({"a": 1}), json!({"b": 2})]
    );
}

#[test]
fn markers_count_only_at_the_beginning_of_a_line_and_alone() {
    let text = "a: |\n  x\n  ---\n  y\nb: '--- '\nc: ---x\n---x: 1\n";
    assert_eq!(
        values(text),
        [json!({"a": "x\n---\ny\n", "b": "--- ", "c": "---x", "---x": 1})]
    );
    assert_eq!(values("--- |\n text\n--- 7\n"), [json!("text\n"), json!(7)]);
}

#[test]
fn json_is_read_too_several_values_in_a_row() {
    assert_eq!(values("{\"a\": \"\\/\\ud83d\\ude00\"}"), [json!({"a": "/😀"})]);
    let text = "\n{\"a\": 1}\n{\"b\": \"yes\"}\n\n  {\"c\": [1.0, 1.5]}\n---\n{d: yes}\n";
    assert_eq!(
        values(text),
        [
            json!({"a": 1}),
            json!({"b": "yes"}),
            json!({"c": [1, 1.5]}),
            json!({"d": true})
        ]
    );
    assert_eq!(
        places(text),
        [(1, None, 2), (2, None, 3), (3, None, 5), (4, None, 7)]
    );
    let found = read_documents("{\"a\": 1}\n{\"b\": }\n---\nc: 1\n");
    assert_eq!(found.len(), 3);
    let error = found[1].body.clone().unwrap_err();
    assert_eq!((error.line, error.reason.as_str()), (2, "expected value"));
}

#[test]
fn words_and_numbers_are_read_as_kubernetes_reads_them() {
    let text = "a: yes\nb: Off\nc: 'yes'\nd: \"no\"\ne: no\nf: 80.0\ng: 1e3\nh: 0x10\ni: 0o17\nj: yess\nk: 2001-01-01\n\
                l: ~\nm:\nn1: |-\n  yes\no: [YES, 'YES', y, n]\non: x\n7: seven\np: 1.50\nq: '80'\n";
    assert_eq!(
        values(text),
        [
            json!({"a": true, "b": false, "c": "yes", "d": "no", "e": false, "f": 80, "g": 1000, "h": 16, "i": 15,
            "j": "yess", "k": "2001-01-01", "l": null, "m": null, "n1": "yes", "o": [true, "YES", "y", "n"], "true": "x",
            "7": "seven", "p": 1.5, "q": "80"})
        ]
    );
}

#[test]
fn anchors_and_merge_keys_are_applied_and_the_own_key_wins() {
    let text = "base: &base {a: 1, b: 2}\nmore: &more {b: 3, c: 4}\none: {<<: *base, b: 9}\n\
                two: {b: 9, <<: [*base, *more]}\n'<<': quoted\n";
    let found = &values(text)[0];
    assert_eq!(found["one"], json!({"a": 1, "b": 9}));
    assert_eq!(found["two"], json!({"a": 1, "b": 9, "c": 4}));
}

#[test]
fn a_key_twice_is_an_error_at_its_second_place() {
    let error = |text: &str| read_documents(text).remove(0).body.unwrap_err();
    let found = error("a:\n  b: 1\n  c: 2\n  b: 3\n");
    assert_eq!(
        (found.line, found.column, found.reason.as_str()),
        (4, 3, "a: duplicate key 'b'")
    );
    assert_eq!(error("1: a\n'1': b\n").line, 2);
    assert_eq!(error("a: {<<: {}, <<: {}}").reason, "a: duplicate key '<<'");
    assert!(error("a: {<<: 7}").reason.contains("needs a mapping"));
    assert!(error("a: !tag x").reason.contains("without a tag"));
    assert!(error("a: .inf").reason.contains("infinity"));
    assert!(error("~: x").reason.contains("a key that is a text"));
    assert!(error("a: *nobody").reason.contains("unknown anchor"));
}

#[test]
fn lists_are_flattened_and_their_items_completed() {
    let text = "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a}\n- {kind: Other, apiVersion: x/v1}\n---\nkind: List\nitems: []\n";
    assert_eq!(
        values(text),
        [
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}),
            json!({"kind": "Other", "apiVersion": "x/v1"})
        ]
    );
    assert_eq!(places(text), [(1, Some(0), 1), (1, Some(1), 1)]);
    // Only what has items is a list.
    assert_eq!(
        values("kind: AllowList\nspec: {}\n"),
        [json!({"kind": "AllowList", "spec": {}})]
    );
}

#[test]
fn aliases_cannot_blow_up_and_depth_is_bounded() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..9 {
        let inner = vec![format!("*a{}", n - 1); 10].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{inner}]\n"));
    }
    assert!(read_documents(&bomb)[0].body.is_err());
    assert!(read_documents(&"[".repeat(100_000))[0].body.is_err());
    assert!(read_documents(&"{\"a\":".repeat(100_000))[0].body.is_err());
}
