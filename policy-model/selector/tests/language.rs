//! The language as a whole: what parses, what it selects, what is said of what does not parse, and the laws that
//! tie parser, printer and evaluator together.

#![expect(
    clippy::panic,
    reason = "in a test, also outside of its functions, a panic is the failure itself"
)]

use std::collections::{BTreeMap, HashMap};

use policy_model_selector::{Expr, LabelFn, Labels, Layered, MAX_DEPTH, NAMESPACE_KEY, Selector};
use proptest::prelude::*;

fn selects(text: &str, labels: &[(&str, &str)]) -> bool {
    Selector::parse(text)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .evaluate(labels)
}

#[test]
fn each_term_selects_what_it_says() {
    let labels = [("k", "value"), ("empty", ""), ("a/b.c-d_E9", "x")];
    for (text, expected) in [
        ("", true),
        (" \t\n", true),
        ("all()", true),
        ("all( )", true),
        ("global()", true),
        ("k == 'value'", true),
        ("k == \"value\"", true),
        ("k=='value'", true),
        ("k == 'Value'", false),
        ("k == 'valu'", false),
        ("missing == ''", false),
        ("empty == ''", true),
        ("k != 'value'", false),
        ("k != 'other'", true),
        ("missing != 'value'", true),
        ("k in {'a', 'value'}", true),
        ("k in {'a','b'}", false),
        ("k in {}", false),
        ("k in {'value',}", true),
        ("missing in {'a', ''}", false),
        ("k not in {'a', 'value'}", false),
        ("k not in {'a'}", true),
        ("k notin {'a'}", true),
        ("k not\tin{'a'}", true),
        ("missing not in {'a'}", true),
        ("k not in {}", true),
        ("k contains 'alu'", true),
        ("k contains ''", true),
        ("k contains 'ula'", false),
        ("missing contains ''", false),
        ("k starts with 'val'", true),
        ("k startswith 'val'", true),
        ("k starts  with 'alu'", false),
        ("missing starts with ''", false),
        ("k ends with 'lue'", true),
        ("k ends with 'val'", false),
        ("missing ends with ''", false),
        ("has(k)", true),
        ("has( k )", true),
        ("has(empty)", true),
        ("has(missing)", false),
        ("has(a/b.c-d_E9)", true),
        ("!has(missing)", true),
        ("! ! has(k)", true),
        ("!k == 'other'", true),
        ("!k != 'other'", false),
        ("has(k) && has(missing)", false),
        ("has(k)||has(missing)", true),
        ("!has(k) || !has(missing) && has(empty)", true),
        ("has(k) || has(k) && has(missing)", true),
        ("(has(k) || has(k)) && has(missing)", false),
        ("!(has(k) && has(missing))", true),
        ("!has(k) && has(missing)", false),
    ] {
        assert_eq!(selects(text, &labels), expected, "{text}");
    }
}

#[test]
fn words_of_the_grammar_are_good_keys() {
    for key in [
        "in", "not", "notin", "has", "all", "global", "contains", "starts", "ends", "with", "-", "/", ".",
    ] {
        assert!(
            selects(&format!("{key} in {{'x'}} && has({key})"), &[(key, "x")]),
            "{key}"
        );
        assert!(selects(&format!("{key} not in {{'x'}}"), &[]), "{key}");
    }
}

#[test]
fn values_know_no_escapes() {
    assert!(selects(r"k == 'a\'", &[("k", r"a\")]));
    assert!(selects("k == '&& \"quoted\" ü\n'", &[("k", "&& \"quoted\" ü\n")]));
}

#[test]
fn global_means_outside_of_namespaces() {
    assert!(!selects("global()", &[(NAMESPACE_KEY, "ns")]));
    assert!(!selects("global()", &[(NAMESPACE_KEY, "")]));
    assert!(selects("!global()", &[(NAMESPACE_KEY, "ns")]));
}

#[test]
fn faults_are_named_where_they_are() {
    for (text, position, message) in [
        ("a == && b", 5, "expected a quoted value, found '&&'"),
        ("ab == c", 6, "expected a quoted value, found 'c'"),
        (
            "a ==",
            4,
            "expected a quoted value, found the end of the selector",
        ),
        ("a = 'b'", 2, "expected '==', found a single '='"),
        ("a & b", 2, "expected '&&', found a single '&'"),
        ("has(a) | has(b)", 7, "expected '||', found a single '|'"),
        ("a == 'b", 5, "the value that begins here has no closing '"),
        (
            "a == 'b' 'c'",
            9,
            "expected '&&', '||' or the end of the selector, found the value 'c'",
        ),
        ("has(a))", 6, "this ')' closes nothing"),
        (
            "(has(a)",
            7,
            "expected '&&', '||' or ')', found the end of the selector",
        ),
        (
            "()",
            1,
            "expected a label key, has(), all(), global(), '!' or '(', found ')'",
        ),
        (
            "has(a) &&",
            9,
            "expected a label key, has(), all(), global(), '!' or '(', found the end of the selector",
        ),
        (
            "!",
            1,
            "expected a label key, has(), all(), global(), '!' or '(', found the end of the selector",
        ),
        (
            "&& has(a)",
            0,
            "expected a label key, has(), all(), global(), '!' or '(', found '&&'",
        ),
        ("has('a')", 4, "expected a label key, found the value 'a'"),
        ("has()", 4, "expected a label key, found ')'"),
        ("has(a b)", 6, "expected ')', found 'b'"),
        ("all(a)", 4, "expected ')', found 'a'"),
        (
            "any()",
            0,
            "expected has(), all() or global(), found 'any' before '('",
        ),
        (
            "a starts 'b'",
            9,
            "expected 'with' after 'starts', found the value 'b'",
        ),
        ("a not 'b'", 6, "expected 'in' after 'not', found the value 'b'"),
        ("a in 'b'", 5, "expected '{', found the value 'b'"),
        ("a in {b}", 6, "expected a quoted value or '}', found 'b'"),
        ("a in {'b' 'c'}", 10, "expected ',' or '}', found the value 'c'"),
        ("a in {,}", 6, "expected a quoted value or '}', found ','"),
        ("a in {'b', ,}", 11, "expected a quoted value or '}', found ','"),
        (
            "a in {'b'",
            9,
            "expected ',' or '}', found the end of the selector",
        ),
        ("a == 'b' && c:d == 'e'", 13, "unexpected character ':'"),
        ("ü == 'b'", 0, "unexpected character 'ü'"),
        ("a == 'ü' # x", 10, "unexpected character '#'"),
    ] {
        let error = Selector::parse(text).expect_err(text);
        assert_eq!(
            (error.position, error.message.as_str()),
            (position, message),
            "{text}"
        );
        let column = text[..position].chars().count() + 1;
        assert_eq!(
            error.to_string(),
            format!("at character {column}: {message}"),
            "{text}"
        );
    }
    let error = Selector::parse("a").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("at character 2: expected an operator after the label key"),
        "{error}"
    );
}

#[test]
fn keys_have_a_longest_length() {
    let key = "k".repeat(512);
    assert!(Selector::parse(&format!("has({key})")).is_ok());
    assert!(Selector::parse(&format!("{key} == 'x'")).is_ok());
    let error = Selector::parse(&format!("has({key}k)")).unwrap_err();
    assert_eq!(
        (error.position, error.message.as_str()),
        (4, "a label key has at most 512 characters, this has 513")
    );
}

#[test]
fn depth_has_a_limit_and_length_has_none() {
    let nested = |depth: usize| format!("{}has(a){}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(Selector::parse(&nested(MAX_DEPTH)).unwrap().canonical(), "has(a)");
    let error = Selector::parse(&nested(MAX_DEPTH + 1)).unwrap_err();
    assert_eq!(
        (error.position, error.message.as_str()),
        (MAX_DEPTH, "parentheses nest deeper than 100")
    );
    assert!(Selector::parse(&"(".repeat(1_000_000)).is_err());
    assert!(Selector::parse(&"!(".repeat(1_000_000)).is_err());

    assert_eq!(
        Selector::parse(&format!("{}has(a)", "!".repeat(1_000_001)))
            .unwrap()
            .canonical(),
        "!has(a)"
    );
    let long = vec!["(has(a) || k in {'x'})"; 100_000].join(" && ");
    let selector = Selector::parse(&long).unwrap();
    assert!(selector.evaluate(&[("k", "x")]));
    assert!(!selector.evaluate(&[("k", "y")]));
    let siblings = vec![nested(MAX_DEPTH); 50].join(" || ");
    assert!(Selector::parse(&siblings).is_ok());
}

#[test]
fn equal_texts_are_equal_selectors() {
    let left = Selector::parse("  k in { 'b', 'a' }&&(has(x))").unwrap();
    let right = Selector::parse("k in {\"a\",\"b\",\"a\"} && has(x)").unwrap();
    assert_eq!(left, right);
    assert_eq!(left.cmp(&right), std::cmp::Ordering::Equal);
    assert_eq!(HashMap::from([(left.clone(), 1)]).get(&right), Some(&1));
    assert_eq!(left.to_string(), "k in {\"a\", \"b\"} && has(x)");
    assert_ne!(left, Selector::all());
    assert_eq!(Selector::default(), Selector::parse("").unwrap());
}

#[test]
fn selectors_are_joined_and_rewritten() {
    let a_or_b = Selector::parse("has(a) || b == 'x'").unwrap();
    let c = Selector::parse("c != 'y' && all()").unwrap();
    assert_eq!(
        a_or_b.and(&c).canonical(),
        r#"(has(a) || b == "x") && c != "y" && all()"#
    );
    assert_eq!(a_or_b.and(&Selector::all()), a_or_b);
    assert_eq!(Selector::all().and(&a_or_b), a_or_b);
    assert_eq!(a_or_b.not().not(), a_or_b);

    let namespaces = Selector::parse("!global() && (all() || env in {'p'} || !has(x))").unwrap();
    let prefixed = namespaces.rewrite_keys(|key| format!("pcns.{key}"));
    assert_eq!(
        prefixed.canonical(),
        r#"!global() && (all() || pcns.env in {"p"} || !has(pcns.x))"#
    );
    let mapped = prefixed.map_expr(|node| match node {
        Expr::All => Expr::Has(NAMESPACE_KEY.into()),
        Expr::Global => Expr::Has(NAMESPACE_KEY.into()).negated(),
        other => other,
    });
    assert_eq!(
        mapped.canonical(),
        r#"has(projectcalico.org/namespace) && (has(projectcalico.org/namespace) || pcns.env in {"p"} || !has(pcns.x))"#
    );
    assert_eq!(
        mapped.keys().into_iter().collect::<Vec<_>>(),
        ["pcns.env", "pcns.x", NAMESPACE_KEY]
    );
}

#[test]
fn labels_may_be_kept_in_many_ways() {
    let selector = Selector::parse("a == 'x' && !has(b)").unwrap();
    assert!(selector.evaluate(&BTreeMap::from([("a".to_owned(), "x".to_owned())])));
    assert!(selector.evaluate(&&HashMap::from([("a", "x")])));
    assert!(selector.evaluate(&LabelFn::new(|key| (key == "a").then_some("x"))));
    assert!(selector.evaluate([("a", "x"), ("a", "y")].as_slice()));
    let (own, inherited) = (
        BTreeMap::from([("a", "x")]),
        HashMap::from([("a", "y"), ("b", "z")]),
    );
    let layers: [&dyn Labels; 2] = [&own, &inherited];
    assert_eq!(
        (Layered(&layers).get("a"), Layered(&layers).get("b")),
        (Some("x"), Some("z"))
    );
    assert!(!selector.evaluate(&Layered(&layers)));
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec!["a", "b", "c", "in", "not"]).prop_map(str::to_owned),
        "[A-Za-z0-9_./-]{1,8}"
    ]
}

/// Values that the grammar can write: at most one kind of quote.
fn value() -> impl Strategy<Value = String> {
    prop_oneof!["[xyz]{0,2}", "[^\"]{0,6}", "[^']{0,6}"]
}

fn leaf() -> impl Strategy<Value = Expr> {
    prop_oneof![
        Just(Expr::All),
        Just(Expr::Global),
        key().prop_map(Expr::Has),
        (key(), value()).prop_map(|(k, v)| Expr::Eq(k, v)),
        (key(), value()).prop_map(|(k, v)| Expr::NotEq(k, v)),
        (key(), prop::collection::vec(value(), 0..4)).prop_map(|(k, v)| Expr::In(k, v)),
        (key(), prop::collection::vec(value(), 0..4)).prop_map(|(k, v)| Expr::NotIn(k, v)),
        (key(), value()).prop_map(|(k, v)| Expr::Contains(k, v)),
        (key(), value()).prop_map(|(k, v)| Expr::StartsWith(k, v)),
        (key(), value()).prop_map(|(k, v)| Expr::EndsWith(k, v)),
    ]
}

fn expr() -> impl Strategy<Value = Expr> {
    leaf().prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(Expr::negated),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Expr::And),
            prop::collection::vec(inner, 0..4).prop_map(Expr::Or),
        ]
    })
}

/// The meaning of a tree as it stands, written a second time and without the canonical shape.
fn oracle(expr: &Expr, labels: &BTreeMap<String, String>) -> bool {
    match expr {
        Expr::All => true,
        Expr::Global => !labels.contains_key(NAMESPACE_KEY),
        Expr::Has(k) => labels.contains_key(k),
        Expr::Eq(k, v) => labels.get(k) == Some(v),
        Expr::NotEq(k, v) => labels.get(k) != Some(v),
        Expr::In(k, v) => labels.get(k).is_some_and(|value| v.contains(value)),
        Expr::NotIn(k, v) => labels.get(k).is_none_or(|value| !v.contains(value)),
        Expr::Contains(k, v) => labels.get(k).is_some_and(|value| value.contains(v.as_str())),
        Expr::StartsWith(k, v) => labels.get(k).is_some_and(|value| value.starts_with(v.as_str())),
        Expr::EndsWith(k, v) => labels.get(k).is_some_and(|value| value.ends_with(v.as_str())),
        Expr::Not(inner) => !oracle(inner, labels),
        Expr::And(operands) => operands.iter().all(|operand| oracle(operand, labels)),
        Expr::Or(operands) => operands.iter().any(|operand| oracle(operand, labels)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn parsing_the_canonical_text_gives_the_same_selector(tree in expr()) {
        let selector = Selector::from_expr(tree);
        let again = Selector::parse(selector.canonical()).unwrap();
        prop_assert_eq!(selector.expr(), again.expr());
        prop_assert_eq!(selector.canonical(), again.canonical());
    }

    #[test]
    fn a_condensed_selector_is_the_same(
        tree in prop_oneof![expr(), odd_expr(), prop::collection::vec(leaf(), 0..4).prop_map(Expr::And)],
        labels in prop::collection::btree_map(key(), value(), 0..5),
    ) {
        let selector = Selector::from_expr(tree);
        let condensed = selector.condensed();
        prop_assert_eq!(condensed.is_all(), selector.is_all());
        prop_assert_eq!(&condensed, &selector);
        prop_assert_eq!(condensed.condensed().condensed(), selector.clone());
        prop_assert_eq!(condensed.evaluate(&labels), selector.evaluate(&labels));
        prop_assert_eq!(condensed.expr(), selector.expr());
    }

    #[test]
    fn the_canonical_shape_keeps_the_meaning(
        tree in expr(),
        labels in prop::collection::btree_map(key(), value(), 0..5),
        namespaced in any::<bool>(),
    ) {
        let mut labels = labels;
        if namespaced {
            labels.insert(NAMESPACE_KEY.to_owned(), "ns".to_owned());
        }
        prop_assert_eq!(Selector::from_expr(tree.clone()).evaluate(&labels), oracle(&tree, &labels));
    }

    #[test]
    fn different_trees_have_different_texts(left in odd_expr(), right in odd_expr()) {
        let (left, right) = (Selector::from_expr(left), Selector::from_expr(right));
        prop_assert_eq!(left.expr() == right.expr(), left.canonical() == right.canonical());
    }

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        if let Err(error) = Selector::parse(&text) {
            prop_assert!(text.is_char_boundary(error.position));
            prop_assert!(!error.caret(&text).is_empty());
        }
    }

    #[test]
    fn nearly_good_text_never_panics(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "a", "has", "(", ")", "all()", "global()", "==", "!=", "!", "&&", "||", "in", "not", "notin", "{",
                "}", ",", "'x'", "\"y\"", "contains", "starts", "with", "ends", " ", "'", "=", "ü", "\u{0}",
            ]),
            0..14,
        ),
        gap in prop::sample::select(vec!["", " "]),
    ) {
        let text = words.join(gap);
        match Selector::parse(&text) {
            Ok(selector) => prop_assert_eq!(Selector::parse(selector.canonical()).unwrap(), selector),
            Err(error) => {
                prop_assert!(text.is_char_boundary(error.position));
                prop_assert_eq!(error.column, text[..error.position].chars().count() + 1);
            }
        }
    }
}

/// Small trees over keys and values made of what the printer itself writes.
fn odd_expr() -> impl Strategy<Value = Expr> {
    let odd = || {
        prop::sample::select(vec![
            "",
            "a",
            "<",
            ">",
            "<>",
            "a>",
            "\"",
            "'",
            "'\"",
            "\"'",
            "'\"\"",
            "\" == \"'",
            "a) || has(a",
        ])
    };
    let leaf = prop_oneof![
        odd().prop_map(|k| Expr::Has(k.into())),
        (odd(), odd()).prop_map(|(k, v)| Expr::Eq(k.into(), v.into())),
        (odd(), prop::collection::vec(odd(), 0..3))
            .prop_map(|(k, v)| Expr::In(k.into(), v.into_iter().map(str::to_owned).collect())),
    ];
    leaf.prop_recursive(2, 4, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(Expr::negated),
            prop::collection::vec(inner, 0..3).prop_map(Expr::Or)
        ]
    })
}
