//! Namespaces, service accounts, nodes and endpoint slices.

use super::{Fields, Malformed, Value, meta};
use k8s_openapi::api::core::v1::{Namespace, Node, NodeAddress, NodeSpec, NodeStatus, ServiceAccount};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

fn metadata(message: &[u8]) -> Result<ObjectMeta, Malformed> {
    let mut metadata = ObjectMeta::default();
    Fields::of(message).each(|number, value| {
        if number == 1 {
            metadata = meta::metadata(value)?;
        }
        Ok(())
    })?;
    Ok(metadata)
}

/// A namespace: its labels.
pub(crate) fn namespace(message: &[u8]) -> Result<Namespace, Malformed> {
    Ok(Namespace {
        metadata: metadata(message)?,
        ..Namespace::default()
    })
}

/// A service account: its labels.
pub(crate) fn service_account(message: &[u8]) -> Result<ServiceAccount, Malformed> {
    Ok(ServiceAccount {
        metadata: metadata(message)?,
        ..ServiceAccount::default()
    })
}

/// A node: its labels, annotations, addresses and ranges for pods; not its images and conditions, which are most of it.
pub(crate) fn node(message: &[u8]) -> Result<Node, Malformed> {
    let mut node = Node::default();
    Fields::of(message).each(|number, value| {
        match number {
            1 => node.metadata = meta::metadata(value)?,
            2 => value.fields()?.each(|number, value| {
                let spec = node.spec.get_or_insert_with(NodeSpec::default);
                match number {
                    1 => spec.pod_cidr = value.text()?,
                    7 => spec.pod_cidrs.get_or_insert_default().push(value.string()?),
                    _ => {}
                }
                Ok(())
            })?,
            3 => value.fields()?.each(|number, value| {
                if number == 5 {
                    let status = node.status.get_or_insert_with(NodeStatus::default);
                    status.addresses.get_or_insert_default().push(address(value)?);
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(node)
}

fn address(value: Value<'_>) -> Result<NodeAddress, Malformed> {
    let mut address = NodeAddress::default();
    value.fields()?.each(|number, value| {
        match number {
            1 => address.type_ = value.string()?,
            2 => address.address = value.string()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(address)
}

/// An endpoint slice: addresses that are ready, and ports.
pub(crate) fn endpoint_slice(message: &[u8]) -> Result<EndpointSlice, Malformed> {
    let mut slice = EndpointSlice::default();
    Fields::of(message).each(|number, value| {
        match number {
            1 => slice.metadata = meta::metadata(value)?,
            2 => slice.endpoints.get_or_insert_default().push(endpoint(value)?),
            3 => slice.ports.get_or_insert_default().push(port(value)?),
            4 => slice.address_type = value.string()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(slice)
}

fn endpoint(value: Value<'_>) -> Result<Endpoint, Malformed> {
    let mut endpoint = Endpoint::default();
    value.fields()?.each(|number, value| {
        match number {
            1 => endpoint.addresses.push(value.string()?),
            2 => value.fields()?.each(|number, value| {
                if number == 1 {
                    endpoint
                        .conditions
                        .get_or_insert_with(EndpointConditions::default)
                        .ready = Some(value.bool()?);
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(endpoint)
}

fn port(value: Value<'_>) -> Result<EndpointPort, Malformed> {
    let mut port = EndpointPort::default();
    value.fields()?.each(|number, value| {
        match number {
            1 => port.name = Some(value.string()?),
            2 => port.protocol = Some(value.string()?),
            3 => port.port = Some(value.int()?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(port)
}
