//! Where the objects of each kind come from: which resource of the API server, and under which path.

use policy_model::{
    KUBERNETES_POLICY_PREFIX, Key, Kind, NAMESPACE_PROFILE_PREFIX, SERVICE_ACCOUNT_PROFILE_PREFIX,
};
use policy_model_datastore::Selection;

/// Our group.
pub(crate) const GROUP: &str = "projectcalico.org";

/// A resource of the API server that our objects are, or are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// A custom resource: the object itself.
    Custom(Kind),
    /// Namespaces, which become profiles.
    Namespaces,
    /// Service accounts, which become profiles.
    ServiceAccounts,
    /// Pods, which become workload endpoints.
    Pods,
    /// Nodes.
    Nodes,
    /// Endpoint slices, which become service endpoints.
    EndpointSlices,
    /// Kubernetes' policies, which become policies.
    Policies,
}

impl Origin {
    /// What the objects of a kind come from.
    pub(crate) fn of(kind: Kind, translate: bool) -> &'static [Origin] {
        if !translate {
            return custom(kind);
        }
        match kind {
            Kind::Profile => &[Origin::Namespaces, Origin::ServiceAccounts],
            Kind::WorkloadEndpoint => &[Origin::Pods],
            Kind::Node => &[Origin::Nodes],
            Kind::ServiceEndpoints => &[Origin::EndpointSlices],
            Kind::NetworkPolicy => &[Origin::Policies, Origin::Custom(Kind::NetworkPolicy)],
            _ => custom(kind),
        }
    }

    /// What has to be asked for a selection.
    pub(crate) fn of_selection(selection: &Selection, translate: bool) -> Vec<Origin> {
        selection
            .selected_kinds()
            .flat_map(|kind| Origin::of(kind, translate).iter().copied())
            .collect()
    }

    /// The kind of our objects that this becomes.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Origin::Custom(kind) => kind,
            Origin::Namespaces | Origin::ServiceAccounts => Kind::Profile,
            Origin::Pods => Kind::WorkloadEndpoint,
            Origin::Nodes => Kind::Node,
            Origin::EndpointSlices => Kind::ServiceEndpoints,
            Origin::Policies => Kind::NetworkPolicy,
        }
    }

    /// What people call the resource.
    pub(crate) fn resource(self) -> String {
        match self {
            Origin::Custom(kind) => format!("{}.{GROUP}", kind.plural()),
            Origin::EndpointSlices => "endpointslices.discovery.k8s.io".into(),
            Origin::Policies => "networkpolicies.networking.k8s.io".into(),
            Origin::Namespaces => "namespaces".into(),
            Origin::ServiceAccounts => "serviceaccounts".into(),
            Origin::Pods => "pods".into(),
            Origin::Nodes => "nodes".into(),
        }
    }

    /// What one object of the resource is called, as errors name it to people.
    pub(crate) fn singular(self) -> &'static str {
        match self {
            Origin::Custom(kind) => kind.as_str(),
            Origin::Namespaces => "Namespace",
            Origin::ServiceAccounts => "ServiceAccount",
            Origin::Pods => "Pod",
            Origin::Nodes => "Node",
            Origin::EndpointSlices => "EndpointSlice",
            Origin::Policies => "NetworkPolicy of networking.k8s.io",
        }
    }

    /// The path of the resource: of all namespaces, or of one.
    pub(crate) fn path(self, namespace: Option<&str>) -> String {
        let (base, plural) = match self {
            Origin::Custom(kind) => ("/apis/projectcalico.org/v3", kind.plural()),
            Origin::EndpointSlices => ("/apis/discovery.k8s.io/v1", "endpointslices"),
            Origin::Policies => ("/apis/networking.k8s.io/v1", "networkpolicies"),
            Origin::Namespaces => ("/api/v1", "namespaces"),
            Origin::ServiceAccounts => ("/api/v1", "serviceaccounts"),
            Origin::Pods => ("/api/v1", "pods"),
            Origin::Nodes => ("/api/v1", "nodes"),
        };
        match namespace {
            Some(namespace) => format!("{base}/namespaces/{namespace}/{plural}"),
            None => format!("{base}/{plural}"),
        }
    }

    /// Whether the resource may be unknown to the API server: its definition is a matter of installation.
    pub(crate) fn may_be_absent(self) -> bool {
        matches!(self, Origin::Custom(_))
    }
}

fn custom(kind: Kind) -> &'static [Origin] {
    macro_rules! each {
        ($($kind:ident)*) => { match kind { $(Kind::$kind => &[Origin::Custom(Kind::$kind)],)* } };
    }
    each!(Tier NetworkPolicy GlobalNetworkPolicy Profile WorkloadEndpoint HostEndpoint NetworkSet GlobalNetworkSet
        ServiceEndpoints IPPool IPReservation IPAMBlock BlockAffinity IPAMHandle IPAMConfig Node FelixConfiguration
        ClusterInformation BGPConfiguration BGPPeer)
}

/// Where one object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The object of this name, in this namespace where the resource has them.
    Named(Origin, Option<String>, String),
    /// One of this namespace's; its name there cannot be told from ours, which was shortened.
    Among(Origin, Option<String>),
    /// No object can have such a name.
    Nowhere,
}

impl Place {
    /// Where the object of a key is.
    pub(crate) fn of(key: &Key, translate: bool) -> Place {
        let namespace = (!key.namespace.is_empty()).then(|| key.namespace.clone());
        let names_are_possible = is_name(&key.name) && namespace.as_deref().is_none_or(is_label);
        if !names_are_possible || namespace.is_some() != key.kind.is_namespaced() {
            return Place::Nowhere;
        }
        let here = |origin| Place::Named(origin, namespace.clone(), key.name.clone());
        if !translate {
            return here(Origin::Custom(key.kind));
        }
        match key.kind {
            Kind::Profile => profile(&key.name),
            Kind::Node => here(Origin::Nodes),
            Kind::ServiceEndpoints => here(Origin::EndpointSlices),
            Kind::NetworkPolicy => match key.name.strip_prefix(KUBERNETES_POLICY_PREFIX) {
                // A name that was cut could stand at its greatest length only.
                Some(name) if key.name.len() < 253 => Place::Named(Origin::Policies, namespace, name.into()),
                Some(_) => Place::Among(Origin::Policies, namespace),
                None => here(Origin::Custom(Kind::NetworkPolicy)),
            },
            Kind::WorkloadEndpoint => match pod_of(&key.name) {
                Some(pod) if key.name.len() < 200 => Place::Named(Origin::Pods, namespace, pod),
                _ => Place::Among(Origin::Pods, namespace),
            },
            kind => here(Origin::Custom(kind)),
        }
    }
}

fn profile(name: &str) -> Place {
    if let Some(namespace) = name.strip_prefix(NAMESPACE_PROFILE_PREFIX) {
        return Place::Named(Origin::Namespaces, None, namespace.into());
    }
    // Namespaces have no dot in their names.
    match name
        .strip_prefix(SERVICE_ACCOUNT_PROFILE_PREFIX)
        .and_then(|rest| rest.split_once('.'))
    {
        Some((namespace, _)) if name.len() >= 200 => {
            Place::Among(Origin::ServiceAccounts, Some(namespace.into()))
        }
        Some((namespace, account)) => {
            Place::Named(Origin::ServiceAccounts, Some(namespace.into()), account.into())
        }
        None => Place::Nowhere,
    }
}

/// The pod of an endpoint's name `<node>-k8s-<pod>-eth0`, whose parts have their dashes doubled.
fn pod_of(name: &str) -> Option<String> {
    const MIDDLE: &str = "-k8s-";
    let rest = name.strip_suffix("-eth0")?;
    // Every place is looked at: one that is none may reach into the one that is.
    let (at, _) = rest.match_indices('-').find(|(at, _)| {
        let (Some(node), Some(behind)) = (rest.get(..*at), rest.get(*at..)) else {
            return false;
        };
        let pod = behind.strip_prefix(MIDDLE);
        let is_part = |text: &str| !text.is_empty() && !text.starts_with('-') && !text.ends_with('-');
        is_part(node) && pod.is_some_and(is_part)
    })?;
    Some(rest.get(at + MIDDLE.len()..)?.replace("--", "-"))
}

/// Whether the API server could have an object of this name: it goes into a path, so nothing else may.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_part)
}

/// Whether this could be a namespace's name.
pub(crate) fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_part(text)
}

fn is_part(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.bytes().all(|b| plain(b) || b == b'-')
        && text.bytes().next().is_some_and(plain)
        && text.bytes().next_back().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_model_kubernetes::workload_endpoint_name;
    use proptest::prelude::*;

    const NAME: &str = "[a-z0-9]([a-z0-9-]{0,12}[a-z0-9])?";

    proptest! {
        #[test]
        fn the_pod_of_an_endpoint_is_found_by_its_name(node in NAME, pod in NAME) {
            let name = workload_endpoint_name(&node, &pod);
            prop_assert_eq!(pod_of(&name), Some(pod));
        }
    }

    #[test]
    fn nodes_and_pods_that_look_like_the_middle_confuse_nobody() {
        for (node, pod) in [
            ("x-k8s-y", "k8s"),
            ("k8s", "a-k8s-b"),
            ("a-eth0", "eth0"),
            ("k8s-k8s", "k8s-eth0"),
        ] {
            assert_eq!(pod_of(&workload_endpoint_name(node, pod)).as_deref(), Some(pod));
        }
        for strange in ["", "eth0", "-eth0", "a-k8s-eth0", "-k8s--eth0", "a--k8s--b-eth0"] {
            assert_eq!(pod_of(strange), None, "{strange}");
        }
    }

    #[test]
    fn strange_names_are_nowhere() {
        for name in [
            "",
            "..",
            "../../etc/passwd",
            "a/b",
            "UPPER",
            "a b",
            "\0",
            "ü",
            "a?b",
            "a%2fb",
            "-a",
            "a.",
        ] {
            assert_eq!(
                Place::of(&Key::global(Kind::Tier, name), true),
                Place::Nowhere,
                "{name}"
            );
        }
        let elsewhere = Key::namespaced(Kind::NetworkSet, "a.b", "x");
        assert_eq!(Place::of(&elsewhere, true), Place::Nowhere);
        assert_eq!(
            Place::of(&Key::namespaced(Kind::Tier, "a", "x"), true),
            Place::Nowhere
        );
        assert_eq!(
            Place::of(&Key::global(Kind::NetworkSet, "x"), true),
            Place::Nowhere
        );
    }

    #[test]
    fn profiles_and_policies_lead_to_what_they_are_made_of() {
        let of = |key| Place::of(&key, true);
        let named = |origin, namespace: Option<&str>, name: &str| {
            Place::Named(origin, namespace.map(String::from), name.into())
        };
        assert_eq!(
            of(Key::global(Kind::Profile, "kns.shop")),
            named(Origin::Namespaces, None, "shop")
        );
        assert_eq!(
            of(Key::global(Kind::Profile, "ksa.shop.a.b")),
            named(Origin::ServiceAccounts, Some("shop"), "a.b")
        );
        assert_eq!(of(Key::global(Kind::Profile, "other")), Place::Nowhere);
        assert_eq!(
            of(Key::namespaced(Kind::NetworkPolicy, "shop", "knp.default.web")),
            named(Origin::Policies, Some("shop"), "web")
        );
        assert_eq!(
            of(Key::namespaced(Kind::NetworkPolicy, "shop", "web")),
            named(Origin::Custom(Kind::NetworkPolicy), Some("shop"), "web")
        );
    }
}
