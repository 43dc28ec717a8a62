//! Golden translations: each `tests/golden/<case>.yaml` beside what it becomes, `<case>.expected.yaml`.
//!
//! `MANX_REFRESH_GOLDEN=1 cargo test -p policy-model-kubernetes --test golden` writes the second anew.

#![allow(clippy::unwrap_used, clippy::panic)] // In a helper of a test too, a panic is the failure itself.

use policy_model_kubernetes::ManifestSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The faults as comments, then every resource. Pods that name no node run on `n1`.
fn translated(name: &str, text: &str) -> String {
    let mut set = ManifestSet::new();
    set.set_file(name, text);
    let homeless: Vec<_> = set
        .unassigned_pods()
        .map(|pod| (pod.namespace.clone(), pod.name.clone()))
        .collect();
    set.set_assignments(homeless.into_iter().map(|pod| (pod, "n1".to_string())).collect());
    let mut out = String::new();
    for fault in set.faults() {
        writeln!(out, "# {:?}: {fault}", fault.consequence).unwrap();
    }
    for resource in set.resources() {
        assert_eq!(resource.validate(), Ok(()), "{}", resource.key());
        let value = resource.to_value();
        let parsed = policy_model::Resource::parse(value.clone()).unwrap();
        assert_eq!((&parsed.resource, parsed.unknown_fields), (resource, Vec::new()));
        write!(out, "---\n{}", serde_norway::to_string(&value).unwrap()).unwrap();
    }
    out
}

#[test]
fn manifests_become_what_the_golden_files_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let is_input =
        |path: &PathBuf| path.extension().is_some_and(|e| e == "yaml") && !path.ends_with(".expected.yaml");
    let mut inputs: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    inputs.retain(|path| is_input(path) && !path.to_string_lossy().ends_with(".expected.yaml"));
    inputs.sort();
    assert!(inputs.len() >= 9, "the golden files are gone: {inputs:?}");
    let mut wrong = Vec::new();
    for input in inputs {
        let name = input.file_name().unwrap().to_string_lossy().into_owned();
        let found = translated(&name, &std::fs::read_to_string(&input).unwrap());
        let golden = input.with_extension("expected.yaml");
        if std::env::var_os("MANX_REFRESH_GOLDEN").is_some() {
            std::fs::write(&golden, &found).unwrap();
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != found {
            wrong.push(format!("{name}:\n{found}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "not as in the golden files:\n{}",
        wrong.join("\n")
    );
}
