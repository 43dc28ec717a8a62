//! Reads Kubernetes' binary form: the fields that are needed, by their numbers, and passes over all others.
//!
//! A pod of 1,800 bytes has some 300 that anybody here needs. A reader made for all of a pod's messages would build the
//! rest only to drop it; this one never looks at it. The numbers are those of Kubernetes' published `generated.proto`
//! files, which never change. Texts that are empty count as absent, as they do in the JSON form.

mod cluster;
mod envelope;
mod meta;
mod pod;
mod policy;

pub(crate) use cluster::{endpoint_slice, namespace, node, service_account};
pub(crate) use envelope::{event, list, object, refusal};
pub(crate) use pod::pod;
pub(crate) use policy::network_policy;

/// Bytes that are no message of this form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the binary form is cut off or broken")]
pub(crate) struct Malformed;

/// The fields of a message, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(&'a [u8]);

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// A number, or a truth value.
    Number(u64),
    /// A text, bytes, or a message.
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Fields(message)
    }

    /// Gives each field with its number to a closure.
    fn each(
        mut self,
        mut take: impl FnMut(u32, Value<'a>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        while let Some((number, value)) = self.next()? {
            take(number, value)?;
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Malformed)?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Bytes(self.take(8)?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Bytes(self.take(4)?),
            // Groups are not used by Kubernetes, and nothing else exists.
            _ => return Err(Malformed),
        };
        Ok(Some((number, value)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0u64;
        for (n, byte) in self.0.iter().enumerate().take(10) {
            number |= u64::from(byte & 0x7f) << (7 * n);
            if byte & 0x80 == 0 {
                self.0 = self.0.get(n + 1..).ok_or(Malformed)?;
                return Ok(number);
            }
        }
        Err(Malformed)
    }
}

impl<'a> Value<'a> {
    fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Number(_) => Err(Malformed),
        }
    }

    fn fields(self) -> Result<Fields<'a>, Malformed> {
        self.bytes().map(Fields)
    }

    fn str(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    fn string(self) -> Result<String, Malformed> {
        self.str().map(str::to_owned)
    }

    /// A text that is absent where it is empty.
    fn text(self) -> Result<Option<String>, Malformed> {
        let text = self.str()?;
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    fn number(self) -> Result<u64, Malformed> {
        match self {
            Value::Number(number) => Ok(number),
            Value::Bytes(_) => Err(Malformed),
        }
    }

    /// A number of 32 bits with a sign, which is sent as one of 64.
    fn int(self) -> Result<i32, Malformed> {
        let number = self.number()?.cast_signed();
        i32::try_from(number).map_err(|_| Malformed)
    }

    fn bool(self) -> Result<bool, Malformed> {
        self.number().map(|number| number != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_of_every_form_are_read_or_passed_over() {
        let message = [
            0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8,
        ];
        let mut fields = Fields::of(&message);
        assert_eq!(fields.next(), Ok(Some((1, Value::Number(150)))));
        assert_eq!(fields.next(), Ok(Some((2, Value::Bytes(b"hi")))));
        assert_eq!(fields.next(), Ok(Some((3, Value::Bytes(&[1, 2, 3, 4])))));
        assert_eq!(
            fields.next(),
            Ok(Some((4, Value::Bytes(&[1, 2, 3, 4, 5, 6, 7, 8]))))
        );
        assert_eq!(fields.next(), Ok(None));
        for broken in [&[0x08][..], &[0x12, 5, 1], &[0x0b], &[0x80; 11], &[0x1d, 1]] {
            assert_eq!(Fields::of(broken).next(), Err(Malformed), "{broken:?}");
        }
        // A negative number of 32 bits.
        let minus_one = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        let (_, value) = Fields::of(&minus_one)
            .next()
            .unwrap_or(None)
            .unwrap_or((0, Value::Number(0)));
        assert_eq!(value.int(), Ok(-1));
    }

    proptest! {
        /// Whatever comes over the wire, reading it ends and brings nothing down.
        #[test]
        fn no_bytes_bring_the_readers_down(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (pod(&bytes), network_policy(&bytes), namespace(&bytes), service_account(&bytes));
            let _ = (node(&bytes), endpoint_slice(&bytes), event(&bytes), list(&bytes), refusal(&bytes));
        }
    }
}
