//! Pods: where they run, as whom, with which addresses and ports.

use super::{Fields, Malformed, Value, meta};
use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodIP, PodSpec, PodStatus};

/// A pod, with what its endpoint is made of.
pub(crate) fn pod(message: &[u8]) -> Result<Pod, Malformed> {
    let mut pod = Pod::default();
    Fields::of(message).each(|number, value| {
        match number {
            1 => pod.metadata = meta::metadata(value)?,
            2 => pod.spec = Some(spec(value)?),
            3 => pod.status = Some(status(value)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(pod)
}

fn spec(value: Value<'_>) -> Result<PodSpec, Malformed> {
    let mut spec = PodSpec::default();
    value.fields()?.each(|number, value| {
        match number {
            2 => spec.containers.push(container(value)?),
            8 => spec.service_account_name = value.text()?,
            9 => spec.service_account = value.text()?,
            10 => spec.node_name = value.text()?,
            11 => spec.host_network = Some(value.bool()?),
            20 => spec
                .init_containers
                .get_or_insert_default()
                .push(container(value)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(spec)
}

fn container(value: Value<'_>) -> Result<Container, Malformed> {
    let mut container = Container::default();
    value.fields()?.each(|number, value| {
        match number {
            6 => container.ports.get_or_insert_default().push(port(value)?),
            24 => container.restart_policy = value.text()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(container)
}

fn port(value: Value<'_>) -> Result<ContainerPort, Malformed> {
    let mut port = ContainerPort::default();
    value.fields()?.each(|number, value| {
        match number {
            1 => port.name = value.text()?,
            2 => port.host_port = Some(value.int()?),
            3 => port.container_port = value.int()?,
            4 => port.protocol = value.text()?,
            5 => port.host_ip = value.text()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(port)
}

fn status(value: Value<'_>) -> Result<PodStatus, Malformed> {
    let mut status = PodStatus::default();
    value.fields()?.each(|number, value| {
        match number {
            1 => status.phase = value.text()?,
            6 => status.pod_ip = value.text()?,
            12 => {
                let mut ip = PodIP::default();
                value.fields()?.each(|number, value| {
                    if number == 1 {
                        ip.ip = value.string()?;
                    }
                    Ok(())
                })?;
                status.pod_ips.get_or_insert_default().push(ip);
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(status)
}
