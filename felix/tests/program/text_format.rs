//! A strict reader of Prometheus' text form, version 0.0.4.
//!
//! The specification is "Exposition formats: Text-based format" in Prometheus' documentation, with the data model for
//! names, and what summaries and histograms must have.

use std::collections::{BTreeMap, BTreeSet};

/// One family of a page.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: String,
    /// Values by the name of the sample and its labels.
    pub(crate) samples: BTreeMap<(String, Labels), f64>,
}

pub(crate) type Labels = BTreeMap<String, String>;

/// Reads a page, or says which line breaks which rule.
pub(crate) fn parse(text: &str) -> Result<BTreeMap<String, Family>, String> {
    if !text.ends_with('\n') {
        return Err("the last line does not end in a line feed".to_owned());
    }
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut finished: BTreeSet<String> = BTreeSet::new();
    let mut current = String::new();
    for (number, line) in text.lines().enumerate() {
        let wrong = |why: &str| format!("line {}: {why}: {line}", number + 1);
        if line.is_empty() {
            continue;
        }
        let of = if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let rest = words.next().unwrap_or_default();
            if !["HELP", "TYPE"].contains(&what) {
                continue;
            }
            if !is_name(name, ":") {
                return Err(wrong("not a name of a metric"));
            }
            let family = families.entry(name.to_owned()).or_default();
            match what {
                "HELP" if !family.help.is_empty() => return Err(wrong("a second HELP")),
                "HELP" => family.help = unescaped(rest, false).ok_or_else(|| wrong("a stray backslash"))?,
                _ if !family.kind.is_empty() => return Err(wrong("a second TYPE")),
                _ if !family.samples.is_empty() => return Err(wrong("a TYPE behind its samples")),
                _ if !["counter", "gauge", "histogram", "summary", "untyped"].contains(&rest) => {
                    return Err(wrong("no such type"));
                }
                _ => family.kind = rest.to_owned(),
            }
            name.to_owned()
        } else if line.starts_with('#') {
            continue;
        } else {
            let (name, labels, value) = sample(line).map_err(|why| wrong(&why))?;
            let of = family_of(&families, &name).ok_or_else(|| wrong("a sample without a TYPE"))?;
            let family = families.entry(of.clone()).or_default();
            if family.samples.insert((name, labels), value).is_some() {
                return Err(wrong("a series that was there before"));
            }
            of
        };
        if of != current {
            if !finished.insert(of.clone()) {
                return Err(wrong("the lines of a family are not together"));
            }
            current = of;
        }
    }
    for (name, family) in &families {
        check(name, family).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(families)
}

/// The family that a sample belongs to: its own name, or that without the suffix of a histogram or summary.
fn family_of(families: &BTreeMap<String, Family>, sample: &str) -> Option<String> {
    let composed = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
        let name = sample.strip_suffix(suffix)?;
        let kind = families.get(name)?.kind.as_str();
        let fits = kind == "histogram" || (kind == "summary" && *suffix != "_bucket");
        fits.then(|| name.to_owned())
    });
    composed.or_else(|| {
        let family = families.get(sample)?;
        // The name alone is a sample of all types but the histogram.
        (!family.kind.is_empty() && family.kind != "histogram").then(|| sample.to_owned())
    })
}

fn is_name(text: &str, beside: &str) -> bool {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || beside.contains(letter);
    !text.is_empty() && text.chars().all(fits) && !text.starts_with(|c: char| c.is_ascii_digit())
}

/// The text with `\\`, `\n` and, in labels, `\"` replaced; none if another backslash or a bare quotation mark is there.
fn unescaped(text: &str, label: bool) -> Option<String> {
    let mut out = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => out.push(match letters.next()? {
                '\\' => '\\',
                'n' => '\n',
                '"' if label => '"',
                _ => return None,
            }),
            '"' if label => return None,
            other => out.push(other),
        }
    }
    Some(out)
}

fn sample(line: &str) -> Result<(String, Labels, f64), String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name, ":") {
        return Err("not a name of a metric".to_owned());
    }
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, behind) = rest.split_once("=\"").ok_or("a label without a value")?;
            if !is_name(label, "") {
                return Err(format!("{label:?} is not a name of a label"));
            }
            let mut escaped = false;
            let close = behind.find(|letter| {
                let closes = letter == '"' && !escaped;
                escaped = letter == '\\' && !escaped;
                closes
            });
            let close = close.ok_or("a label that is not closed")?;
            let value = unescaped(&behind[..close], true).ok_or("a stray backslash")?;
            if labels.insert(label.to_owned(), value).is_some() {
                return Err(format!("the label {label} twice"));
            }
            rest = &behind[close + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = &rest[1..];
    }
    let mut words = rest.split_ascii_whitespace();
    let value = words.next().ok_or("no value")?;
    if let Some(time) = words.next() {
        time.parse::<i64>().map_err(|_| "a time that is no number")?;
    }
    if words.next().is_some() {
        return Err("too many words".to_owned());
    }
    // Go's ParseFloat: what Rust reads beside numbers is spelled otherwise there.
    let value = match value {
        "NaN" => f64::NAN,
        "+Inf" | "Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number if number.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => {
            number.parse().map_err(|_| "a value that is no number")?
        }
        _ => return Err("a value that is no number".to_owned()),
    };
    Ok((name.to_owned(), labels, value))
}

fn check(name: &str, family: &Family) -> Result<(), String> {
    if family.kind.is_empty() {
        return Err("no TYPE".to_owned());
    }
    if family.help.is_empty() {
        return Err("no HELP".to_owned());
    }
    // Series by their labels without those that the type itself gives.
    let mut series: BTreeMap<Labels, BTreeMap<(&str, String), f64>> = BTreeMap::new();
    for ((sample, labels), value) in &family.samples {
        let mut rest = labels.clone();
        let own = match family.kind.as_str() {
            "histogram" => rest.remove("le"),
            "summary" => rest.remove("quantile"),
            _ => None,
        };
        let suffix = sample.strip_prefix(name).unwrap_or_default();
        series
            .entry(rest)
            .or_default()
            .insert((suffix, own.unwrap_or_default()), *value);
    }
    for (labels, values) in series {
        let at = |suffix: &'static str, own: &str| values.get(&(suffix, own.to_owned())).copied();
        match family.kind.as_str() {
            "counter" if values.values().any(|v| v.is_nan() || *v < 0.0) => {
                return Err("a counter below zero".to_owned());
            }
            "summary" | "histogram" if at("_sum", "").is_none() || at("_count", "").is_none() => {
                return Err(format!("no sum or no count for {labels:?}"));
            }
            _ => {}
        }
        if family.kind == "summary" {
            let quantiles = values.keys().filter(|(suffix, _)| suffix.is_empty());
            for (_, quantile) in quantiles {
                let share: f64 = quantile.parse().map_err(|_| format!("quantile {quantile:?}"))?;
                if !(0.0..=1.0).contains(&share) {
                    return Err(format!("quantile {quantile:?}"));
                }
            }
        }
        if family.kind == "histogram" {
            if at("_bucket", "+Inf") != at("_count", "") {
                return Err("the bucket +Inf is not the count".to_owned());
            }
            let mut buckets: Vec<(f64, f64)> = Vec::new();
            for ((suffix, bound), value) in &values {
                if *suffix == "_bucket" {
                    let bound = bound
                        .replace("+Inf", "inf")
                        .parse()
                        .map_err(|_| format!("bound {bound:?}"))?;
                    buckets.push((bound, *value));
                }
            }
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            if !buckets.is_sorted_by(|a, b| a.1 <= b.1) {
                return Err("buckets are not cumulative".to_owned());
            }
        }
    }
    Ok(())
}

#[test]
fn the_reader_is_strict() {
    let good = "# HELP a A\n# TYPE a counter\na{x=\"1,\\\"\\\\\\n}\",y=\"\"} 1 1395066363000\na 2e3\n\
                # a comment\n# HELP h H\n# TYPE h histogram\nh_bucket{le=\"0.5\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n\
                # HELP s S\n# TYPE s summary\ns{quantile=\"0.5\"} NaN\ns_sum 0\ns_count 0\n";
    let families = parse(good).unwrap();
    assert_eq!(families.len(), 3);
    assert!(
        families["a"]
            .samples
            .keys()
            .any(|(_, l)| l.get("x").map(String::as_str) == Some("1,\"\\\n}"))
    );
    for (bad, why) in [
        ("# HELP a A\n# TYPE a counter\na 1", "line feed"),
        ("a 1\n", "without a TYPE"),
        ("# HELP a A\n# TYPE a counter\na 1\na 2\n", "there before"),
        (
            "# HELP a A\n# TYPE a counter\na{x=\"1\"} 1\na{x=\"1\"} 1\n",
            "there before",
        ),
        ("# HELP a A\n# HELP a B\n# TYPE a counter\na 1\n", "second HELP"),
        (
            "# HELP a A\n# TYPE a counter\n# TYPE a gauge\na 1\n",
            "second TYPE",
        ),
        ("# HELP a A\n# TYPE a number\na 1\n", "no such type"),
        ("# TYPE a counter\na 1\n", "no HELP"),
        ("# HELP a A\n# TYPE a counter\na -1\n", "below zero"),
        ("# HELP a A\n# TYPE a gauge\na one\n", "no number"),
        ("# HELP a A\n# TYPE a gauge\na nan\n", "no number"),
        ("# HELP a A\n# TYPE a gauge\na\n", "no value"),
        ("# HELP a A\n# TYPE a gauge\na 1 2 3\n", "too many words"),
        ("# HELP a A\n# TYPE a gauge\na{1=\"x\"} 1\n", "name of a label"),
        ("# HELP a A\n# TYPE a gauge\na{x=\"\\x\"} 1\n", "stray backslash"),
        ("# HELP a A\n# TYPE a gauge\na{x=\"1} 1\n", "not closed"),
        ("# HELP 1a A\n", "name of a metric"),
        (
            "# HELP a A\n# TYPE a gauge\n# HELP b B\n# TYPE b gauge\nb 1\na 1\n",
            "not together",
        ),
        (
            "# HELP h H\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 1\n",
            "not the count",
        ),
        (
            "# HELP h H\n# TYPE h histogram\nh_bucket{le=\"1\"} 3\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n",
            "cumulative",
        ),
        ("# HELP h H\n# TYPE h histogram\nh 1\n", "without a TYPE"),
        (
            "# HELP s S\n# TYPE s summary\ns{quantile=\"2\"} 1\ns_sum 0\ns_count 0\n",
            "quantile",
        ),
        (
            "# HELP s S\n# TYPE s summary\ns{quantile=\"1\"} 1\ns_sum 0\n",
            "no count",
        ),
    ] {
        let refused = parse(bad).expect_err(bad);
        assert!(refused.contains(why), "{refused:?} is not about {why:?}");
    }
}
