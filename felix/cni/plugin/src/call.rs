//! What the runtime asks, by environment variables.

use crate::failure::Failure;
use std::ffi::OsString;

/// Longest name of an interface, in bytes, without the end that the kernel adds.
const LONGEST_INTERFACE: usize = 15;

/// Reads an environment variable.
pub(crate) type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// The commands by their names.
const VERBS: [(&str, Verb); 6] = [
    ("ADD", Verb::Add),
    ("DEL", Verb::Del),
    ("CHECK", Verb::Check),
    ("GC", Verb::Gc),
    ("STATUS", Verb::Status),
    ("VERSION", Verb::Version),
];

/// One attachment, as the runtime names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) container: String,
    pub(crate) interface: String,
    /// Path of the sandbox's network namespace; empty where the runtime has none any more.
    pub(crate) namespace: String,
}

/// The pod, as the runtime names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Reads the command.
pub(crate) fn verb(variables: Variables<'_>) -> Result<Verb, Failure> {
    let name = text(variables, "CNI_COMMAND")?;
    let found = VERBS.iter().find(|(known, _)| *known == name);
    found.map(|(_, verb)| *verb).ok_or_else(|| {
        let known = VERBS.map(|(known, _)| known).join(", ");
        let reason = if name.is_empty() {
            "it is not set".to_owned()
        } else {
            format!("{name:?} is no command")
        };
        Failure::environment("CNI_COMMAND", reason).with_details(format!(
            "a container runtime starts this program, with one of: {known}"
        ))
    })
}

/// Reads which attachment is meant. Only for removals may the namespace lack.
pub(crate) fn target(variables: Variables<'_>, verb: Verb) -> Result<Target, Failure> {
    let container = text(variables, "CNI_CONTAINERID")?;
    if !is_identifier(&container) {
        return Err(Failure::environment(
            "CNI_CONTAINERID",
            format!(
                "{container:?} does not begin with a letter or digit and go on with these, dots, hyphens and underscores"
            ),
        ));
    }
    let interface = text(variables, "CNI_IFNAME")?;
    if let Some(flaw) = interface_flaw(&interface) {
        return Err(Failure::environment(
            "CNI_IFNAME",
            format!("{interface:?} {flaw}"),
        ));
    }
    let namespace = text(variables, "CNI_NETNS")?;
    if namespace.is_empty() && verb != Verb::Del {
        return Err(Failure::environment("CNI_NETNS", "it is not set"));
    }
    Ok(Target {
        container,
        interface,
        namespace,
    })
}

/// Reads which pod is meant; all empty where the runtime does not say.
pub(crate) fn pod(variables: Variables<'_>) -> Result<Pod, Failure> {
    let mut pod = Pod::default();
    for pair in text(variables, "CNI_ARGS")?.split(';').filter(|p| !p.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(Failure::environment(
                "CNI_ARGS",
                format!("{pair:?} is not of the form NAME=VALUE"),
            ));
        };
        match name {
            "K8S_POD_NAMESPACE" => value.clone_into(&mut pod.namespace),
            "K8S_POD_NAME" => value.clone_into(&mut pod.name),
            "K8S_POD_UID" => value.clone_into(&mut pod.uid),
            // Others are others' (K8S_POD_INFRA_CONTAINER_ID says what CNI_CONTAINERID does).
            _ => {}
        }
    }
    Ok(pod)
}

/// The pod, where there has to be one.
pub(crate) fn known_pod(variables: Variables<'_>) -> Result<Pod, Failure> {
    let pod = pod(variables)?;
    for (name, value) in [("K8S_POD_NAMESPACE", &pod.namespace), ("K8S_POD_NAME", &pod.name)] {
        if value.is_empty() {
            return Err(Failure::environment("CNI_ARGS", format!("{name} is not in it"))
                .with_details("the agent finds a pod's policy by its namespace and name"));
        }
    }
    Ok(pod)
}

/// Whether a text may be the identity of a sandbox or the name of a network.
pub(crate) fn is_identifier(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn interface_flaw(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is no name of an interface")
    } else if name.len() > LONGEST_INTERFACE {
        Some("is longer than 15 characters")
    } else if name == "." || name == ".." {
        Some("is a folder's name")
    } else if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        Some("has a slash, a colon or white space in it")
    } else {
        None
    }
}

fn text(variables: Variables<'_>, name: &str) -> Result<String, Failure> {
    match variables(name) {
        None => Ok(String::new()),
        Some(value) => value
            .into_string()
            .map_err(|_| Failure::environment(name, "its value is no UTF-8 text")),
    }
}
