//! Objects to records: what the resources of endpoints, sets, policies and profiles say to the rooms behind.

use crate::address_book::BlockChange;
use crate::fault::{Fault, InForce};
use crate::graph::CalcGraph;
use crate::items::{Item, ItemKey, ItemKind, NO_POD, NamedPort, named_ports};
use crate::locals::Interface;
use crate::nets::{Nets, is_address};
use crate::shared_lists::ListId;
use dataplane_api::EndpointId;
use ipnet::IpNet;
use policy_model::{
    FieldError, HostEndpointSpec, Key, Kind, Metadata, NAMESPACE_PROFILE_PREFIX, NetworkSetSpec, Object,
    Resource, WorkloadEndpointSpec,
};
use policy_model_rules::{AddressSet, CompiledPolicy, PolicyId, PolicyKind, compile_policy};
use policy_model_selector::index::{ItemId, ParentId, Symbol};

/// What an item is to become; its labels are in the graph's buffer.
struct NewItem<'a> {
    kind: ItemKind,
    namespace: Symbol,
    name: &'a str,
    node: Symbol,
    nets: Nets,
    ports: Vec<NamedPort>,
    profiles: &'a [u32],
    /// Name of the pod whose addresses it has, where the resource says none.
    pod: Option<&'a str>,
    own: bool,
}

impl CalcGraph {
    /// Takes in a workload endpoint.
    pub(crate) fn upsert_workload(&mut self, object: Object<WorkloadEndpointSpec>) -> Result<(), Fault> {
        let Object { metadata, spec } = object;
        let key = || {
            Key::namespaced(
                Kind::WorkloadEndpoint,
                metadata.namespace.as_str(),
                metadata.name.as_str(),
            )
        };
        let is_local = spec.node == self.config.node;
        let mac = match faults_of(&metadata, &spec) {
            Ok(mac) => mac,
            Err(faults) => {
                let key = key();
                let in_force = if self.knows(&key) {
                    InForce::LastValid
                } else {
                    InForce::Nothing
                };
                return Err(Fault {
                    key,
                    faults,
                    in_force,
                });
            }
        };
        // Without the name of its interface nothing can be enforced; but it is a peer of others.
        let is_enforced = is_local && !spec.interface_name.is_empty();

        let namespace = self.interner.intern(&metadata.namespace);
        let node = self.interner.intern(&spec.node);
        self.read_labels(&metadata);
        // What the endpoint is, whatever its author labelled it: else a label could put it into another's namespace.
        let keys = self.own_labels;
        self.set_label(keys.namespace, namespace);
        for (key, value) in [
            (keys.orchestrator, &spec.orchestrator),
            (keys.service_account, &spec.service_account_name),
        ] {
            if !value.is_empty() {
                let value = self.interner.intern(value);
                self.set_label(key, value);
            }
        }
        let profiles = self.profile_numbers(spec.profiles.iter().map(String::as_str));
        let pod_name = if spec.pod.is_empty() {
            &metadata.name
        } else {
            &spec.pod
        };
        let pod = spec.ip_networks.is_empty().then_some(pod_name.as_str());
        let nets = match pod {
            None => Nets::of(spec.ip_networks.iter().copied()),
            Some(pod) => Nets::of(
                self.book
                    .addresses_of(namespace, pod)
                    .iter()
                    .copied()
                    .map(IpNet::from),
            ),
        };
        let addresses = if is_enforced {
            nets.addresses().collect()
        } else {
            Vec::new()
        };
        let was_enforced = self.put_item(NewItem {
            kind: ItemKind::Workload,
            namespace,
            name: &metadata.name,
            node,
            nets,
            ports: named_ports(&spec.ports),
            profiles: &profiles,
            pod,
            own: is_enforced,
        });
        if is_enforced {
            let mut spoofable: Vec<IpNet> = spec
                .allow_spoofed_source_prefixes
                .iter()
                .map(IpNet::trunc)
                .collect();
            spoofable.sort_unstable();
            spoofable.dedup();
            let id = endpoint_id(&metadata.namespace, &metadata.name);
            self.put_local(
                id,
                Interface {
                    name: spec.interface_name,
                    mac,
                    addresses,
                    spoofable,
                    profiles,
                },
            );
        } else {
            if was_enforced {
                self.remove_local(&metadata.namespace, &metadata.name);
            }
            if is_local {
                let fault = FieldError::new("spec.interfaceName", "is missing");
                return Err(Fault::of(key(), fault, InForce::Nothing));
            }
        }
        Ok(())
    }

    /// Takes in a valid host endpoint.
    pub(crate) fn upsert_host_endpoint(&mut self, object: &Object<HostEndpointSpec>) {
        let Object { metadata, spec } = object;
        let namespace = self.interner.intern("");
        let node = self.interner.intern(&spec.node);
        self.read_labels(metadata);
        let profiles = self.profile_numbers(spec.profiles.iter().map(String::as_str));
        self.put_item(NewItem {
            kind: ItemKind::HostEndpoint,
            namespace,
            name: &metadata.name,
            node,
            nets: Nets::of(spec.expected_ips.iter().copied().map(IpNet::from)),
            ports: named_ports(&spec.ports),
            profiles: &profiles,
            pod: None,
            own: spec.node == self.config.node,
        });
    }

    /// Takes in a valid network set. One of a namespace carries that namespace's labels, as if it were an endpoint.
    pub(crate) fn upsert_network_set(&mut self, kind: ItemKind, metadata: &Metadata, spec: &NetworkSetSpec) {
        let namespace = self.interner.intern(&metadata.namespace);
        let node = self.interner.intern("");
        self.read_labels(metadata);
        let mut profiles = Vec::new();
        if kind == ItemKind::NetworkSet {
            self.set_label(self.own_labels.namespace, namespace);
            let profile = format!("{NAMESPACE_PROFILE_PREFIX}{}", metadata.namespace);
            profiles.push(self.profiles.number_of(&profile));
        }
        self.put_item(NewItem {
            kind,
            namespace,
            name: &metadata.name,
            node,
            nets: Nets::of(spec.nets.iter().copied()),
            ports: Vec::new(),
            profiles: &profiles,
            pod: None,
            own: true,
        });
    }

    /// Interns an object's labels into the buffer.
    fn read_labels(&mut self, metadata: &Metadata) {
        self.labels.clear();
        for (place, (key, value)) in metadata.labels.iter().enumerate() {
            let recent = self.recent_keys.get(place).copied();
            let key = match recent.filter(|recent| self.interner.resolve(*recent) == key) {
                Some(recent) => recent,
                None => {
                    let symbol = self.interner.intern(key);
                    match self.recent_keys.get_mut(place) {
                        Some(slot) => *slot = symbol,
                        None => self.recent_keys.push(symbol),
                    }
                    symbol
                }
            };
            let value = self.interner.intern(value);
            self.labels.push((key, value));
        }
    }

    /// Adds a label to the buffer, or replaces it there.
    fn set_label(&mut self, key: Symbol, value: Symbol) {
        match self.labels.iter_mut().find(|(other, _)| *other == key) {
            Some(known) => known.1 = value,
            None => self.labels.push((key, value)),
        }
    }

    fn profile_numbers<'a>(&mut self, names: impl Iterator<Item = &'a str>) -> Vec<u32> {
        let mut numbers = Vec::new();
        for name in names {
            let number = self.profiles.number_of(name);
            if !numbers.contains(&number) {
                numbers.push(number);
            }
        }
        numbers
    }

    /// Enters an item, or makes what is known of it what it is to be. Returns whether it was [`Item::own`] before.
    fn put_item(&mut self, new: NewItem<'_>) -> bool {
        let NewItem {
            kind,
            namespace,
            name,
            node,
            nets,
            ports,
            profiles,
            pod,
            own,
        } = new;
        // In the order of the index, which need not sort a copy then.
        self.labels.sort_unstable();
        let (ports, _) = self.items.ports.acquire(&ports);
        let profile_list = self.acquire_profiles(profiles);
        self.parents.clear();
        self.parents
            .extend(profiles.iter().map(|number| ParentId(*number)));

        let known = self.items.find(&ItemKey {
            kind,
            namespace,
            name,
        });
        let Some(id) = known else {
            let id = self.items.insert(Item {
                name: name.into(),
                nets,
                namespace,
                node,
                ports,
                profiles: profile_list,
                pod: NO_POD,
                kind,
                own,
            });
            self.counts[kind as usize] += 1;
            self.bind_pod(id, pod);
            self.touch_routes(id);
            self.atoms
                .set_labels(&self.interner, &self.items, id, &self.labels, &self.parents);
            return false;
        };
        let was_own = self.items.get(id).is_some_and(|item| item.own);
        let same_place = self.items.get(id).is_some_and(|item| item.node == node);
        let same_nets = self.items.get(id).is_some_and(|item| item.nets == nets);
        if same_nets && self.items.get(id).is_some_and(|item| item.ports == ports) && was_own == own {
            self.atoms
                .set_labels(&self.interner, &self.items, id, &self.labels, &self.parents);
            if !same_place {
                self.touch_routes(id);
            }
            self.replace_lists(id, ports, profile_list);
        } else {
            self.touch_routes(id);
            self.atoms.withdraw(&self.interner, &self.items, id);
            self.replace_lists(id, ports, profile_list);
            if let Some(item) = self.items.get_mut(id) {
                item.own = own;
            }
            if !same_nets {
                self.items.set_nets(id, nets);
            }
            self.atoms
                .set_labels_quietly(&self.interner, id, &self.labels, &self.parents);
            self.atoms.contribute(&self.interner, &self.items, id);
        }
        if let Some(item) = self.items.get_mut(id) {
            item.node = node;
        }
        if !(same_nets && same_place) {
            self.touch_routes(id);
        }
        self.bind_pod(id, pod);
        was_own
    }

    /// Gives an item other addresses, those that the blocks say.
    fn set_nets(&mut self, id: ItemId, nets: Nets) {
        if self.items.get(id).is_none_or(|item| item.nets == nets) {
            return;
        }
        self.touch_routes(id);
        self.atoms.withdraw(&self.interner, &self.items, id);
        self.items.set_nets(id, nets);
        self.atoms.contribute(&self.interner, &self.items, id);
        self.touch_routes(id);
        let Some(item) = self
            .items
            .get(id)
            .filter(|item| item.own && item.kind == ItemKind::Workload)
        else {
            return;
        };
        let id = endpoint_id(self.interner.resolve(item.namespace), &item.name);
        let addresses = item.nets.addresses().collect();
        if let Some(number) = self.locals.find(&id) {
            self.locals.set_addresses(number, addresses);
        }
    }

    /// Takes an item out.
    pub(crate) fn remove_item(&mut self, kind: ItemKind, key: &Key) {
        let Some(id) = self.find_item(kind, key) else {
            return;
        };
        self.touch_routes(id);
        self.atoms.remove_item(&self.interner, &self.items, id);
        self.bind_pod(id, None);
        let Some(item) = self.items.remove(id) else { return };
        self.counts[kind as usize] -= 1;
        self.items.ports.release(item.ports);
        self.release_profiles(item.profiles);
        if kind == ItemKind::Workload && item.own {
            self.remove_local(&key.namespace, &key.name);
        }
    }

    pub(crate) fn find_item(&self, kind: ItemKind, key: &Key) -> Option<ItemId> {
        let namespace = self.interner.find(&key.namespace)?;
        self.items.find(&ItemKey {
            kind,
            namespace,
            name: &key.name,
        })
    }

    /// Looks at an endpoint's routes, as it is now, at the next flush.
    fn touch_routes(&mut self, id: ItemId) {
        if let Some(item) = self.items.get(id).filter(|item| item.kind == ItemKind::Workload) {
            self.routes.touch_endpoint(item.node, item.nets.iter());
        }
    }

    fn bind_pod(&mut self, id: ItemId, pod: Option<&str>) {
        let Some(item) = self.items.get(id) else { return };
        let (namespace, before) = (item.namespace, item.pod);
        if before == NO_POD && pod.is_none() {
            return;
        }
        let now = pod.map_or(NO_POD, |pod| self.book.bind(namespace, pod, id));
        if before != NO_POD && before != now {
            self.book.unbind(before, id);
        }
        if let Some(item) = self.items.get_mut(id) {
            item.pod = now;
        }
    }

    /// Follows a change of a block to endpoints and routes.
    pub(crate) fn follow_block(&mut self, change: BlockChange) {
        for id in change.items {
            let Some(item) = self.items.get(id) else { continue };
            let nets = Nets::of(self.book.addresses(item.pod).iter().copied().map(IpNet::from));
            self.set_nets(id, nets);
        }
        for range in change.ranges {
            self.routes.touch_block(range, &self.items);
        }
    }

    fn replace_lists(&mut self, id: ItemId, ports: ListId, profiles: ListId) {
        let Some(item) = self.items.get_mut(id) else {
            return;
        };
        let old_ports = std::mem::replace(&mut item.ports, ports);
        let old_profiles = std::mem::replace(&mut item.profiles, profiles);
        self.items.ports.release(old_ports);
        self.release_profiles(old_profiles);
    }

    fn acquire_profiles(&mut self, profiles: &[u32]) -> ListId {
        let (id, is_new) = self.profile_lists.acquire(profiles);
        if is_new {
            profiles
                .iter()
                .for_each(|number| self.profiles.list(*number, true));
        }
        id
    }

    fn release_profiles(&mut self, id: ListId) {
        if let Some(list) = self.profile_lists.release(id) {
            list.iter().for_each(|number| self.profiles.list(*number, false));
        }
    }

    /// Enters a local endpoint, whose labels and parents are in the buffers.
    fn put_local(&mut self, id: EndpointId, interface: Interface) {
        let profiles = interface.profiles.clone();
        let known = self.locals.find(&id);
        if let Some(known) = known.and_then(|number| self.locals.interface(number))
            && *known == interface
        {
            // Labels may differ all the same.
        } else {
            let before = known.and_then(|number| self.locals.interface(number));
            let before = before
                .map(|interface| interface.profiles.clone())
                .unwrap_or_default();
            profiles.iter().for_each(|number| self.employ(*number, true));
            before.iter().for_each(|number| self.employ(*number, false));
            self.locals.put(id.clone(), interface);
        }
        let Some(number) = self.locals.find(&id) else {
            return;
        };
        let labels = (self.labels.as_slice(), self.parents.as_slice());
        self.selection.set_local(
            &self.interner,
            number,
            labels,
            &mut self.policies,
            &mut self.locals,
        );
    }

    fn remove_local(&mut self, namespace: &str, name: &str) {
        let Some(number) = self.locals.find(&endpoint_id(namespace, name)) else {
            return;
        };
        let profiles = self
            .locals
            .interface(number)
            .map(|interface| interface.profiles.clone())
            .unwrap_or_default();
        self.selection
            .remove_local(&self.interner, number, &mut self.policies, &mut self.locals);
        profiles.iter().for_each(|number| self.employ(*number, false));
    }

    /// Says that a local endpoint names a profile, or no more. Only such profiles' labels are in the index of local
    /// endpoints.
    fn employ(&mut self, profile: u32, used: bool) {
        if self.profiles.employ(profile, used) {
            let parent = ParentId(profile);
            let labels = if used {
                self.atoms.index.parent_labels(parent)
            } else {
                &[]
            };
            self.selection.set_parent_labels(
                &self.interner,
                parent,
                labels,
                &mut self.policies,
                &mut self.locals,
            );
        }
    }

    /// Takes in a policy or profile.
    pub(crate) fn upsert_policy(&mut self, resource: &Resource) -> Result<(), Fault> {
        let id = policy_id(resource);
        let is_known = match id.kind {
            PolicyKind::Profile => self.profiles.find(&id.name).is_some(),
            PolicyKind::Namespaced | PolicyKind::Global => self.policies.find(&id).is_some(),
        };
        let compiled = match compile_policy(resource) {
            Ok(Some(compiled)) => compiled,
            Ok(None) => {
                // It became one for host endpoints alone.
                self.remove_policy(&id);
                return Ok(());
            }
            Err(invalid) => {
                let in_force = match self.faulty.get(&invalid.key) {
                    Some(Fault {
                        in_force: InForce::Closed,
                        ..
                    }) if is_known => InForce::Closed,
                    _ if is_known => InForce::LastValid,
                    _ => InForce::Nothing,
                };
                return Err(Fault {
                    key: invalid.key,
                    faults: invalid.faults,
                    in_force,
                });
            }
        };
        let fault = (!compiled.faults.is_empty()).then(|| {
            let key = resource.key();
            let was_valid = is_known
                && self
                    .faulty
                    .get(&key)
                    .is_none_or(|f| f.in_force != InForce::Closed);
            let in_force = match (resource.validate(), was_valid) {
                // A valid policy may say what cannot be enforced here; it is in force all the same.
                (Ok(()), _) => InForce::Partly,
                (Err(_), true) => InForce::LastValid,
                (Err(_), false) => InForce::Closed,
            };
            Fault {
                key,
                faults: compiled.faults,
                in_force,
            }
        });
        if fault
            .as_ref()
            .is_none_or(|fault| fault.in_force != InForce::LastValid)
        {
            match resource {
                Resource::Profile(profile) => {
                    self.put_profile(&profile.spec.labels_to_apply, compiled.policy);
                }
                _ => self.put_policy(compiled.policy),
            }
        }
        fault.map_or(Ok(()), Err)
    }

    fn put_policy(&mut self, mut policy: CompiledPolicy<AddressSet>) {
        let selector = self.selection.enter(&mut self.interner, &mut policy.selector);
        let known = self.policies.find(&policy.id);
        if known.is_some_and(|number| self.policies.has_same_subject(number, &policy, selector)) {
            self.policies.put(policy, selector);
            return;
        }
        if let Some(number) = known {
            self.unlink_policy(number, selector);
        }
        let number = self.policies.put(policy, selector);
        self.selection
            .add_policy(selector, number, &mut self.policies, &mut self.locals);
    }

    pub(crate) fn remove_policy(&mut self, id: &PolicyId) {
        let Some(number) = self.policies.find(id) else {
            return;
        };
        if let Some(selector) = self.policies.get(number).map(|record| record.selector) {
            self.selection
                .remove_policy(selector, number, &mut self.policies, &mut self.locals);
            self.selection.leave(&self.interner, selector);
        }
        self.policies.remove(number);
    }

    /// Takes a policy from its endpoints before it gets another place, and forgets its selector unless it is `next`.
    fn unlink_policy(&mut self, number: u32, next: policy_model_selector::index::SelectorId) {
        let Some(selector) = self.policies.get(number).map(|record| record.selector) else {
            return;
        };
        self.selection
            .remove_policy(selector, number, &mut self.policies, &mut self.locals);
        if selector != next {
            self.selection.leave(&self.interner, selector);
        }
    }

    fn put_profile(
        &mut self,
        labels: &std::collections::BTreeMap<String, String>,
        policy: CompiledPolicy<AddressSet>,
    ) {
        let number = self.profiles.number_of(&policy.id.name);
        self.labels.clear();
        for (key, value) in labels {
            let label = (self.interner.intern(key), self.interner.intern(value));
            self.labels.push(label);
        }
        self.set_profile_labels(number);
        self.profiles.put(number, policy);
    }

    pub(crate) fn remove_profile(&mut self, name: &str) {
        let Some(number) = self.profiles.find(name) else {
            return;
        };
        self.labels.clear();
        self.set_profile_labels(number);
        self.profiles.remove(number);
    }

    /// Gives a profile the labels in the buffer.
    fn set_profile_labels(&mut self, number: u32) {
        let parent = ParentId(number);
        self.atoms
            .set_parent_labels(&self.interner, &self.items, parent, &self.labels);
        if self.profiles.is_used(number) {
            let labels = self.labels.as_slice();
            self.selection.set_parent_labels(
                &self.interner,
                parent,
                labels,
                &mut self.policies,
                &mut self.locals,
            );
        }
    }
}

fn endpoint_id(namespace: &str, name: &str) -> EndpointId {
    EndpointId {
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn policy_id(resource: &Resource) -> PolicyId {
    let metadata = resource.metadata();
    match resource.kind() {
        Kind::NetworkPolicy => PolicyId::namespaced(&metadata.namespace, &metadata.name),
        Kind::Profile => PolicyId::profile(&metadata.name),
        _ => PolicyId::global(&metadata.name),
    }
}

/// The hardware address of an endpoint without faults.
///
/// Names were checked where the object was read; there are too many endpoints to check what is enforced of none
/// again for each.
fn faults_of(metadata: &Metadata, spec: &WorkloadEndpointSpec) -> Result<Option<[u8; 6]>, Vec<FieldError>> {
    let mut faults = Vec::new();
    for (field, text) in [
        ("metadata.namespace", &metadata.namespace),
        ("metadata.name", &metadata.name),
    ] {
        if text.is_empty() {
            faults.push(FieldError::new(field, "is missing"));
        }
    }
    for (n, net) in spec
        .ip_networks
        .iter()
        .enumerate()
        .filter(|(_, net)| !is_address(net))
    {
        faults.push(FieldError::new(
            format!("spec.ipNetworks[{n}]"),
            format!("{net} is not a single address"),
        ));
    }
    let bad = |b: u8| b == b'/' || b.is_ascii_whitespace() || b.is_ascii_control() || b == b':';
    let interface = &spec.interface_name;
    if interface.len() > 15 || interface.bytes().any(bad) || matches!(interface.as_str(), "." | "..") {
        faults.push(FieldError::new(
            "spec.interfaceName",
            format!("'{interface}' is no interface name"),
        ));
    }
    let mac = if spec.mac.is_empty() {
        None
    } else {
        parse_mac(&spec.mac)
    };
    if mac.is_none() && !spec.mac.is_empty() {
        faults.push(FieldError::new(
            "spec.mac",
            format!("'{}' is no hardware address", spec.mac),
        ));
    }
    if faults.is_empty() { Ok(mac) } else { Err(faults) }
}

/// Six pairs of hexadecimal digits between colons or hyphens.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts
            .next()
            .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}
