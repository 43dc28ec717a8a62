//! Pods: where they run, as whom, with which addresses and ports.

use super::{Fields, Malformed, Value, meta};
use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodIP, PodSpec, PodStatus};
use policy_model_kubernetes::is_pod_annotation;

/// A pod, with what its endpoint is made of. It is filled where it lies: with all the fields that stay empty it is large,
/// and there are many.
pub(crate) fn pod(message: &[u8]) -> Result<Box<Pod>, Malformed> {
    let mut pod: Box<Pod> = Box::default();
    Fields::of(message).each(|number, value| {
        match number {
            1 => pod.metadata = meta::metadata_with(value, is_pod_annotation)?,
            2 => spec(value, pod.spec.get_or_insert_default())?,
            3 => status(value, pod.status.get_or_insert_default())?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(pod)
}

fn spec(value: Value<'_>, spec: &mut PodSpec) -> Result<(), Malformed> {
    value.fields()?.each(|number, value| {
        match number {
            2 => container(value, &mut spec.containers)?,
            8 => spec.service_account_name = value.text()?,
            9 => spec.service_account = value.text()?,
            10 => spec.node_name = value.text()?,
            11 => spec.host_network = Some(value.bool()?),
            20 => container(value, spec.init_containers.get_or_insert_default())?,
            _ => {}
        }
        Ok(())
    })
}

/// Adds a container, if it declares ports: nothing else of one is needed, and most of a pod's memory would be theirs.
fn container(value: Value<'_>, containers: &mut Vec<Container>) -> Result<(), Malformed> {
    let (mut ports, mut restart_policy) = (Vec::new(), None);
    value.fields()?.each(|number, value| {
        match number {
            6 => ports.push(port(value)?),
            24 => restart_policy = value.text()?,
            _ => {}
        }
        Ok(())
    })?;
    if !ports.is_empty() {
        containers.push(Container {
            ports: Some(ports),
            restart_policy,
            ..Container::default()
        });
    }
    Ok(())
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

fn status(value: Value<'_>, status: &mut PodStatus) -> Result<(), Malformed> {
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
    })
}
