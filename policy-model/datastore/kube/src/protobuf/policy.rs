//! Kubernetes' policies, of which every field is needed.

use super::{Fields, Malformed, Value, meta};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A policy.
pub(crate) fn network_policy(message: &[u8]) -> Result<NetworkPolicy, Malformed> {
    let mut policy = NetworkPolicy::default();
    Fields::of(message).each(|number, value| {
        match number {
            // The last applied form of the whole policy often stands in an annotation.
            1 => policy.metadata = meta::metadata_with(value, |_| false)?,
            2 => policy.spec = Some(spec(value)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(policy)
}

fn spec(value: Value<'_>) -> Result<NetworkPolicySpec, Malformed> {
    let mut spec = NetworkPolicySpec::default();
    value.fields()?.each(|number, value| {
        match number {
            1 => spec.pod_selector = Some(meta::selector(value)?),
            2 => {
                let (ports, from) = rule(value)?;
                let rule = NetworkPolicyIngressRule { from, ports };
                spec.ingress.get_or_insert_default().push(rule);
            }
            3 => {
                let (ports, to) = rule(value)?;
                let rule = NetworkPolicyEgressRule { ports, to };
                spec.egress.get_or_insert_default().push(rule);
            }
            4 => spec.policy_types.get_or_insert_default().push(value.string()?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(spec)
}

/// The ports and peers of a rule; the numbers are the same in both directions.
type Rule = (Option<Vec<NetworkPolicyPort>>, Option<Vec<NetworkPolicyPeer>>);

fn rule(value: Value<'_>) -> Result<Rule, Malformed> {
    let (mut ports, mut peers): Rule = (None, None);
    value.fields()?.each(|number, value| {
        match number {
            1 => ports.get_or_insert_default().push(port(value)?),
            2 => peers.get_or_insert_default().push(peer(value)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok((ports, peers))
}

fn port(value: Value<'_>) -> Result<NetworkPolicyPort, Malformed> {
    let mut port = NetworkPolicyPort::default();
    value.fields()?.each(|number, value| {
        match number {
            1 => port.protocol = value.text()?,
            2 => port.port = Some(number_or_name(value)?),
            3 => port.end_port = Some(value.int()?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(port)
}

fn number_or_name(value: Value<'_>) -> Result<IntOrString, Malformed> {
    let (mut is_name, mut port, mut name) = (false, 0, String::new());
    value.fields()?.each(|number, value| {
        match number {
            1 => is_name = value.number()? == 1,
            2 => port = value.int()?,
            3 => name = value.string()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(if is_name {
        IntOrString::String(name)
    } else {
        IntOrString::Int(port)
    })
}

fn peer(value: Value<'_>) -> Result<NetworkPolicyPeer, Malformed> {
    let mut peer = NetworkPolicyPeer::default();
    value.fields()?.each(|number, value| {
        match number {
            1 => peer.pod_selector = Some(meta::selector(value)?),
            2 => peer.namespace_selector = Some(meta::selector(value)?),
            3 => peer.ip_block = Some(block(value)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(peer)
}

fn block(value: Value<'_>) -> Result<IPBlock, Malformed> {
    let mut block = IPBlock::default();
    value.fields()?.each(|number, value| {
        match number {
            1 => block.cidr = value.string()?,
            2 => block.except.get_or_insert_default().push(value.string()?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(block)
}
