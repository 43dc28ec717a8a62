//! What surrounds objects: the envelope of an answer, lists, events of a watch, and refusals.

use super::{Fields, Malformed, Value};
use crate::failure::{Cause, Details, Refusal};

/// What every answer in this form begins with.
const MAGIC: &[u8] = b"k8s\0";

/// A list, its items not read yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct List<'a> {
    pub(crate) revision: &'a str,
    pub(crate) items: Vec<&'a [u8]>,
}

/// An event of a watch, its object not read yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event<'a> {
    pub(crate) kind: &'a str,
    /// The object, out of its envelope.
    pub(crate) object: &'a [u8],
}

/// The object in an envelope.
pub(crate) fn object(answer: &[u8]) -> Result<&[u8], Malformed> {
    let mut object = None;
    Fields::of(answer.strip_prefix(MAGIC).ok_or(Malformed)?).each(|number, value| {
        if number == 2 {
            object = Some(value.bytes()?);
        }
        Ok(())
    })?;
    Ok(object.unwrap_or_default())
}

/// A list in an envelope.
pub(crate) fn list(answer: &[u8]) -> Result<List<'_>, Malformed> {
    let mut list = List::default();
    Fields::of(object(answer)?).each(|number, value| {
        match number {
            1 => value.fields()?.each(|number, value| {
                if number == 2 {
                    list.revision = value.str()?;
                }
                Ok(())
            })?,
            2 => list.items.push(value.bytes()?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(list)
}

/// An event of a watch. The event itself has no envelope; its object has one.
pub(crate) fn event(frame: &[u8]) -> Result<Event<'_>, Malformed> {
    let mut event = Event::default();
    Fields::of(frame).each(|number, value| {
        match number {
            1 => event.kind = value.str()?,
            2 => value.fields()?.each(|number, value| {
                if number == 1 {
                    event.object = object(value.bytes()?)?;
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(event)
}

/// A refusal, out of its envelope.
pub(crate) fn refusal(object: &[u8]) -> Result<Refusal, Malformed> {
    let mut refusal = Refusal::default();
    Fields::of(object).each(|number, value| {
        match number {
            3 => refusal.message = value.string()?,
            4 => refusal.reason = value.string()?,
            5 => refusal.details = Some(details(value)?),
            6 => refusal.code = u16::try_from(value.number()?).map_err(|_| Malformed)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(refusal)
}

fn details(value: Value<'_>) -> Result<Details, Malformed> {
    let mut details = Details::default();
    value.fields()?.each(|number, value| {
        match number {
            3 => details.kind = value.string()?,
            4 => {
                let mut cause = Cause::default();
                value.fields()?.each(|number, value| {
                    match number {
                        2 => cause.message = value.string()?,
                        3 => cause.field = value.string()?,
                        _ => {}
                    }
                    Ok(())
                })?;
                details.causes.push(cause);
            }
            5 => details.retry_after_seconds = u32::try_from(value.number()?).unwrap_or(0),
            _ => {}
        }
        Ok(())
    })?;
    Ok(details)
}
