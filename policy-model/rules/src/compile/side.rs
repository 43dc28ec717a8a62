//! One side of a rule: its fields gathered into few sets.

use super::{Namespace, ports, selector};
use crate::rule::{PortMatch, RuleSide, Side};
use crate::set::AddressSet;
use ipnet::IpNet;
use policy_model::{EntityRule, FieldError, Protocol, ServiceMatch};
use policy_model_selector::Selector;
use std::fmt::Display;

/// Compiles a side. `namespace` is that of the policy, if it has one.
pub(super) fn compile(
    at: &dyn Display,
    written: &EntityRule,
    which: RuleSide,
    protocol: Option<Protocol>,
    namespace: Option<&Namespace<'_>>,
) -> Result<Side<AddressSet>, FieldError> {
    let mut side = Side::default();
    let mut selected = positive(at, written, namespace)?;
    if !written.not_selector.is_empty() {
        let excluded = selector::endpoints(&format_args!("{at}.notSelector"), &written.not_selector)?;
        match &mut selected {
            // Among known endpoints, those that are not excluded: one set instead of two.
            Some(selected) => *selected = selected.and(&excluded.not()),
            // Alone it matches everything that is not excluded, addresses outside of the cluster too, and these are
            // in no set of endpoints.
            None => side.not_sets.push(AddressSet::Selected(excluded)),
        }
    }
    if let Some(selected) = &selected {
        side.sets.push(AddressSet::Selected(selected.clone()));
    }
    if !written.nets.is_empty() {
        side.sets.push(AddressSet::Nets(networks(&written.nets)));
    }
    if !written.not_nets.is_empty() {
        side.not_sets.push(AddressSet::Nets(networks(&written.not_nets)));
    }
    let bearers = selected.unwrap_or_else(Selector::all);
    side.ports = ports::compile(&format_args!("{at}.ports"), &written.ports, protocol, &bearers)?;
    side.not_ports = ports::compile(
        &format_args!("{at}.notPorts"),
        &written.not_ports,
        protocol,
        &bearers,
    )?;
    if let Some(service) = &written.services {
        add_service(at, service, which, namespace, &mut side)?;
    }
    Ok(side)
}

/// What the positive selectors of a side select together, or `None` where none is written: then any address will do.
///
/// In a policy of a namespace they look into that namespace, unless they name others.
fn positive(
    at: &dyn Display,
    written: &EntityRule,
    namespace: Option<&Namespace<'_>>,
) -> Result<Option<Selector>, FieldError> {
    let accounts = written
        .service_accounts
        .as_ref()
        .filter(|a| !a.names.is_empty() || !a.selector.is_empty());
    let mut parts = Vec::new();
    if !written.namespace_selector.is_empty() {
        parts.push(selector::namespaces(
            &format_args!("{at}.namespaceSelector"),
            &written.namespace_selector,
        )?);
    } else if let Some(namespace) = namespace
        && !(written.selector.is_empty() && written.not_selector.is_empty() && accounts.is_none())
    {
        parts.push(namespace.endpoints.clone());
    }
    if !written.selector.is_empty() {
        parts.push(selector::endpoints(
            &format_args!("{at}.selector"),
            &written.selector,
        )?);
    }
    if let Some(accounts) = accounts {
        if !accounts.names.is_empty() {
            parts.push(selector::of_service_accounts(&accounts.names));
        }
        if !accounts.selector.is_empty() {
            parts.push(selector::service_accounts(
                &format_args!("{at}.serviceAccounts.selector"),
                &accounts.selector,
            )?);
        }
    }
    Ok(parts.into_iter().reduce(|all, part| all.and(&part)))
}

/// Without host bits, sorted, none twice.
fn networks(nets: &[IpNet]) -> Vec<IpNet> {
    let mut nets: Vec<IpNet> = nets.iter().map(IpNet::trunc).collect();
    nets.sort_unstable();
    nets.dedup();
    nets
}

/// A Service as a destination is its endpoints on its ports; as a source its endpoints on any.
fn add_service(
    at: &dyn Display,
    service: &ServiceMatch,
    which: RuleSide,
    namespace: Option<&Namespace<'_>>,
    side: &mut Side<AddressSet>,
) -> Result<(), FieldError> {
    let namespace = match (service.namespace.as_str(), namespace) {
        ("", Some(own)) => own.name,
        ("", None) => return Err(FieldError::new(format!("{at}.services.namespace"), "is missing")),
        (written, _) => written,
    };
    let with_ports = which == RuleSide::Destination;
    let set = AddressSet::Service {
        namespace: namespace.to_string(),
        name: service.name.clone(),
        with_ports,
    };
    if with_ports {
        match &mut side.ports {
            Some(ports) => ports.named.push(set),
            none => {
                let ranges = Vec::new();
                let named = vec![set];
                *none = Some(Box::new(PortMatch { ranges, named }));
            }
        }
    } else {
        side.sets.push(set);
    }
    Ok(())
}
