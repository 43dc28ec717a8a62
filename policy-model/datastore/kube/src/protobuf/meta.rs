//! What every object has, and selectors.

use super::{Fields, Malformed, Value};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta};
use std::collections::BTreeMap;

/// The metadata of the object in this message: field 1 of each that is read here.
pub(super) fn metadata(value: Value<'_>) -> Result<ObjectMeta, Malformed> {
    metadata_with(value, |_| true)
}

/// The same with only those annotations of which `wanted` says yes. Others may be as large as the object itself.
pub(super) fn metadata_with(value: Value<'_>, wanted: fn(&str) -> bool) -> Result<ObjectMeta, Malformed> {
    let mut meta = ObjectMeta::default();
    value.fields()?.each(|number, value| {
        match number {
            1 => meta.name = value.text()?,
            3 => meta.namespace = value.text()?,
            5 => meta.uid = value.text()?,
            6 => meta.resource_version = value.text()?,
            11 => entry(value, meta.labels.get_or_insert_default())?,
            12 => {
                let (key, text) = pair(value)?;
                if wanted(key) {
                    let annotations = meta.annotations.get_or_insert_default();
                    annotations.insert(key.to_owned(), text.to_owned());
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(meta)
}

/// An entry of a map of texts.
pub(super) fn entry(value: Value<'_>, map: &mut BTreeMap<String, String>) -> Result<(), Malformed> {
    let (key, text) = pair(value)?;
    map.insert(key.to_owned(), text.to_owned());
    Ok(())
}

fn pair(value: Value<'_>) -> Result<(&str, &str), Malformed> {
    let (mut key, mut text) = ("", "");
    value.fields()?.each(|number, value| {
        match number {
            1 => key = value.str()?,
            2 => text = value.str()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((key, text))
}

pub(super) fn selector(value: Value<'_>) -> Result<LabelSelector, Malformed> {
    let mut selector = LabelSelector::default();
    value.fields()?.each(|number, value| {
        match number {
            1 => entry(value, selector.match_labels.get_or_insert_default())?,
            2 => selector
                .match_expressions
                .get_or_insert_default()
                .push(requirement(value.fields()?)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(selector)
}

fn requirement(fields: Fields<'_>) -> Result<LabelSelectorRequirement, Malformed> {
    let mut requirement = LabelSelectorRequirement::default();
    fields.each(|number, value| {
        match number {
            1 => requirement.key = value.string()?,
            2 => requirement.operator = value.string()?,
            3 => requirement.values.get_or_insert_default().push(value.string()?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(requirement)
}
